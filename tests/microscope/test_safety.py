"""What keeps a sample safe while nobody watches: pauses, hung cameras, signals, and other people's code."""

from __future__ import annotations

import importlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from pymmcore_plus.mda import PMDAEngine

from conftest import ROOT, acquired, is_dark, small
from scotopic.microscope import LightGuard, acquire, light_guard, open_microscope, prepare_run
from scotopic.microscope.engine import AcquisitionEngine
from scotopic.store import RunFolder, verify
from scotopic.workflow import ask


def with_verification(job, **changes):
    verification = job.profile.verification.model_copy(update=changes)
    job.profile = job.profile.model_copy(update={"verification": verification})
    return job


def wait_for_state(run: RunFolder, state: str) -> dict:
    deadline = time.monotonic() + 20
    while (status := run.read_status("acquire")).get("state") != state:
        assert time.monotonic() < deadline, status
        time.sleep(0.02)
    return status


def test_a_pause_in_the_run_folder_waits_in_the_dark_until_it_is_taken_back(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    core.mda.events.sequenceStarted.connect(lambda *_: run.ask("pause"))
    seen = []

    def look_and_resume() -> None:
        status = wait_for_state(run, "paused")
        seen.append((status["message"], is_dark(core, job), len(run.ledger.read())))
        run.ask("resume")

    thread = threading.Thread(target=look_and_resume)
    thread.start()
    result = acquire(job.protocol, job.profile, job.profile_path, run, core=core)
    thread.join()
    run.unlock()
    assert seen == [("as asked; the light is off", True, 0)]
    assert result.end_reason == "completed"
    assert verify(run) == []


@pytest.mark.parametrize(("asked", "stays"), [("pause", True), ("cancel", False)])
def test_what_was_paused_stays_paused_however_it_ended_until_it_is_resumed(asked, stays, tmp_path):
    job = small("simulated")
    files = job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN"
    run = prepare_run(*files)
    run.ask(asked)
    run.unlock()
    again = prepare_run(*files)
    again.unlock()
    assert (again.request() == "pause") is stays
    if stays:
        ask(run.path, "resume")
        prepare_run(*files).unlock()
    assert run.request() is None


@pytest.mark.parametrize(("request_", "most"), [("finish", 4), ("cancel", 4)])
def test_a_run_ends_when_its_folder_is_told_so(request_, most, tmp_path):
    job = small("simulated", time_lapse={"count": 2, "interval_s": 3600})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")

    def tell(progress) -> None:
        if progress.sites_done == most:  # from now on it waits for the next time point
            run.ask(request_)

    result = acquire(job.protocol, job.profile, job.profile_path, run, on_progress=tell)
    run.unlock()
    assert result.end_reason == "cancelled"
    assert len(run.ledger.read()) == most * 4


def test_the_pause_of_pymmcore_plus_works_as_ever(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    dark = []

    def pause_once(*_) -> None:
        if not dark:
            core.mda.set_paused(True)
            threading.Timer(0.3, look_and_go_on).start()

    def look_and_go_on() -> None:
        dark.append(is_dark_but_for_the_led(core))
        core.mda.set_paused(False)

    def is_dark_but_for_the_led(core) -> bool:
        return not core.getShutterOpen()

    core.mda.events.frameReady.connect(pause_once)
    _, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert dark
    assert all(dark)


def test_a_disk_that_runs_low_pauses_the_run_in_the_dark_until_there_is_room(tmp_path, monkeypatch):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    free = iter([10**12, 10**6, 10**6])
    monkeypatch.setattr(RunFolder, "free_bytes", lambda _: next(free, 10**12))
    paused = []
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    result = acquire(
        job.protocol,
        job.profile,
        job.profile_path,
        run,
        core=core,
        on_progress=lambda p: paused.append((p.paused, is_dark(core, job))) if p.paused else None,
    )
    run.unlock()
    assert paused
    assert all(why.startswith("less than 0.5 GB are free") and dark for why, dark in paused)
    assert result.end_reason == "completed"


def test_a_full_disk_ends_the_run_with_the_light_off(tmp_path, monkeypatch):
    """A real small file system, filled by the simulator while the run is under way."""
    small_disk = tmp_path / "disk"
    small_disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "scotopic-test", str(small_disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small file system can only be made by root on Linux")
    try:
        monkeypatch.setattr(importlib.import_module("scotopic.microscope.acquire"), "DISK_RESERVE_BYTES", 0)
        job = small("simulated", [{"kind": "disk_fills", "after": 5, "folder": str(small_disk)}])
        core = open_microscope(job.profile, job.profile_path, job.protocol)
        _, result = acquired(job, small_disk / "RUN", core)
        assert result.end_reason == "failed"
        assert "No space left" in result.message
        assert is_dark(core, job)
        assert RunFolder(small_disk / "RUN").read_status("acquire")["state"] == "failed", "final, whatever came between"
        for ballast in small_disk.glob("ballast-*"):
            ballast.unlink()
        # Frames before the one that did not fit have their lines; the pyramid of the one before may not have fitted either.
        # The light of the exposure that failed is noted where there is room for its line.
        assert len(RunFolder(small_disk / "RUN").ledger.read()) in {3, 4, 5, 6}
        core = open_microscope(job.profile, job.profile_path, job.protocol)
        core.setProperty("Simulator", "Faults", "[]")
        run, result = acquired(job, small_disk / "RUN", core)
        assert result.end_reason == "completed"
        assert verify(run) == []
    finally:
        subprocess.run(["umount", "-l", str(small_disk)], check=True)  # noqa: S607


def test_a_camera_that_hangs_has_the_light_switched_off_meanwhile(tmp_path):
    job = with_verification(small("simulated", [{"kind": "camera_hangs", "after": 5, "amount": 3}]), camera_timeout_s=1)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    dark = []
    watch = threading.Timer(2.8, lambda: dark.append(is_dark(core, job)))
    core.mda.events.frameReady.connect(lambda _, event: watch.start() if event.index["p"] == 1 else None)
    run, result = acquired(job, tmp_path / "RUN", core)
    watch.join()
    assert dark == [True], "while the camera hangs, the light is off"
    assert result.end_reason == "completed_with_errors"
    skipped = [r for r in run.ledger.read() if r.state == "skipped"]
    assert [r.index for r in skipped] == [5]
    assert "the camera gave no answer for 1.0" in skipped[0].reason
    assert skipped[0].sample_dose_ms > 50, "a tenth of the power for at least a second, not for 4 ms"
    assert run.sample_dose_ms() == pytest.approx(sum(r.sample_dose_ms for r in run.ledger.read())), "and counted once"
    assert verify(run) == []


def test_listeners_of_others_can_neither_stop_nor_spoil_a_run(tmp_path):
    """The stock runner's sink hangs on the same signal: a handler's exception ends its thread, silently."""
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    heard = []

    def vandal(image, event) -> None:
        heard.append(event.index)
        image[:] = 0

    core.mda.events.frameReady.connect(vandal)
    core.mda.events.frameReady.connect(lambda *_: 1 / 0)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert len(heard) == 16
    assert verify(run) == [], "checksums are taken from the very pixels that were written"
    assert min(r.mean for r in run.ledger.read()) > 150


def test_the_engine_is_what_pymmcore_plus_expects(tmp_path):
    assert issubclass(AcquisitionEngine, PMDAEngine)
    job = small("simulated", wells="B2", held_out=0)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    events = []
    for name in ("sequenceStarted", "eventStarted", "frameReady", "sequenceFinished"):
        getattr(core.mda.events, name).connect(lambda *_, name=name: events.append(name))
    acquired(job, tmp_path / "RUN", core)
    assert events[0] == "sequenceStarted"
    assert events[-1] == "sequenceFinished"
    assert events.count("frameReady") == 8
    assert not core.mda.is_running()


def test_a_closing_console_makes_it_dark_before_windows_ends_the_process(monkeypatch):
    monkeypatch.setattr(light_guard, "_WINDOWS_WAITS_S", 0.01)
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    asked = []
    with LightGuard(core, job.profile, asked.append) as guard:
        core.setProperty("LED", "Power", 50)
        assert not guard._console_event(0), "Ctrl-C is not its business"
        assert guard._console_event(2)
        assert is_dark(core, job)
    assert asked == ["CTRL_CLOSE_EVENT"]


def started(out, microscope: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "scotopic", "acquire", ROOT / "protocols" / "quickstart.yaml"]
    command += ["-m", ROOT / "hardware_configs" / f"{microscope}.yaml", "--out", out]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a process can catch")
@pytest.mark.parametrize("microscope", ["demo", "simulated"])
def test_sigterm_stops_before_the_next_exposure_and_the_run_goes_on_later(microscope, tmp_path):
    process = started(tmp_path / "RUN", microscope)
    assert process.stdout is not None
    while " of 24 sites" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGTERM)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on from here" in rest
    run = RunFolder(tmp_path / "RUN")
    assert run.read_status("acquire")["state"] == "cancelled"
    assert 0 < len(run.ledger.read()) < 96


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process on Windows")
def test_a_second_ctrl_c_stops_within_the_site(tmp_path):
    process = started(tmp_path / "RUN", "demo")
    assert process.stdout is not None
    while " of 24 sites" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "goes on from here" in rest
    assert "Traceback" not in errors


def test_a_shift_between_the_levels_of_a_site_is_measured_and_kept(tmp_path):
    job = small("simulated", wells="B2", held_out=0)
    data = job.profile.model_dump(mode="json")
    data["simulator"]["drift_um"] = 3.0
    job.profile = type(job.profile).model_validate(data)
    run, _ = acquired(job, tmp_path / "RUN")
    checks = run.light_checks.read()
    shifts = np.array([c.shift_px for c in checks if c.shift_px is not None])
    assert len(shifts) >= 4
    assert 1 < np.abs(shifts).max() < 40


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP"])
def test_a_signal_that_would_end_or_stop_the_process_ends_the_run_in_the_dark(name, tmp_path):
    if not hasattr(signal, name):
        pytest.skip(f"there is no {name} here")
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    before = signal.getsignal(getattr(signal, name))
    core.mda.events.frameReady.connect(lambda *_: signal.raise_signal(getattr(signal, name)))
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "cancelled"
    assert is_dark(core, job)
    assert len(run.ledger.read()) == 1
    assert signal.getsignal(getattr(signal, name)) is before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="there is no SIGHUP here")
def test_a_run_under_nohup_outlives_its_terminal(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    core.mda.events.frameReady.connect(lambda *_: signal.raise_signal(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, result = acquired(job, tmp_path / "RUN", core)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert result.end_reason == "completed"


def test_a_ctrl_c_while_the_light_is_being_switched_off_does_not_leave_it_on(monkeypatch):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    off, signals = LightGuard.off, []

    def interrupted(guard) -> None:
        if armed:
            signal.raise_signal(signal.SIGINT)
        off(guard)

    armed: list[int] = []
    monkeypatch.setattr(LightGuard, "off", interrupted)
    with LightGuard(core, job.profile, signals.append):
        core.setProperty("LED", "Power", 50)
        armed.append(1)
    assert signals == ["SIGINT"]
    assert is_dark(core, job)


def test_who_cancels_while_the_stage_moves_gets_no_further_exposure(tmp_path):
    job = small("simulated", focus={"strategy": "fixed", "z_um": 1200})
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    exposed = []
    core.events.XYStagePositionChanged.connect(
        lambda *_: exposed.append(1) or (signal.raise_signal(signal.SIGTERM) if len(exposed) == 2 else None)
    )
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "cancelled"
    assert len(run.ledger.read()) == 4, "the second site was not begun"


def test_what_a_stage_says_after_the_exposure_cannot_lose_the_frame(tmp_path, monkeypatch):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    snap, lit = core.snapImage, []

    def snap_and_break() -> None:
        snap()
        lit.append(1)

    def position(*_):
        if len(lit) == 3:
            raise RuntimeError("serial timeout")
        return type(core).getXYPosition(core)

    monkeypatch.setattr(core, "snapImage", snap_and_break)
    monkeypatch.setattr(core, "getXYPosition", position)
    run, _ = acquired(job, tmp_path / "RUN", core)
    assert sum(r.state == "written" for r in run.ledger.read()) == len(lit)


def test_a_request_made_while_the_hardware_loads_is_heard(tmp_path):
    job = small("simulated")
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    run.ask("cancel")
    result = acquire(job.protocol, job.profile, job.profile_path, run)
    run.unlock()
    assert result.end_reason == "cancelled"
    assert len(run.ledger.read()) < 16


def test_a_status_that_cannot_be_written_does_not_end_the_run(tmp_path, monkeypatch):
    job = small("simulated")
    write, calls = RunFolder.write_status, []

    def often_refused(run, *args, **values) -> None:
        calls.append(1)
        if len(calls) % 2 == 0 and values["state"] == "running":
            raise PermissionError(13, "someone is reading it")
        write(run, *args, **values)

    monkeypatch.setattr(RunFolder, "write_status", often_refused)
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed"
    assert run.read_status("acquire")["state"] == "completed"


def test_the_status_knows_the_light_of_the_unfinished_site_too(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    core.mda.events.frameReady.connect(lambda *_: core.mda.cancel())
    run, result = acquired(job, tmp_path / "RUN", core)
    dose = sum(r.sample_dose_ms for r in run.ledger.read())
    assert result.progress.sample_dose_ms == pytest.approx(dose)
    assert run.read_status("acquire")["sample_dose_ms"] == pytest.approx(dose, abs=0.001)


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process on Windows")
@pytest.mark.parametrize("microscope", ["simulated"])
def test_three_ctrl_c_end_a_hang_in_the_dark(microscope, tmp_path):
    profile = (ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8")
    profile = profile.replace("camera_timeout_s: 30 ", "camera_timeout_s: 100 ")
    profile += "  faults: [{kind: camera_hangs, after: 1, amount: 50}]\n"
    (tmp_path / "simulated.yaml").write_text(profile, encoding="utf-8")
    shutil.copy(ROOT / "hardware_configs" / "simulated.cfg", tmp_path)
    command = [sys.executable, "-m", "scotopic", "acquire", ROOT / "protocols" / "quickstart.yaml"]
    command += ["-m", tmp_path / "simulated.yaml", "--out", tmp_path / "RUN"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    run = RunFolder(tmp_path / "RUN")
    deadline = time.monotonic() + 30
    while not (run.exists and any(v.level == "0.2%" for v in run.visits.read())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    begun = time.monotonic()
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 15, "the camera hangs for 50 s"
    assert process.returncode == 130
    assert "ended by 3 signals while a device did not answer; the light is off" in errors
    status = run.read_status("acquire")
    assert status["state"] == "failed"
    assert "the light is off" in status["message"]
    assert run.sample_dose_ms() > 0


def test_signals_while_the_hardware_loads_or_unloads_are_heeded(tmp_path, monkeypatch):
    module = importlib.import_module("scotopic.microscope.acquire")
    job = small("simulated")
    real_open, real_close = module.open_microscope, module.close_microscope

    def loading(*args):
        signal.raise_signal(signal.SIGTERM)
        return real_open(*args)

    with monkeypatch.context() as patch:
        patch.setattr(module, "open_microscope", loading)
        run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "cancelled"
    assert run.read_status("acquire")["state"] == "cancelled"
    assert run.ledger.read() == []

    def unloading(core) -> None:
        signal.raise_signal(signal.SIGTERM)
        real_close(core)

    monkeypatch.setattr(module, "close_microscope", unloading)
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed"
    assert run.read_status("acquire")["state"] == "completed"


def test_a_run_from_another_thread_is_dark_at_its_end(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    ended = []
    thread = threading.Thread(target=lambda: ended.append(acquired(job, tmp_path / "RUN", core)[1].end_reason))
    thread.start()
    thread.join()
    assert ended == ["completed"]
    assert is_dark(core, job)


def test_a_hang_is_told_and_how_the_light_is_then(tmp_path):
    job = with_verification(
        small("simulated", [{"kind": "camera_hangs", "after": 1, "amount": 1.5}]), camera_timeout_s=0.5
    )
    said = []
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    write = RunFolder.write_status
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "write_status", lambda r, p, **v: said.append(v["message"]) or write(r, p, **v))
        acquire(job.protocol, job.profile, job.profile_path, run)
    run.unlock()
    told = [line for line in dict.fromkeys(said) if "has not answered" in line]
    assert [line.partition("; ")[2] for line in told] == ["the light is being switched off", "the light is off"]


def test_on_one_adapter_library_a_hang_is_not_said_to_be_cut_short(tmp_path, monkeypatch):
    """MMCore's lock of the demo adapter: the light cannot be reached while its camera hangs."""
    job = with_verification(small("demo"), camera_timeout_s=0.2, stop_after_failures=1)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    lock, real_snap, real_set = threading.Lock(), type(core).snapImage, type(core).setProperty

    def snap() -> None:
        with lock:
            time.sleep(1.5)
            real_snap(core)

    def set_property(*args) -> None:
        with lock:
            real_set(core, *args)

    monkeypatch.setattr(core, "snapImage", snap)
    monkeypatch.setattr(core, "setProperty", set_property)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "the light could not be switched off until it answered" in run.ledger.read()[0].reason


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="pipes end otherwise on Windows")
def test_a_closed_standard_output_ends_nothing(tmp_path):
    process = started(tmp_path / "RUN", "simulated")
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.readline()
    process.stdout.close()
    process.stderr.close()
    assert process.wait(timeout=90) == 0
    assert RunFolder(tmp_path / "RUN").read_status("acquire")["state"] == "completed"
