"""Flips a byte of a finished run, anywhere in its folder, and looks at what every command makes of it.

usage: flips.py [--work DIR] [--flips 500] [--seed 1] [--only KIND]

A small run with live masks, reference masks, a model and a report is made once in DIR. For each flip it is copied, one byte
of one file is changed, and commands are run on the copy: `verify` each time, those that only read and those that write in turn. What a command gives - its exit code, words, tables, masks, pictures - is
compared with what it gives on the undamaged run.

Limits: no command ends with a traceback; none gives another result without a word on damage; no damage of a file that a
report rests on stays unnoticed unless its content is the same (a chunk that decodes to the same pixels, the end of a line).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import multiprocessing
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from machine import machine

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
MODEL = ROOT / "tests" / "data" / "model.safetensors"
PROFILE = ROOT / "hardware_configs" / "simulated.yaml"
LEVELS = (
    {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference"},
    {"name": "2%", "exposure_ms": 4, "led_percent": 100},
    {"name": "0.2%", "exposure_ms": 4, "led_percent": 10},
)
SETTINGS = {"wells": "B2:B4", "held_out": "B3", "sites": {"rows": 1, "columns": 1}, "light_levels": list(LEVELS)}
SETTINGS |= {"training": {"steps": 2, "threads": 1, "dtype": "float32", "least_f1": 0}, "live": {"levels": ["0.2%"]}}
ERRORS = "SCOTOPIC_FLIPS_ERRORS"
"""Environment variable: file with what is said as errors."""
DAMAGE = re.compile(r"damaged|cannot be trusted|cannot be read|checksum")
COLUMNS = (
    "flips",
    "verify says so",
    "refused in one line",
    "same content",
    "nothing rests on it",
    "TRACEBACKS",
    "USED WITHOUT A WORD",
)


@dataclass(frozen=True)
class Result:
    """What a command gave."""

    code: int
    said: str
    gave: str = ""
    """Hash of what it wrote or drew."""
    broke: str = ""
    """The last line of a traceback."""


# ---------------------------------------------------------------------- the commands


def cli(*words: object) -> Result:
    from typer.testing import CliRunner

    from scotopic.cli import app

    found = CliRunner().invoke(app, list(map(str, words)))
    error = found.exception
    broke = "" if error is None or isinstance(error, SystemExit) else "".join(traceback.format_exception(error))
    return Result(found.exit_code, found.output, broke=broke)


def function(call: Callable[[], object]) -> Result:
    """Run what is no command as the command line would: mistakes are a line."""
    from scotopic.protocol import ProblemsError

    try:
        return Result(0, "", digest(call()))
    except (ProblemsError, OSError, RuntimeError) as error:
        return Result(2, f"error: {error}")
    except Exception as error:
        return Result(1, "", broke="".join(traceback.format_exception(error)))


def digest(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True, default=str).encode()
    return hashlib.sha256(data).hexdigest()


def with_files(result: Result, folder: Path) -> Result:
    """Return a result with the hash of all files in a folder, without what differs from run to run."""
    found = {
        path.relative_to(folder).as_posix(): digest(timeless(path))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    return Result(result.code, result.said, digest(found), result.broke)


def timeless(path: Path) -> bytes:
    if path.suffix == ".json":
        values = json.loads(path.read_bytes())
        values = {key: value for key, value in values.items() if key not in {"seal", "timing"}}
        return json.dumps(values, sort_keys=True).encode()
    data = re.sub(rb"xxh3:[0-9a-f]{16}|flip_\d+|\d+\.\d+ ?m?s\b", b"", path.read_bytes())
    return re.sub(rb"[\w./-]*/run\b", b"", data)


def monitor(run: Path) -> Result:
    from scotopic.overnight.monitor.run_view import RunView

    view = RunView(run)
    told = view.snapshot()
    picture = function(view.field_png)
    said = "\n".join([str(told.get("message", "")), *told.get("stages", ()), picture.said])
    kept = {
        key: value for key, value in told.items() if key not in {"path", "message", "free_bytes", "report", "heartbeat"}
    }
    return Result(picture.code, said, digest([kept, picture.gave]), picture.broke)


def queue(run: Path) -> Result:
    from scotopic.overnight.watching import RunWatch

    events: list[str] = []
    result = function(lambda: events.extend(each.text for each in RunWatch(run, datetime.fromtimestamp(0, UTC)).look()))
    return Result(result.code, "\n".join([result.said, *events]), "", result.broke)


def view(run: Path) -> Result:
    from scotopic.workflow.viewing import served

    def opened() -> str:
        with served(run):
            return "served"

    return function(opened)


def watch(run: Path) -> Result:
    from scotopic.live.view import newest
    from scotopic.store import RunFolder

    def picture() -> list[Any] | None:
        found = newest(RunFolder(run))
        return None if found is None else [found[0], digest(found[1].tobytes())]

    return function(picture)


def notebook(run: Path) -> Result:
    import scotopic

    def read() -> list[Any]:
        opened = scotopic.open_run(run)
        sites = [
            [site.name, *(digest(site.image(level).tobytes()) for level in site.frames)] for site in opened.sites()
        ]
        return [sites, digest(opened.nuclei().to_csv().encode()), str(opened.latest_model and opened.latest_model.name)]

    return function(read)


def export(run: Path, source: str = "reference") -> Result:
    out = run.parent / "exported" / source
    return with_files(cli("export", run, "--out", out, "--source", source), out)


def protocol_from(run: Path) -> Result:
    out = run.parent / "next.yaml"
    result = cli("protocol", "from", run, "--out", out)
    return Result(result.code, result.said, digest(timeless(out)) if out.exists() else "", result.broke)


def segment(run: Path) -> Result:
    return with_files(cli("segment", run, "--reference", "--workers", 1), run / "nuclei")


def segment_with_model(run: Path) -> Result:
    out = run.parent / "segmented"
    return with_files(cli("segment", run, "--model", MODEL, "--light", "0.2%", "--out", out), out)


def validate(run: Path) -> Result:
    result = cli("validate", run)
    report = run / "report.json"
    return Result(result.code, result.said, digest(timeless(report)) if result.code < 2 else "", result.broke)


def train(run: Path) -> Result:
    """Train again; the weights are as repeatable as the model's name in the words is."""
    return cli("train", run, "--again", "--steps", 1)


