"""How many megapixels a second a network learns from, by number format, with nothing else on the machine.

usage: training_speed.py [--steps 300]

A small simulated plate is acquired and masked first; then a network is trained on it anew in each number format. Limit: 2
megapixels a second on two cores with fast bfloat16.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import machine

ROOT = Path(__file__).parent.parent
LIMIT = 2.0


def scotopic(*words: object) -> None:
    subprocess.run([sys.executable, "-m", "scotopic", *map(str, words)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=300)
    steps = parser.parse_args().steps
    print(f"# {machine()}")
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "RUN"
        protocol = ROOT / "protocols" / "quickstart.yaml"
        scotopic("acquire", protocol, "--microscope", ROOT / "hardware_configs" / "simulated.yaml", "--out", out)
        scotopic("segment", out, "--reference")
        from scotopic.learning.pairs import find_pairs
        from scotopic.learning.training import CROP_PX, CROPS, train
        from scotopic.protocol import TrainingSettings
        from scotopic.store import RunFolder

        run = RunFolder(out)
        for dtype in ("bfloat16", "float32"):
            settings = TrainingSettings(steps=steps, dtype=dtype)
            progress = train(run, find_pairs(run), settings, lambda _: None).progress
            megapixels = steps * CROPS * CROP_PX**2 / 1e6
            speed = megapixels / progress.seconds
            print(f"{dtype:<9} {speed:.2f} Mpx/s (limit {LIMIT:g}), {1000 * progress.seconds / steps:.0f} ms a step")
            run.checkpoint_path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
