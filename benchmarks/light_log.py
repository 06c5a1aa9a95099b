"""Holds the light that devices gave, by their own log, against what the ledger says, while things go wrong.

usage: light_log.py [--cases 200] [--hangs] [--further 0] [--seed 1] [--workers 2] [--work DIR]

Each case is a small plate on the simulated microscope or on MMCore's demo devices, with a way of gating and a settle time
drawn at random, and with faults, signals, and kills (SIGKILL) at random moments; then the same command is given again, in
good health, until the run is done. Every light command is logged by the devices' side, with time, place and power, in a
file that a kill cannot reach: that is the judge. Printed are the light given and recorded (limit: 2 % where no exposure
was cut by a kill; one that was counts as given whole), frames misplaced, mislabelled and lost (limit: none), and
processes that ended with light on the sample (limit: none). A camera that hangs may cost more than a light budget has left: then the run
ends, and the light beyond the budget is that of the hang.

`--hangs` prints a table instead: seconds to dark after each device call has hung, and `--further 100` so many cases with
hangs, kills, stopped processes, killed guards, two processes and races (`light_hangs.py`).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import light_hangs
import numpy as np
import yaml
from machine import machine

# ruff: noqa: SLF001 - a log of what the devices do has to look inside them

ROOT = Path(__file__).parent.parent
LEVELS = {"100%": (200.0, 100.0), "2%": (4.0, 100.0), "0.2%": (4.0, 10.0), "0.05%": (4.0, 2.5)}
DEMO_FULL = 10.0
LONGEST_S = 120
MOST_STARTS = 6
AGREE = 0.02


# ---------------------------------------------------------------------- the process under test


class DeviceLog:
    """Lines that are on their way to the disk when the call returns: a kill loses none."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, **line: Any) -> None:
        """Write a line, with the time."""
        os.write(self._file, (json.dumps({"at": time.perf_counter()} | line) + "\n").encode())


class Faulty:
    """Lets the n-th to m-th call of a kind go wrong."""

    def __init__(self, faults: list[dict[str, Any]]) -> None:
        self._faults, self._count = faults, dict.fromkeys((f["kind"] for f in faults), 0)

    def due(self, kind: str) -> bool:
        """Count a call of a kind, and return whether it goes wrong."""
        if kind not in self._count:
            return False
        self._count[kind] += 1
        return any(
            f["kind"] == kind and f["after"] < self._count[kind] <= f["after"] + f["times"] for f in self._faults
        )


def log_simulator(log: DeviceLog, faults: list[dict[str, Any]]) -> None:
    from pydantic import TypeAdapter

    from scotopic.protocol import Fault
    from scotopic.simulator.instrument import Instrument
    from scotopic.store import checksum

    configure, update, expose = Instrument.configure, Instrument._update_light, Instrument.expose

    def configured(self: Instrument, setup: Any) -> None:
        configure(self, setup)
        self.set_faults(TypeAdapter(tuple[Fault, ...]).validate_python(faults))
        log.write(power=0.0, delivered=0.0)

    def updated(self: Instrument) -> None:
        update(self)
        lit = self._led_percent / 100 if self._shutter_open else 0.0
        log.write(power=lit, delivered=self._light.delivered_ms)

    def exposed(self: Instrument, exposure_ms: float) -> Any:
        image = expose(self, exposure_ms)
        log.write(
            image=checksum(image),
            xy=self._xy_um,
            led=self._led_percent,
            exposure=exposure_ms,
            delivered=self.delivered_ms,
        )
        return image

    Instrument.configure, Instrument._update_light, Instrument.expose = configured, updated, exposed  # type: ignore[method-assign]


