"""Runs cases from real life and prints what was got beside what is right.

usage: cases.py --cases FOLDER [CASE ...] [--out FILE.md]

Each folder in FOLDER is a case: `cmd.txt` says how it is run (in bash: $S is `scotopic`, $P Python, OUT a new folder, PROJECT the checkout),
`expected.txt` what a right program does. Expectations are prose; for the cases named in `RIGHT` what must be in the output, and what must not,
is compared here as well, and the exit code is 1 if one of them is wrong. A traceback is wrong everywhere.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import NamedTuple

from machine import machine

ROOT = Path(__file__).parent.parent
LONGEST_S = 900
TRACEBACK = "Traceback (most recent call last)"


class Right(NamedTuple):
    """Patterns of a right output; all of `has` are found in it and none of `lacks`."""

    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


RIGHT = {
    "12bit-saturated": Right(has=("saturated", r"False")),
    "8bit-camera": Right(has=(r"saturation_counts",), lacks=("acquisition completed",)),
    "camera-turned-90": Right(has=(r"turn|quarter",)),
    "cut-by-padding": Right(has=(r"^2 of 2",)),
    "dark-8bit": Right(has=(r"3 sites, \d+ nuclei", r"saturation_counts: 65535"), lacks=("not fit to learn from",)),
    "dna-debris": Right(has=(r"\b(9[7-9]\d|10[0-2]\d)\b|debris",), lacks=("one peak only",)),
    "dna-late-s": Right(has=("spread|evenly|true",)),
    "dots-in-names": Right(has=(r"2 images?|2024\.05\.06_A1",), lacks=("more than one image",)),
    "export-empty-well": Right(has=(r"B3|B03",), lacks=("not found",)),
    "fibre": Right(has=(r"True|False",)),
    "group-misspelt": Right(has=(r"did you mean '?Channels",)),
    "hidden-spaces-group": Right(has=(r"'  Channel'",)),
    "incucyte-time": Right(has=(r"00d06h40m",)),
    "list-from-a-spreadsheet": Right(has=(r"6 images",)),
    "lzw-tiff": Right(has=("30",), lacks=("imagecodecs",)),
    "many-labels": Right(has=(r"70225|error",)),
    "mask-as-image": Right(has=(r"error",)),
    "mmstack-positions": Right(has=(r"B2-Site_0", r"B3-Site_0", r"C2-Site_0"), lacks=("are both",)),
    "no-channel-group": Right(lacks=("Traceback",)),
    "no-lines-there": Right(has=(r"True",), lacks=("defective camera lines",)),
    "ome-channel-names": Right(has=(r"6 (images|frames)|3 sites",), lacks=("error",)),
    "one-bad-file": Right(has=(r"A2\.tif", r"nuclei\.csv", r"quality\.csv")),
    "preset-binning": Right(has=(r"256|Binning",), lacks=("acquisition completed",)),
    "preset-opens-another-shutter": Right(has=("DiaShutter",)),
    "preset-opens-shutter": Right(has=("LOOK",)),
    "preset-other-focus-plane": Right(has=("Piezo",)),
    "preset-other-shutter": Right(has=("LaserShutter",)),
    "projection-above-stack": Right(has=(r"ZStep_",)),
    "rgb-camera": Right(has=(r"colour|components",), lacks=("acquisition completed",)),
    "sites-numbered-through": Right(lacks=("SiteGrid",)),
    "software-gating-settles-lit": Right(has=(r"settle_ms|LOOK",)),
    "zstack-reference-plane": Right(has=(r"B2_0",)),
}
"""What can be told by patterns; what the masks and numbers are like is to be read."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("only", nargs="*", metavar="CASE")
    parser.add_argument("--out", type=Path, help="where it is written as well")
    asked = parser.parse_args()
    folders = [
        path.parent
        for path in sorted(asked.cases.glob("*/cmd.txt"))
        if not asked.only or path.parent.name in asked.only
    ]
    parts, wrong = [f"# {machine()}"], []
    for folder in folders:
        begun = time.monotonic()
        got = output(folder)
        outcome = judged(folder.name, got)
        wrong += [folder.name] if outcome.startswith("WRONG") else []
        print(f"{folder.name:<30} {time.monotonic() - begun:6.1f} s  {outcome}", flush=True)
        parts.append(beside(folder, got, outcome))
    text = "\n\n".join(parts)
    if asked.out is not None:
        asked.out.write_text(text + "\n", encoding="utf-8")
    else:
        print(text)
    print(f"{len(folders)} cases, {len(wrong)} wrong: {', '.join(wrong) or 'none'}")
    sys.exit(bool(wrong))


def output(folder: Path) -> str:
    """Run a case in a copy of its folder and return all that it printed, with the exit code of its last command."""
    with tempfile.TemporaryDirectory(prefix="case-") as place:
        work = Path(place) / folder.name
        shutil.copytree(folder, work)
        commands = (folder / "cmd.txt").read_text(encoding="utf-8").replace("PROJECT/", f"{ROOT.as_posix()}/")
        programs = Path(sys.executable).parent
        names = {"S": str(programs / "scotopic"), "P": sys.executable}
        try:
            done = subprocess.run(
                ["bash", "-c", commands],  # noqa: S607 - as the cases are written
                cwd=work,
                env={**os.environ, **names, "COLUMNS": "200"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=LONGEST_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"{TRACEBACK}: no end within {LONGEST_S} s"
        return f"{done.stdout}exit code {done.returncode}"


def judged(name: str, got: str) -> str:
    """Return `right`, `WRONG` with the reason, or that it is to be read."""
    if TRACEBACK in got:
        return "WRONG: a traceback"
    if (right := RIGHT.get(name)) is None:
        return "to be read"
    missing = [pattern for pattern in right.has if not re.search(pattern, got, re.MULTILINE)]
    present = [pattern for pattern in right.lacks if re.search(pattern, got, re.MULTILINE)]
    if missing or present:
        return "WRONG: " + "; ".join([*(f"lacks {each!r}" for each in missing), *(f"has {each!r}" for each in present)])
    return "right"


def beside(folder: Path, got: str, outcome: str) -> str:
    """Return a case as text: what is right, and what was got."""
    expected = (folder / "expected.txt").read_text(encoding="utf-8").strip()
    return f"## {folder.name}: {outcome}\n\nexpected:\n{textwrap.indent(expected, '    ')}\n\ngot:\n{textwrap.indent(got, '    ')}"


if __name__ == "__main__":
    main()
