"""Hangs of every device call, and kills, stops, killed guards and races: is it dark in time? `light_log.py` runs them.

Each case is an acquisition of a few long exposures on `hang_devices.py`, whose light outlives its process, with its guard.
Something happens to it at a moment of its own; then the time is taken until the sample is dark for good, by the devices'
log, and the same command is given again until the run is done. Light recorded may not be less than the light given.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml

from scotopic.store import RunFolder
from scotopic.store import verify as verify_run
from scotopic.workflow import ask, retake

HERE = Path(__file__).parent
EXPOSURE_MS = 400
LIMIT_S = 10 + EXPOSURE_MS / 1000
LONGEST_S = 600
CALLS = {
    "software": [
        "led.on", "led.get while lit", "led.get", "led.off", "filter.wait", "stage.set", "stage.get", "stage.wait",
        "camera.set", "camera.snap", "autofocus",
    ],
    "core_shutter": [
        "led.on", "led.get while lit", "led.get", "led.wait", "led.off", "shutter.open", "shutter.wait while open",
        "shutter.get while open", "shutter.get", "shutter.close", "filter.wait", "stage.set", "stage.get", "stage.wait",
        "camera.set", "camera.snap", "autofocus",
    ],
}  # fmt: skip
FURTHER = (
    "hang",
    "hang",
    "Python held",
    "killed",
    "stopped",
    "stopped",
    "guard killed",
    "two processes",
    "race",
    "race",
)
CFG = """#py Property,Core,Initialize,0
{devices}
#py Property,Core,Initialize,1
#py Property,Core,Camera,Camera
#py Property,Core,Shutter,Shutter
#py Property,Core,Focus,Z
#py Property,Core,XYStage,XY
#py ConfigGroup,Channel,DAPI,Turret,Cube,DAPI
#py ConfigGroup,System,Startup,LED,Power,0
#py Property,Core,ChannelGroup,Channel
#py ConfigPixelSize,20x,Core,SLM,
#py PixelSize_um,20x,0.65
"""
DEVICES = {
    "Camera": "Camera", "LED": "LED", "Shutter": "Shutter", "Turret": "Turret", "XY": "XYStage", "Z": "ZStage",
    "Autofocus": "Autofocus",
}  # fmt: skip


@dataclass
class HangCase:
    """What is done to one acquisition."""

    number: int
    kind: str
    gating: str
    call: str = ""
    """Device call that hangs."""
    after: int = 0
    shared: bool = False
    """Whether all devices share one lock."""
    seed: int = 0


@dataclass
class HangVerdict:
    """What came out of it."""

    case: HangCase
    dark_s: float = 0.0
    """Time from what happened until the sample was dark for good; 0 where it was dark."""
    was_lit: bool = False
    given_ms: float = 0.0
    recorded_ms: float = 0.0
    complaints: list[str] = field(default_factory=list)

    def told(self) -> str:
        """Return it as a line."""
        case = self.case
        what = case.kind + (f" {case.call} after {case.after}" if case.call else "")
        lit = f"dark after {self.dark_s:5.2f} s (limit {LIMIT_S:.1f})" if self.was_lit else "dark already"
        lock = "one lock" if case.shared else "own locks"
        line = f"{case.number:3d} {case.gating:12s} {lock:9s} {what:34s} {lit:30s} given {self.given_ms:6.0f}, recorded {self.recorded_ms:6.0f} ms"
        return "\n    ".join([line, *self.complaints])


def table() -> list[HangCase]:
    """Return a hang of each call, with each gating, with devices that share a lock and those that do not."""
    cases = [(gating, call, shared) for gating, calls in CALLS.items() for call in calls for shared in (False, True)]
    return [HangCase(n, "hang", g, call, after=1, shared=shared) for n, (g, call, shared) in enumerate(cases)]


def further(count: int, seed: int) -> list[HangCase]:
    """Return so many cases at random."""
    rng, cases = np.random.default_rng(seed), []
    for number in range(count):
        kind = FURTHER[number % len(FURTHER)]
        gating = str(rng.choice(list(CALLS)))
        hangs = kind in {"hang", "Python held"}
        call = str(rng.choice(CALLS[gating])) if hangs else ""
        cases.append(
            HangCase(
                number, kind, gating, call, int(rng.integers(0, 4)), bool(rng.random() < 0.5), int(rng.integers(2**31))
            )
        )
    return cases


class Bench:
    """The files of one case, and its processes."""

    def __init__(self, case: HangCase, folder: Path) -> None:
        folder.mkdir(parents=True)
        self.case, self.folder, self.run = case, folder, RunFolder(folder / "RUN")
        lines = [f"#py pyDevice,{label},hang_devices,{kind}" for label, kind in DEVICES.items()]
        (folder / "scope.cfg").write_text(CFG.format(devices="\n".join(lines)), encoding="utf-8")
        source = {"device": "LED", "property": "Power", "max": 100, "step": 0.5}
        source["switch_off"] = [{"device": "LED", "property": "Power", "value": 0}]
        gating = {"how": case.gating, "overhead_ms": 0} | (
            {"shutter": "Shutter"} if case.gating == "core_shutter" else {}
        )
        profile = {
            "name": "Bench", "config": "scope.cfg",
            "camera": {
                "device": "Camera", "width_px": 64, "height_px": 64, "pixel_size_um": 0.65, "offset_counts": 200,
                "gain_e_per_count": 0.8, "read_noise_e": 6, "saturation_counts": 65535,
            },
            "light_sources": {"DAPI": source},
            "gating": gating,
            "stage": {
                "xy_device": "XY", "z_device": "Z", "autofocus_device": "Autofocus", "x_um": [-5000, 105000],
                "y_um": [-5000, 70000], "z_um": [-100, 5000],
            },
            "plate_calibration": {"A1": [0, 0], "A12": [99000, 0], "H1": [0, 63000]},
            "verification": {"light_check": False, "retry_delay_ms": 5},
        }  # fmt: skip
        protocol = yaml.safe_load((HERE.parent / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
        is_long = case.kind in {"guard killed", "two processes"}
        sites = {"rows": 2, "columns": 5} if is_long else {"rows": 1, "columns": 2}
        protocol |= {"wells": "B2:B3", "held_out": 1, "sites": sites}
        protocol["light_levels"] = [
            {"name": "100%", "exposure_ms": EXPOSURE_MS, "led_percent": 100, "role": "reference"},
            {"name": "2%", "exposure_ms": 100, "led_percent": 10},
        ]
        for name, content in (("protocol.yaml", protocol), ("scope.yaml", profile)):
            (folder / name).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def plan(self, *, hangs: bool) -> None:
        """Say what is to hang from the next process on."""
        case = self.case
        plan = {
            "folder": str(self.folder), "gating": case.gating, "shared": case.shared, "after": case.after,
            "call": case.call if hangs else "", "holds_python": case.kind == "Python held",
        }  # fmt: skip
        (self.folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")

    def start(self, *words: str, out: str = "RUN") -> subprocess.Popen[str]:
        """Begin a command of scotopic: the acquisition without words."""
        words = words or ("acquire", str(self.folder / "protocol.yaml"), "--out", str(self.folder / out))
        return subprocess.Popen(
            [sys.executable, "-m", "scotopic", *words, "-m", str(self.folder / "scope.yaml")],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ
            | {
                "SCOTOPIC_HANG_PLAN": str(self.folder / "plan.json"),
                "PROGRAMDATA": str(self.folder),
                "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]),
            },
        )

    def log(self) -> list[dict[str, Any]]:
        """Return what the devices have logged so far."""
        path = self.folder / "devices.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def power(self) -> float:
        """Return the light on the sample now, relative to full power."""
        log = self.log()
        return float(log[-1]["power"]) if log else 0.0

    def wait(self, what: Any, seconds: float = LONGEST_S) -> bool:
        """Wait until something holds; return whether it does."""
        until = time.monotonic() + seconds
        while not what():
            if time.monotonic() > until:
                return False
            time.sleep(0.02)
        return True

    def guards(self) -> list[psutil.Process]:
        """Return the guards over this run."""
        found = []
        for process in psutil.process_iter(["cmdline", "status"]):
            words = process.info["cmdline"] or []
            if "guard" in words and str(self.run.path) in words and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
        return found

    def given_ms(self) -> float:
        """Return the light that the sample got, milliseconds at full power."""
        total, since, power = 0.0, 0.0, 0.0
        for line in self.log():
            total, since, power = total + power * (line["at"] - since), line["at"], line["power"]
        return total * 1000


def dark_after(bench: Bench, moment: float) -> tuple[bool, float]:
    """Wait until it is dark; return whether it was lit at a moment, and how long after it the light went off for good."""
    bench.wait(lambda: bench.power() == 0, 60)
    time.sleep(0.3)
    log = bench.log()
    before = [line["power"] for line in log if line["at"] <= moment]
    after = [line for line in log if line["at"] > moment]
    was_lit = bool(before and before[-1] > 0) or any(line["power"] > 0 for line in after)
    if log and log[-1]["power"] > 0:
        return True, float("inf")
    changes = [
        line["at"]
        for one, line in zip([{"power": before[-1] if before else 0.0}, *after], after, strict=False)
        if one["power"] > 0
    ]
    return was_lit, max(changes, default=moment) - moment


def happen(bench: Bench, process: subprocess.Popen[str], verdict: HangVerdict) -> float:
    """Let happen to an acquisition what is to; return when it did."""
    case, rng = bench.case, np.random.default_rng(bench.case.seed)
    if case.call:
        found: list[float] = []

        def hangs() -> bool:
            found.extend(line["at"] for line in bench.log() if "hangs" in line)
            return bool(found) or process.poll() is not None

        bench.wait(hangs)
        return found[0] if found else time.time()
    bench.wait(lambda: bench.power() > 0 or process.poll() is not None)
    time.sleep(float(rng.uniform(0, 1.5)))
    if case.kind == "guard killed":
        old = bench.guards()
        for guard in old:
            guard.send_signal(signal.SIGSTOP if rng.random() < 0.3 else signal.SIGKILL)
        another = bench.wait(lambda: process.poll() is not None or set(bench.guards()) - set(old), 15)
        if not another:
            verdict.complaints.append("no other guard was begun")
        time.sleep(0.5)
        bench.wait(lambda: bench.power() > 0 or process.poll() is not None)  # no site is lit before it has loaded
        time.sleep(float(rng.uniform(0, 0.5)))
        for guard in old:
            with suppress(psutil.NoSuchProcess):
                guard.kill()
    if case.kind == "two processes":
        for words, out in (((), "OTHER"), (("light-off",), "RUN")):
            second = bench.start(*words, out=out)
            output, _ = second.communicate(timeout=LONGEST_S)
            if second.returncode != 2 and process.poll() is None:
                verdict.complaints.append(
                    f"{words or 'acquire'} beside it ended with {second.returncode}: {output[-300:]}"
                )
    if case.kind == "race":
        for _ in range(int(rng.integers(2, 6))):
            ask(
                bench.run.path, str(rng.choice(["pause", "resume", "resume", "cancel", "finish"]))
            ) if bench.run.is_locked() else None
            time.sleep(float(rng.uniform(0, 0.8)))
        return time.time()
    moment = time.time()
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGSTOP if case.kind == "stopped" else signal.SIGKILL)
    return moment


def run_case(case: HangCase, work: Path) -> HangVerdict:
    """Run a case to its end, and judge it."""
    bench, verdict = Bench(case, work / f"{case.kind.replace(' ', '_')}_{case.number:03d}"), HangVerdict(case)
    bench.plan(hangs=True)
    process = bench.start()
    moment = happen(bench, process, verdict)
    if case.kind != "race":
        verdict.was_lit, verdict.dark_s = dark_after(bench, moment)
    elif not bench.run.is_locked() or bench.run.request() != "pause":
        bench.wait(lambda: process.poll() is not None or bench.run.read_status("acquire").get("state") == "paused", 60)
    with suppress(ProcessLookupError):
        process.kill()
    process.communicate()
    bench.wait(lambda: not bench.guards(), 60)
    bench.plan(hangs=False)
    if case.kind == "race":
        _race_on(bench)
    for _ in range(3):
        again = bench.start()
        output, _ = again.communicate(timeout=LONGEST_S)
        state = bench.run.read_status("acquire").get("state", "")
        if state.startswith("completed"):
            break
    else:
        verdict.complaints.append(f"not done: {state}: {output[-600:]}")
        return verdict
    if bench.power():
        verdict.complaints.append("lit at the end")
    verdict.given_ms, verdict.recorded_ms = bench.given_ms(), bench.run.sample_dose_ms()
    if (other := RunFolder(bench.folder / "OTHER")).exists:  # the first had ended before the second came
        verdict.recorded_ms += other.sample_dose_ms()
    if verdict.recorded_ms < verdict.given_ms * 0.98 - 5:
        verdict.complaints.append("less light recorded than given")
    if verdict.was_lit and verdict.dark_s > LIMIT_S:
        verdict.complaints.append("dark too late")
    verdict.complaints += [str(problem) for problem in verify_run(bench.run)]
    return verdict


def _race_on(bench: Bench) -> None:
    """After a race: what was paused goes on, and a finished site is given up."""
    with suppress(Exception):
        ask(bench.run.path, "resume")
    records = bench.run.ledger.read()
    if records and bench.run.exists:
        with suppress(Exception):  # it may not be finished
            retake(bench.run.path, f"{records[0].well}_{records[0].site}")


def summary(verdicts: list[HangVerdict]) -> None:
    """Print what is true of all."""
    lit = [v.dark_s for v in verdicts if v.was_lit]
    given, recorded = sum(v.given_ms for v in verdicts), sum(v.recorded_ms for v in verdicts)
    print(
        f"{len(verdicts)} cases, {len(lit)} of them lit: dark after {max(lit, default=0):.2f} s at most (limit {LIMIT_S:.1f})"
    )
    print(f"light given {given:,.0f} ms, recorded {recorded:,.0f} ms at full power")
    print(f"cases with something wrong: {sum(bool(v.complaints) for v in verdicts)} (limit 0)")