def log_demo(log: DeviceLog, faults: list[dict[str, Any]], gating: str) -> None:
    from pymmcore_plus import CMMCorePlus

    from scotopic.microscope import core
    from scotopic.store import checksum

    faulty = Faulty(faults)

    class LoggingCore(CMMCorePlus):
        """The core, with a log of what the light is after each command, and faults."""

        def led(self) -> float:
            return float(super().getProperty("LED", "Voltage")) / DEMO_FULL if "LED" in self.getLoadedDevices() else 0.0

        def note(self, sent: float) -> None:
            """Note what the light is: on from the moment that the command was sent, off when it has returned."""
            if gating != "camera_ttl":
                done = time.perf_counter()
                lit = gating == "software" or (self.led() > 0 and self.getShutterOpen("Shutter"))
                power = self.led() if lit else 0.0
                log.write(at=sent if power else done, power=power)

        def setProperty(self, device: str, name: str, value: Any) -> None:  # noqa: N802
            goes_off = device == "LED" and float(value) == 0 and self.led() > 0
            if device == "LED" and float(value) > 0 and faulty.due("led_ignores"):
                raise RuntimeError("serial line: no answer")
            sent = time.perf_counter()
            if not (goes_off and faulty.due("led_stays_on")):
                super().setProperty(device, name, value)
            if device == "LED":
                self.note(sent)

        def setShutterOpen(self, *args: Any) -> None:  # noqa: N802
            sent = time.perf_counter()
            if not faulty.due("shutter_sticks"):
                super().setShutterOpen(*args)
            self.note(sent)

        def setXYPosition(self, x: float, y: float) -> None:  # noqa: N802
            super().setXYPosition(x + (50 if faulty.due("stage_stops_short") else 0), y)

        def snapImage(self) -> None:  # noqa: N802
            self.led_at_snap = self.led()
            fails = faulty.due("snap_fails")
            if gating == "camera_ttl":  # the wire is high while the camera exposes, and not while it is asked to
                log.write(wire_ms=self.led_at_snap * self.getExposure())
            if faulty.due("camera_hangs"):
                time.sleep(1.2)
            super().snapImage()
            if fails:
                raise RuntimeError("camera: no image was read out")

        def getImage(self, *args: Any, **more: Any) -> Any:  # noqa: N802
            image = super().getImage(*args, **more)
            xy, led = list(self.getXYPosition()), self.led_at_snap * 100
            log.write(image=checksum(image), xy=xy, led=led, exposure=self.getExposure())
            return image

    core.CMMCorePlus = LoggingCore  # type: ignore[misc]


def under_test(plan: dict[str, Any], arguments: list[str]) -> None:
    """Run the command with logging devices, in this process."""
    import scotopic.microscope  # noqa: F401 - before pymmcore-plus
    from scotopic.cli import app

    log = DeviceLog(plan["log"])
    log.write(process=os.getpid())
    if plan["microscope"] == "simulated":
        log_simulator(log, plan["faults"])
    else:
        log_demo(log, plan["faults"], plan["gating"])
    sys.argv = ["scotopic", *arguments]
    app()


# ---------------------------------------------------------------------- the judge


@dataclass
class Case:
    """What is done to one run."""

    number: int
    microscope: str
    gating: str
    settle_ms: float
    faults: list[dict[str, Any]]
    interruptions: list[tuple[str, float]]
    """(signal, seconds after the first light), one a start."""
    budget_s: float | None


@dataclass
class Verdict:
    """What came out of it."""

    case: Case
    given_ms: float = 0.0
    recorded_ms: float = 0.0
    cut_ms: float = 0.0
    """Light of exposures that a kill has cut, as recorded: given whole."""
    misplaced: int = 0
    mislabelled: int = 0
    lost: int = 0
    lit_ends: int = 0
    over_budget: int = 0
    starts: int = 0
    complaints: list[str] = field(default_factory=list)


def draw(number: int, rng: np.random.Generator) -> Case:
    microscope = ("simulated", "demo")[number % 2]
    gating = (
        "core_shutter" if microscope == "simulated" else str(rng.choice(["core_shutter", "software", "camera_ttl"]))
    )
    kinds = ["snap_fails", "led_stays_on", "led_ignores", "shutter_sticks", "stage_stops_short", "camera_hangs"]
    if gating != "core_shutter":
        kinds.remove("shutter_sticks")
    if gating == "camera_ttl":
        kinds.remove("camera_hangs")  # how long a hanging camera's wire is high nobody knows
    faults = []
    for kind in rng.choice(kinds, size=int(rng.integers(0, 4)), replace=False):
        amount = {"camera_hangs": 1.2, "stage_stops_short": 50.0}.get(str(kind), 0.0)
        times = 1 if kind == "camera_hangs" else int(rng.integers(1, 4))
        faults.append({"kind": str(kind), "after": int(rng.integers(0, 20)), "times": times, "amount": amount})
    names = ["SIGKILL", "SIGKILL", "SIGINT", "SIGTERM", "SIGHUP", "twice SIGINT"]
    interruptions = [
        (str(rng.choice(names)), float(rng.uniform(0, 1.2))) for _ in range(int(rng.choice([0, 1, 1, 2, 3])))
    ]
    settle_ms = float(rng.choice([0, 0, 5, 30])) if gating != "software" else 0.0
    budget_s = 0.9 if rng.random() < 0.2 else None
    return Case(number, microscope, gating, settle_ms, faults, interruptions, budget_s)


