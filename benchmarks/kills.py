"""Kills the whole job in every stage, and the training five times, and shows that the same command gets to the same end.

usage: kills.py [--work DIR] [--steps 1200]

`scotopic run` on a small simulated plate is killed (no warning, no clean-up) during acquisition, reference masks, training
and validation, and started again with the same command each time. Then a copy of the run that has no model yet is trained
twice: undisturbed, and with five kills; both must end in the same model file, byte for byte (limit: equal).
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
from machine import machine

from scotopic.store import RunFolder

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parent.parent
KILLS = 5
LONGEST_S = 900


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def killed(command: list[str], when: Callable[[], bool]) -> int | None:
    """Kill a command and all that it has begun as soon as something holds; return its exit code if it ended before that."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + LONGEST_S
    while not when():
        if process.poll() is not None:
            return process.returncode
        if time.monotonic() > deadline:
            kill_all(process.pid)
            raise TimeoutError(" ".join(command))
        time.sleep(0.02)
    kill_all(process.pid)
    process.wait()
    return None


def kill_all(number: int) -> None:
    """Kill a process and all its descendants at once, as a power cut would."""
    process = psutil.Process(number)
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):
            each.kill()


def whole_job(command: list[str], out: Path) -> None:
    run = RunFolder(out)

    def step() -> int:
        return int(run.read_status("train").get("step", 0)) if run.exists else 0

    stages = {
        "acquisition": lambda: lines(out / "frames.jsonl") >= 30,
        "reference masks": lambda: lines(out / "nuclei" / "reference" / "sites.jsonl") >= 5,
        "training": lambda: step() >= 50,
        "validation": lambda: run.latest_model() is not None and run.nuclei.folder(run.latest_model().stem).exists(),
    }
    for stage, reached in stages.items():
        code = killed(command, reached)
        if code is not None:
            raise SystemExit(f"{stage}: ended by itself, exit code {code}, before it could be killed")
        print(f"killed in {stage}", flush=True)
        if stage == "training":
            wait_for_the_training_to_end(run)
            shutil.copytree(out, out.with_name("trained_twice"))
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    print(f"the same command again: exit code {result.returncode} (limit 0), {result.stdout.splitlines()[-1]}")
    checked = subprocess.run([sys.executable, "-m", "scotopic", "verify", str(out)], capture_output=True, check=False)
    frames = lines(out / "frames.jsonl")
    print(f"verify: exit code {checked.returncode} (limit 0); {frames} frames (limit: 96, and 4 a site in hand)")


def wait_for_the_training_to_end(run: RunFolder) -> None:
    """Print how long the training of a killed job, which must end by itself, still held its lock."""
    begun = time.monotonic()
    with run.training_lock():
        print(f"the training that it had begun ended {time.monotonic() - begun:.2f} s later (limit 3)")


def train_twice(run: Path) -> None:
    (run / "models" / "checkpoint.safetensors").unlink(missing_ok=True)
    other = run.with_name("killed")
    shutil.copytree(run, other)
    names = [trained(run, 0), trained(other, KILLS)]
    print(
        f"undisturbed {names[0]}, killed {KILLS} times {names[1]}: {'equal' if names[0] == names[1] else 'DIFFERENT'}"
    )


def trained(folder: Path, kills: int) -> str:
    """Train with so many kills, evenly spread over the steps, and return the name of the model."""
    run = RunFolder(folder)
    (folder / "status" / "train.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", "scotopic", "train", str(folder)]
    steps = run.read_protocol().training.steps
    for kill in range(kills):
        at = steps * (kill + 1) // (kills + 1)
        if killed(command, lambda at=at: int(run.read_status("train").get("step", 0)) >= at) is not None:
            raise SystemExit("the training ended before it could be killed")
        print(f"training killed at step {run.read_status('train')['step']}", flush=True)
    subprocess.run(command, capture_output=True, check=True)
    return run.latest_model().name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path)
    parser.add_argument("--steps", type=int, default=1200)
    asked = parser.parse_args()
    print(f"# {machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = asked.work or Path(name)
        folder.mkdir(exist_ok=True)
        protocol, out = folder / "protocol.yaml", folder / "RUN"
        text = (ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8")
        fixed = f"training: {{steps: {asked.steps}, threads: 2, dtype: float32}}"
        protocol.write_text(text.replace("training: {minutes: 2}", fixed), encoding="utf-8")
        profile = ROOT / "hardware_configs" / "simulated.yaml"
        words = ["run", str(protocol), "--microscope", str(profile), "--out", str(out)]
        whole_job([sys.executable, "-m", "scotopic", *words], out)
        train_twice(out.with_name("trained_twice"))


if __name__ == "__main__":
    main()
