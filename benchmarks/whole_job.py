"""Time of the whole job, from a plate to its report, on the simulated microscope, and what the report says.

usage: whole_job.py [PROTOCOL] [--work DIR]

PROTOCOL is `protocols/low_light_96.yaml` (limit: 30 minutes on two cores) without one; the README's first command runs
`protocols/quickstart.yaml` (limit: 4 minutes). Prints minutes by stage and the report's rows beside the specimen's truth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from real_nuclei import rows

ROOT = Path(__file__).parent.parent
LIMIT_MIN = {"low_light_96": 30, "quickstart": 4}
STAGES = (("acquisition", "verified:"), ("reference masks", "no more sites come"), ("training", "model "))
"""What ends with which line; masks are made and learned from while the acquisition goes on, the rest of it after that."""


def timed(protocol: Path, profile: Path, out: Path) -> tuple[dict[str, float], int]:
    """Run the whole job; return minutes by stage, the whole of them last, and the exit code."""
    words = ["run", str(protocol), "--microscope", str(profile), "--out", str(out)]
    begun = last = time.monotonic()
    stages, minutes = list(STAGES), {}
    with subprocess.Popen([sys.executable, "-m", "scotopic", *words], stdout=subprocess.PIPE, text=True) as job:
        for line in job.stdout or ():
            if stages and line.startswith(stages[0][1]):
                now = time.monotonic()
                minutes[stages.pop(0)[0]] = (now - last) / 60
                last = now
    end = time.monotonic()
    return minutes | {"validation": (end - last) / 60, "whole job": (end - begun) / 60}, job.returncode


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=ROOT / "protocols" / "low_light_96.yaml")
    parser.add_argument("--work", type=Path, help="where the run is kept")
    asked = parser.parse_args()
    print(f"# {machine()}")
    with tempfile.TemporaryDirectory() as name:
        out = (asked.work or Path(name)) / "RUN"
        minutes, code = timed(asked.protocol, ROOT / "hardware_configs" / "simulated.yaml", out)
        for stage, value in minutes.items():
            print(f"{stage:<16} {value:6.2f} min")
        print(f"limit {LIMIT_MIN.get(asked.protocol.stem, 'none')} min, exit code {code}")
        rows(json.loads((out / "report.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