def write_job(case: Case, folder: Path) -> list[str]:
    """Write protocol and profile of a case; return the command's arguments."""
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
    protocol |= {"wells": "B2:B3", "held_out": 1, "sites": {"rows": 1, "columns": 2}}
    protocol["light_levels"] = [
        {"name": name, "exposure_ms": ms, "led_percent": led} | ({"role": "reference"} if name == "100%" else {})
        for name, (ms, led) in LEVELS.items()
    ]
    if case.budget_s is not None:
        protocol["light_budget_s"] = case.budget_s
    source = ROOT / "hardware_configs" / f"{case.microscope}.yaml"
    profile = yaml.safe_load(source.read_text(encoding="utf-8"))
    profile["config"] = str(source.with_suffix(".cfg"))
    profile["light_sources"]["DAPI"]["settle_ms"] = case.settle_ms
    profile["verification"] = profile.get("verification", {}) | {
        "retry_delay_ms": 5,
        "camera_timeout_s": 0.5,
        "stop_after_failures": 3,
    }
    if case.gating != "core_shutter":
        profile["gating"] = {"how": case.gating, "overhead_ms": 0}
    else:
        profile["gating"]["overhead_ms"] = 0 if case.microscope == "simulated" else 1
    for name, content in (("protocol.yaml", protocol), ("microscope.yaml", profile)):
        (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return [
        "acquire",
        str(folder / "protocol.yaml"),
        "-m",
        str(folder / "microscope.yaml"),
        "--out",
        str(folder / "RUN"),
    ]


def lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]