def acquire(run: Path) -> Result:
    """Resume: nothing may be exposed again."""
    result = cli("acquire", run.parent.parent / "protocol.yaml", "--microscope", PROFILE, "--out", run)
    return Result(result.code, result.said, str((run / "frames.jsonl").read_bytes().count(b"\n")), result.broke)


def retake(run: Path) -> Result:
    result = cli("retake", run, "B2_0")
    return Result(result.code, result.said, str((run / "frames.jsonl").read_bytes().count(b"\n")), result.broke)


READING: dict[str, Callable[[Path], Result]] = {
    "verify": lambda run: cli("verify", run),
    "compare": lambda run: cli("compare", run),
    "export": export,
    "export live": partial(export, source="live"),
    "protocol from": protocol_from,
    "doctor": lambda run: cli("doctor", "--run", run),
    "ask": lambda run: cli("ask", run, "pause"),
    "model show": lambda run: cli("model", "show", next(each for each in (run / "models").glob("*.safetensors"))),
    "monitor": monitor,
    "queue": queue,
    "view": view,
    "watch": watch,
    "notebook": notebook,
}
WRITING: dict[str, Callable[[Path], Result]] = {
    "report": lambda run: with_page(cli("report", run), run),
    "validate": validate,
    "segment": segment,
    "acquire": acquire,
    "train": train,
    "retake": retake,
    "segment --model": segment_with_model,
}

_SHORT = ("segment", "retake", "validate", "segment", "retake", "acquire", "segment", "retake", "report")
TURNS = (*_SHORT, "segment --model", *_SHORT, "train")
"""Which of them comes after which; training takes longest."""
THIRDS = 3
"""A flip sees `verify`, a third of the other commands that only read, and each second one a command that writes."""


def with_page(result: Result, run: Path) -> Result:
    page = run / "report.html"
    return Result(result.code, result.said, digest(timeless(page)) if page.exists() else "", result.broke)


# ---------------------------------------------------------------------- the run


def make_run(work: Path) -> Path:
    """Return a small finished run with a file of each kind."""
    import yaml

    run = work / "pristine" / "run"
    if (run / "report.html").exists():
        return run
    shutil.rmtree(run.parent, ignore_errors=True)
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8")) | SETTINGS
    (work / "protocol.yaml").write_text(yaml.safe_dump(protocol), encoding="utf-8")
    words = (work / "protocol.yaml", "--microscope", PROFILE, "--out", run)
    for step in (
        cli("acquire", *words, "--model", MODEL),
        cli("train", run),
        cli("validate", run),
        recommended(run),
    ):
        if step.code not in {0, 1} or step.broke:
            raise RuntimeError(step.said + step.broke)
    return run


