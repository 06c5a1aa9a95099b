"""What hangs, with light on or in the dark, is seen by what the main loop does, and made dark."""

from __future__ import annotations

import importlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime

import pytest

from conftest import ROOT, acquired, is_dark, small
from scotopic.microscope import acquire, light_guard, open_microscope, prepare_run, switch_light_off
from scotopic.store import RunFolder, VisitRecord
from scotopic.store.light_mark import LightMarkFile
from scotopic.workflow import guard, guarding


def with_timeout(job, seconds: float):
    verification = job.profile.verification.model_copy(update={"camera_timeout_s": seconds})
    job.profile = job.profile.model_copy(update={"verification": verification})
    return job


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="ends processes by signals")
def test_a_led_whose_read_back_hangs_is_dark_in_time_and_its_light_is_noted(tmp_path, monkeypatch):
    """It stayed lit for as long as one watched: status `running`, 20 heartbeats, no word from the guard."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bench = importlib.import_module("light_hangs")
    verdict = bench.run_case(bench.HangCase(1, "hang", "software", "led.get while lit", after=1), tmp_path)
    assert verdict.complaints == []
    assert verdict.was_lit
    assert 3 < verdict.dark_s < bench.LIMIT_S
    log = (next(tmp_path.iterdir()) / "RUN" / "run.log").read_text(encoding="utf-8")
    assert re.search(r"LED has not answered for 3\.\d+ s; the light cannot be reached", log)
    assert "guard: the light is off" in log


@pytest.mark.parametrize("call", ["getProperty", "waitForDevice"])
def test_whatever_hangs_behind_the_shutter_has_the_light_switched_off_meanwhile(call, tmp_path, monkeypatch):
    job = with_timeout(small("simulated", wells="B2", held_out=0), 1)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    real, seen = getattr(core, call), []

    def hanging(*args):
        result = real(*args)
        lit = float(type(core).getProperty(core, "LED", "Power")) > 0
        if lit and not seen and threading.current_thread() is threading.main_thread():
            seen.append(False)
            until = time.monotonic() + 10
            while not seen[0] and time.monotonic() < until:
                time.sleep(0.02)
                seen[0] = is_dark(core, job) and core.mda.engine._watchdog.dark_at is not None
        return result

    monkeypatch.setattr(core, call, hanging)
    run, _ = acquired(job, tmp_path / "RUN", core)
    assert seen == [True], "while it hangs, the light is off"
    skipped = [r for r in run.ledger.read() if r.state == "skipped"]
    assert "gave no answer for 1.0" in skipped[0].reason
    assert "the light was switched off meanwhile" in skipped[0].reason


def test_light_that_cannot_be_reached_ends_the_process_and_does_not_call_the_run_ended(tmp_path, monkeypatch):
    """The guard leaves an acquisition alone that says itself that it has ended."""
    job, ended, guarded = with_timeout(small("demo", wells="B2", held_out=0), 0.5), threading.Event(), []
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    snap, said, is_held = core.snapImage, [], []
    monkeypatch.setattr("scotopic.microscope.watchdog.SWITCH_OFF_S", 0.2)

    def snap_and_hang() -> None:
        if not said:
            is_held.append(1)
            assert ended.wait(20)
            is_held.clear()
        snap()

    def off(*args) -> None:
        if is_held:
            ended.wait(20)
        switch_light_off(*args)

    def end(_) -> None:
        said.append((run.read_status("acquire"), run.light_mark.read()))
        ended.set()

    monkeypatch.setattr(core, "snapImage", snap_and_hang)
    monkeypatch.setattr(light_guard, "switch_light_off", off)
    monkeypatch.setattr(light_guard.os, "_exit", end)
    acquire(job.protocol, job.profile, job.profile_path, run, core=core, keep_guarded=lambda: guarded.append(1) or True)
    run.unlock()
    status, mark = said[0]
    assert status["state"] == "interrupted"
    assert "the camera has not answered" in status["message"]
    assert "LOOK WHETHER IT IS ON; this process is ended" in status["message"]
    assert mark.is_lit
    assert mark.power == 0.025
    assert guarded, "a guard is there before the process goes"


def test_the_heartbeat_is_that_of_the_main_loop(tmp_path, monkeypatch):
    module = importlib.import_module("scotopic.microscope.acquire")
    monkeypatch.setattr(module, "_BEATS_PER_STATUS", 1)
    monkeypatch.setattr(module, "_ANSWERS_S", 0.5)
    monkeypatch.setattr("scotopic.microscope.engine.AcquisitionEngine._set_up_s", 0)
    job = small("simulated", wells="B2", held_out=0)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    move, beats = core.setXYPosition, []

    def slow(*args) -> None:
        if not beats:
            for _ in range(2):
                time.sleep(0.6)
                beats.append(run.read_status("acquire"))
        move(*args)

    monkeypatch.setattr(core, "setXYPosition", slow)
    acquire(job.protocol, job.profile, job.profile_path, run, core=core)
    run.unlock()
    assert beats[0]["heartbeat"] == beats[1]["heartbeat"], "the pulse goes on, but the main loop does not"
    assert beats[1]["message"] == "no answer for 1 s: setting a frame up"


def test_a_pause_is_no_hang(tmp_path, monkeypatch):
    module = importlib.import_module("scotopic.microscope.acquire")
    monkeypatch.setattr(module, "_BEATS_PER_STATUS", 1)
    job = small("simulated", wells="B2", held_out=0)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    core.mda.events.sequenceStarted.connect(lambda *_: run.ask("pause"))
    beats = []

    def look() -> None:
        while run.read_status("acquire").get("state") != "paused":
            time.sleep(0.02)
        for _ in range(2):
            time.sleep(0.8)
            beats.append(datetime.fromisoformat(run.read_status("acquire")["heartbeat"]))
        run.ask("resume")

    thread = threading.Thread(target=look)
    thread.start()
    acquire(job.protocol, job.profile, job.profile_path, run, core=core)
    thread.join()
    run.unlock()
    assert beats[1] > beats[0]


@pytest.fixture
def dead_run(tmp_path, monkeypatch):
    """A run whose process has died, on a microscope that is not opened in this test."""
    (tmp_path / "scope.yaml").write_bytes((ROOT / "hardware_configs" / "demo.yaml").read_bytes())
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    run, made_dark = RunFolder(tmp_path / "run"), []
    run.path.mkdir()
    run.write_status("acquire", state="failed", message="the light could not be switched off")
    status = run.path / "status" / "acquire.json"
    content = json.loads(status.read_text(encoding="utf-8")) | {"process": ended.pid}
    del content["seal"]
    status.write_text(json.dumps(content), encoding="utf-8")
    monkeypatch.setattr(guarding, "_make_dark", lambda *_: made_dark.append(1))
    return run, ended.pid, made_dark


def mark(run: RunFolder, process: int, since: float, power: float) -> None:
    content = {"process": process, "number": 7, "may_take_s": 3.4, "since": since, "power": power}
    (run.path / "status" / "light.json").write_text(json.dumps(content), encoding="utf-8")


def test_a_run_that_has_ended_with_its_light_on_is_made_dark_by_the_guard(dead_run):
    run, process, made_dark = dead_run
    assert guard(run.path, run.path.parent / "scope.yaml", lambda _: None, process=process) is True
    run.visits.append([VisitRecord(well="B2", site=0, t=0, attempt=1, level="2%")])
    mark(run, process, time.time() - 10, 0.5)
    assert guard(run.path, run.path.parent / "scope.yaml", lambda _: None, process=process) is False
    assert made_dark == [1]
    assert run.visits.read()[-1].unnoted_ms == pytest.approx(5000, rel=0.1), "10 s at half the power"


def test_the_mark_of_the_light_is_read_as_it_was_written(tmp_path):
    file = LightMarkFile(tmp_path / "status" / "light.json")
    assert file.read() is None
    file.write(3.4, 0.5)
    first = file.read()
    file.write(0)
    second = file.read()
    file.close()
    assert (first.process, first.may_take_s, first.power, first.is_lit) == (os.getpid(), 3.4, 0.5, True)
    assert not second.is_lit
    assert second.number == first.number + 1


def test_no_site_is_lit_before_a_guard_watches(tmp_path):
    """One that still loads when the light hangs comes too late."""
    job, asked = small("simulated", wells="B2", held_out=0), []
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")

    def keep_guarded() -> bool:
        asked.append(len(run.visits.read()))
        return len(asked) > 3

    result = acquire(job.protocol, job.profile, job.profile_path, run, keep_guarded=keep_guarded)
    run.unlock()
    assert result.end_reason == "completed"
    assert asked[:4] == [0, 0, 0, 0]


@pytest.mark.parametrize("how", ["SIGKILL", "SIGSTOP"])
def test_a_guard_that_is_gone_is_replaced(how, tmp_path, monkeypatch):
    if not hasattr(signal, how):
        pytest.skip(f"there is no {how} here")
    begun = []

    def begin(words):
        begun.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return begun[-1]

    monkeypatch.setattr(guarding, "begin_apart", begin)
    guarded = guarding.Guarded(tmp_path / "run", tmp_path / "scope.yaml")
    (tmp_path / "run").mkdir()
    assert not guarded.keep()
    assert not guarded.keep(), "it still loads"
    guarded._run.write_status("guard", state="watching", watches=os.getpid())
    assert guarded.keep()
    assert len(begun) == 1
    begun[0].send_signal(getattr(signal, how))
    until = time.monotonic() + 5
    while len(begun) < 2 and time.monotonic() < until:
        guarded.keep()
        time.sleep(0.02)
    assert len(begun) == 2
    for process in begun:
        process.kill()
        process.wait()
