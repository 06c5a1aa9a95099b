"""Time of the whole job, from a plate to its report, on the simulated microscope, and what the report says.

usage: whole_job.py [PROTOCOL] [--work DIR]

PROTOCOL is `protocols/low_light_96.yaml` (limit: 30 minutes on two cores) without one; the README's first command runs
`protocols/quickstart.yaml` (limit: 5 minutes). Prints minutes by stage and the report's rows beside the specimen's truth.
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
LIMIT_MIN = {"low_light_96": 30, "quickstart": 5}
STAGES = (("acquisition", "verified:"), ("reference masks", "training on"), ("training", "model "))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("protocol", type=Path, nargs="?", default=ROOT / "protocols" / "low_light_96.yaml")
    parser.add_argument("--work", type=Path, help="where the run is kept")
    asked = parser.parse_args()
    print(f"# {machine()}")
    with tempfile.TemporaryDirectory() as name:
        out = (asked.work or Path(name)) / "RUN"
        words = ["run", str(asked.protocol), "-m", str(ROOT / "hardware_configs" / "simulated.yaml"), "--out", str(out)]
        begun = last = time.monotonic()
        stages = list(STAGES)
        with subprocess.Popen([sys.executable, "-m", "scotopic", *words], stdout=subprocess.PIPE, text=True) as job:
            for line in job.stdout or ():
                if stages and line.startswith(stages[0][1]):
                    now = time.monotonic()
                    print(f"{stages.pop(0)[0]:<16} {(now - last) / 60:6.2f} min", flush=True)
                    last = now
        end = time.monotonic()
        print(f"{'validation':<16} {(end - last) / 60:6.2f} min")
        limit = LIMIT_MIN.get(asked.protocol.stem, "none")
        print(f"{'whole job':<16} {(end - begun) / 60:6.2f} min (limit {limit}), exit code {job.returncode}")
        rows(json.loads((out / "report.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