def recommended(run: Path) -> Result:
    """Let the report recommend a light: a network of two steps earns none, and `protocol from` needs one."""
    from scotopic.report import write_page
    from scotopic.report.schema import Judgement, Learned, Purpose, Recommendation
    from scotopic.store import RunFolder
    from scotopic.store.files import replace_text
    from scotopic.store.seals import sealed_json
    from scotopic.workflow.reporting import read_report

    judged = Judgement(name="2%", relative_dose=0.02, measured=True, verdict="within")
    found = {"level": "2%", "relative_dose": 0.02, "exposure_ms": 4.0, "led_percent": 100.0, "light_saving_factor": 50}
    purposes = {"each_nucleus": Purpose(outcome="level", tolerances={}, judgements=(judged,), **found)}
    learned = Learned(f1=0.95, least_f1=0.85, wells="held-out")
    advice = Recommendation(purpose="each_nucleus", purposes=purposes, confidence=0.95, learned=learned)
    report = read_report(run).model_copy(update={"recommendation": advice})
    replace_text(run / "report.json", sealed_json(report.model_dump(mode="json", by_alias=True)))
    write_page(RunFolder(run), report)
    return Result(0, "")


# ---------------------------------------------------------------------- the flips


def kind(path: Path) -> str:
    """Return what kind of file this is."""
    parts, name = path.parts, path.name
    if name == "run.log" or path.suffix in {".lock", ".owner"}:
        return "run.log, locks"
    if "plate.ome.zarr" in parts:
        what = "masks" if "labels" in parts else "images"
        if name != "zarr.json":
            return f"{what}: chunks"
        return f"{what}: metadata" if len(parts) > 4 or "labels" in parts else "plate and wells: metadata"
    if parts[0] == "nuclei":
        return "tables (" + path.suffix[1:] + ")" if path.suffix != ".jsonl" else "nuclei/reference/sites.jsonl"
    if parts[0] in {"status", "models"}:
        return f"{parts[0]}/*{path.suffix}"
    return name if path.suffix in {".jsonl", ".json", ".html"} else "protocol, profile, configuration"


def content(run: Path, path: Path) -> object:
    """Return what a file says, without how it is written; raise whatever comes if it says nothing."""
    import pandas as pd

    data = (run / path).read_bytes()
    if path.suffix == ".jsonl":
        return [each for each in map(json.loads, data.splitlines()) if each.pop("seal")]
    if path.suffix == ".json":
        values = json.loads(data)
        values.pop("seal", None)
        values.get("attributes", {}).pop("scotopic", None)
        return values
    if path.suffix == ".parquet":
        return pd.read_parquet(run / path).to_csv()
    if path.suffix == ".html":
        return re.sub(rb"<!--.*?-->", b"", data)
    if "c" in path.parts:
        import zarr

        return zarr.open_array(run.joinpath(*path.parts[: path.parts.index("c")]), mode="r")[:].tolist()
    return data


def same_content(pristine: Path, run: Path, path: Path) -> bool:
    try:
        return content(pristine, path) == content(run, path)
    except Exception:
        return False


def clean(result: Result, run: Path) -> Result:
    """Return a result without paths, times and what else differs from run to run."""
    said = result.said.replace(str(run.parent), "").replace(run.parent.name, "")
    said = re.sub(r"\d+(\.\d+)? (ms|s|min|h|GB)\b", "", said)
    said = "\n".join(
        line for line in said.splitlines() if not re.search(r"\bprocess \d|processors|\bport\b|https?:", line)
    )
    return Result(result.code, said, result.gave, result.broke)


def results_of(run: Path, commands: dict[str, Callable[[Path], Result]], name: str) -> Result:
    before = os.fstat(2).st_size
    try:
        found = clean(commands[name](run), run)
    except Exception as error:  # of this script's own reading, for example of a file that a command left damaged
        return Result(1, "", broke="".join(traceback.format_exception(error)))
    with Path(os.environ[ERRORS]).open("rb") as file:  # of processes that the command has begun
        file.seek(before)
        told = file.read().decode(errors="replace")
    return found if found.broke or "Traceback" not in told else replace(found, broke=told)


def begin(errors: Path) -> None:
    """Keep what this process, and those that it begins, say as errors: a traceback there is one too."""
    logging.disable()
    os.environ[ERRORS] = str(errors)
    file = os.open(errors, os.O_RDWR | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 2)


def copied(pristine: Path, number: int) -> Path:
    run = pristine.parent.parent / f"flip_{number:06d}" / "run"
    shutil.rmtree(run.parent, ignore_errors=True)
    return Path(shutil.copytree(pristine, run))


def undamaged(pristine: Path, number: int) -> dict[str, Result]:
    """Return what the commands give on the undamaged run."""
    found = {}
    run = copied(pristine, number)
    for name in READING:
        found[name] = results_of(run, READING, name)
    for name in WRITING:
        run = copied(pristine, number)
        found[name] = results_of(run, WRITING, name)
    shutil.rmtree(run.parent)
    return found