def start(
    case: Case, folder: Path, arguments: list[str], number: int, faults: list[dict[str, Any]]
) -> subprocess.Popen[str]:
    log = folder / f"devices_{number}.jsonl"
    plan = {"log": str(log), "microscope": case.microscope, "gating": case.gating, "faults": faults}
    return subprocess.Popen(
        [sys.executable, __file__, "--under-test", json.dumps(plan), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PROGRAMDATA": str(folder)},  # cases run side by side, each with a microscope of its own
    )


def interrupt(process: subprocess.Popen[str], log: Path, name: str, after_s: float) -> float | None:
    """Send a signal so long after the first light; return when a kill was sent."""
    deadline = time.monotonic() + LONGEST_S
    while process.poll() is None and time.monotonic() < deadline:
        if any(line.get("power", 0) > 0 or "wire_ms" in line for line in lines(log)):
            break
        time.sleep(0.01)
    time.sleep(after_s)
    for _ in range(2 if name.startswith("twice") else 1):
        if process.poll() is None:
            process.send_signal(getattr(signal, name.split()[-1]))
            time.sleep(0.02)
    return time.perf_counter() if name == "SIGKILL" else None


def given_by(case: Case, log: list[dict[str, Any]], killed_at: float | None) -> float:
    """Return the light of one process by its devices, milliseconds at full power."""
    if case.microscope == "simulated":
        return float(max((line["delivered"] for line in log if "delivered" in line), default=0.0))
    total, since, power = sum(line.get("wire_ms", 0.0) for line in log) / 1000, 0.0, 0.0
    for line in log:
        if "power" in line:
            total += power * (line["at"] - since)
            since, power = line["at"], line["power"]
    if killed_at is not None and power:
        total += power * (killed_at - since)
    return total * 1000


def judge_frames(verdict: Verdict, records: list[Any], images: list[dict[str, Any]]) -> None:
    """Hold every frame of the ledger against what the devices say of the exposure that its pixels come from."""
    by_pixels: dict[str, list[dict[str, Any]]] = {}
    for image in images:
        by_pixels.setdefault(image["image"], []).append(image)
    for record in records:
        if record.state != "written":
            continue
        taken = by_pixels.get(record.checksum or "", [])
        exposure, led = LEVELS[record.level]
        verdict.misplaced += not any(np.hypot(*np.subtract(each["xy"], record.xy_um)) < 2 for each in taken)
        verdict.mislabelled += not any(
            abs(each["exposure"] - exposure) < 0.01 and abs(each["led"] - led) < 0.3 for each in taken
        )


def run_case(case: Case, work: Path) -> Verdict:
    from scotopic.store import RunFolder
    from scotopic.store import verify as verify_run

    folder = work / f"case_{case.number:03d}"
    folder.mkdir(parents=True)
    arguments = write_job(case, folder)
    verdict, images = Verdict(case), []
    pending, faults = list(case.interruptions), case.faults
    run = RunFolder(folder / "RUN")
    while verdict.starts < MOST_STARTS + len(case.interruptions):
        log_path = folder / f"devices_{verdict.starts}.jsonl"
        process = start(case, folder, arguments, verdict.starts, faults)
        killed_at = interrupt(process, log_path, *pending.pop(0)) if pending else None
        output, _ = process.communicate(timeout=LONGEST_S)
        killed = process.returncode == -signal.SIGKILL
        verdict.starts += 1
        log = lines(log_path)
        verdict.given_ms += given_by(case, log, killed_at if killed else None)
        images += [line for line in log if "image" in line]
        last = next((line["power"] for line in reversed(log) if "power" in line), 0.0)
        if not killed and last > 0:
            verdict.lit_ends += 1
            verdict.complaints.append(f"ended with {last:.3f} on: {output[-300:]}")
        if "Traceback" in output:
            verdict.complaints.append(output[-600:])
        faults = faults if killed else []
        if process.returncode in {0, 1} and not pending and run.exists:
            state = run.read_status("acquire").get("state", "")
            if state.startswith("completed") or state == "budget_used_up":
                break
    if not run.exists:
        verdict.complaints.append(f"no run was begun: {output[-600:]}")
        verdict.lost += 1
        return verdict
    records = run.ledger.read()
    verdict.recorded_ms = run.sample_dose_ms()
    verdict.cut_ms = sum(visit.unnoted_ms for visit in run.visits.read() if visit.left)
    judge_frames(verdict, records, images)
    problems = [str(problem) for problem in verify_run(run)]
    if run.read_status("acquire").get("state") == "budget_used_up":
        problems = [problem for problem in problems if "planned frames are missing" not in problem]
    verdict.lost, verdict.complaints = len(problems), verdict.complaints + problems
    hangs = any(fault["kind"] == "camera_hangs" for fault in case.faults)
    if case.budget_s is not None and not hangs and verdict.given_ms > case.budget_s * 1000 * (1 + AGREE):
        verdict.over_budget = 1
    return verdict


def main() -> None:
    if sys.argv[1:2] == ["--under-test"]:
        under_test(json.loads(sys.argv[2]), sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--hangs", action="store_true")
    parser.add_argument("--further", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--work", type=Path)
    options = parser.parse_args()
    print(f"# {machine()}", flush=True)
    work = options.work or Path(tempfile.mkdtemp(prefix="light_log_"))
    if options.hangs or options.further:
        hang_cases = (light_hangs.table() if options.hangs else []) + light_hangs.further(options.further, options.seed)
        hangs(hang_cases, work, options.workers)
        return
    rng = np.random.default_rng(options.seed)
    cases = [draw(number, rng) for number in range(options.cases)]
    with ThreadPoolExecutor(options.workers) as pool:
        verdicts = list(pool.map(lambda case: told(run_case(case, work)), cases))
    summary(verdicts)


def hangs(cases: list[light_hangs.HangCase], work: Path, workers: int) -> None:
    verdicts = []
    with ThreadPoolExecutor(workers) as pool:
        for verdict in pool.map(lambda case: light_hangs.run_case(case, work), cases):
            print(verdict.told(), flush=True)
            verdicts.append(verdict)
    light_hangs.summary(verdicts)


def told(verdict: Verdict) -> Verdict:
    case = verdict.case
    faults = "+".join(f["kind"] for f in case.faults) or "none"
    signals = "+".join(name for name, _ in case.interruptions) or "none"
    print(
        f"{case.number:3d} {case.microscope:9s} {case.gating:12s} settle {case.settle_ms:2.0f} ms, {verdict.starts} starts, "
        f"given {verdict.given_ms:7.1f}, recorded {verdict.recorded_ms:7.1f} (cut by kills {verdict.cut_ms:5.1f}); "
        f"faults {faults}, signals {signals}",
        flush=True,
    )
    for complaint in verdict.complaints:
        print(f"    {complaint}", flush=True)
    return verdict


def summary(verdicts: list[Verdict]) -> None:
    whole = [v for v in verdicts if v.cut_ms == 0]
    cut = [v for v in verdicts if v.cut_ms > 0]
    off = [v.recorded_ms / v.given_ms - 1 for v in whole]
    print(f"{len(verdicts)} cases, {sum(v.starts for v in verdicts)} processes")
    print(
        f"light given {sum(v.given_ms for v in verdicts):,.0f} ms, recorded {sum(v.recorded_ms for v in verdicts):,.0f} ms at full power"
    )
    print(
        f"{len(whole)} cases without an exposure cut by a kill: recorded / given - 1 from {min(off):+.2%} to {max(off):+.2%} "
        f"(limit {AGREE:.0%}); beyond it: {sum(abs(each) > AGREE for each in off)}"
    )
    beyond = [v for v in cut if not v.given_ms * (1 - AGREE) <= v.recorded_ms <= v.given_ms * (1 + AGREE) + v.cut_ms]
    print(
        f"{len(cut)} with one: less recorded than given, or more than the cut exposures explain: {len(beyond)} (limit 0)"
    )
    for what in ("misplaced", "mislabelled", "lost"):
        print(f"frames {what}: {sum(getattr(v, what) for v in verdicts)} (limit 0)")
    print(
        f"budgets exceeded: {sum(v.over_budget for v in verdicts)} of {sum(v.case.budget_s is not None for v in verdicts)} (limit 0; hangs not counted)"
    )
    print(f"processes that ended with light on the sample: {sum(v.lit_ends for v in verdicts)} (limit 0)")


if __name__ == "__main__":
    main()