def flip(pristine: Path, expected: dict[str, Result], number: int, seed: int, only: str) -> tuple[str, str, list[str]]:
    """Change a byte, run the commands, and return the kind of file, what became of it, and the details."""
    rng = random.Random(f"{seed} {number}")  # noqa: S311 - not for secrets
    files = [
        path.relative_to(pristine) for path in sorted(pristine.rglob("*")) if path.is_file() and path.stat().st_size
    ]
    by_kind = defaultdict(list)
    for path in files:
        by_kind[kind(path)].append(path)
    chosen = only or rng.choice(sorted(by_kind))  # by kind first: nearly all bytes are pixels
    path = rng.choice(by_kind[chosen])
    writing = [TURNS[number // 2 % len(TURNS)]] if number % 2 == 0 else []
    found: dict[str, Result] = {}
    reading = ["verify", *(name for order, name in enumerate(READING) if order and (order + number) % THIRDS == 0)]
    data = bytearray((pristine / path).read_bytes())
    place = rng.randrange(len(data))
    data[place] = rng.choice([value for value in range(256) if value != data[place]])
    for names, commands in ((reading, READING), (writing, WRITING)):
        if names:
            run = copied(pristine, number)
            (run / path).write_bytes(data)
        for name in names:
            found[name] = results_of(run, commands, name)
    outcome, details = judged(pristine, run, path, chosen, found, expected)
    shutil.rmtree(run.parent)
    where = f"{path.as_posix()}, byte {place} = {data[place]}"
    return chosen, outcome, [f"{where}: {line}" for line in details]


def says_so(found: Result, expected: Result) -> bool:
    """Return whether a result is refused in a line, or has a word on damage that the undamaged run does not have."""
    refused = found.code > expected.code and "error: " in found.said
    return refused or bool(DAMAGE.search(found.said.replace(expected.said, "")))


def judged(
    pristine: Path, run: Path, path: Path, chosen: str, found: dict[str, Result], expected: dict[str, Result]
) -> tuple[str, list[str]]:
    broken = [f"{name}: {each.broke.strip()}" for name, each in found.items() if each.broke]
    if broken:
        return "TRACEBACKS", broken
    used = [
        f"{name} gave another result: {each.said[-300:]!r}"
        for name, each in found.items()
        if each != expected[name] and not says_so(each, expected[name])
    ]
    if used:
        return "USED WITHOUT A WORD", used
    if found["verify"].code:
        return "verify says so", []
    if any(each.code > expected[name].code for name, each in found.items()):
        return "refused in one line", []
    if chosen == "run.log, locks":
        return "nothing rests on it", []
    if same_content(pristine, run, path):
        return "same content", []
    return "USED WITHOUT A WORD", ["nobody said anything"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "scotopic-flips")
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="kind of file, as in the table")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    os.environ["PROGRAMDATA"] = str(given.work)  # locks of its own
    spawn = multiprocessing.get_context("spawn")
    table: dict[str, Counter[str]] = defaultdict(Counter)
    begun = partial(ProcessPoolExecutor, 1, mp_context=spawn, initializer=begin, initargs=(given.work / "errors.txt",))
    pool = begun()
    pristine = pool.submit(make_run, given.work.absolute()).result()
    expected = pool.submit(undamaged, pristine, 100_001).result()
    again = pool.submit(undamaged, pristine, 100_002).result()
    if unsteady := [f"{name}: {expected[name]} / {again[name]}" for name in expected if expected[name] != again[name]]:
        sys.exit("the same command on the same run does not give the same:\n" + "\n".join(unsteady))
    print("on the undamaged run: " + ", ".join(f"{name} {each.code}" for name, each in expected.items()), flush=True)
    for number in range(given.flips):
        try:
            chosen, outcome, details = pool.submit(flip, pristine, expected, number, given.seed, given.only).result()
        except BrokenProcessPool:
            pool = begun()
            chosen, outcome, details = "any", "TRACEBACKS", [f"flip {number} has killed the process"]
        table[chosen][outcome] += 1
        for line in details:
            print(f"{number} {outcome}: {line}", flush=True)
    print(f"\n{given.flips} flips, seed {given.seed}, {machine()}\n")
    print("| file | " + " | ".join(COLUMNS) + " |\n" + "|---" * (len(COLUMNS) + 1) + "|")
    for name, counts in sorted(table.items()):
        print(f"| {name} | {counts.total()} | " + " | ".join(str(counts[each]) for each in COLUMNS[1:]) + " |")
    total = sum(table.values(), Counter())
    print(f"| all | {total.total()} | " + " | ".join(str(total[each]) for each in COLUMNS[1:]) + " |")
    sys.exit(int(bool(total["TRACEBACKS"] + total["USED WITHOUT A WORD"])))


if __name__ == "__main__":
    main()
