from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import yaozarrs

from conftest import ROOT, acquired, is_dark, no_line_after, small
from scotopic.microscope import engine, open_microscope, prepare_run
from scotopic.microscope.exposure import autofocus
from scotopic.protocol import MicroscopeProfile, ProblemsError
from scotopic.reference import make_references
from scotopic.store import PlateStore, RunFolder, finished_sites, verify, wrong_light
from scotopic.workflow import retake


@pytest.mark.parametrize("microscope", ["demo", "simulated"])
def test_a_plate_is_acquired_verified_and_read_by_others(microscope, tmp_path):
    job = small(microscope)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    heard = []
    core.mda.events.frameReady.connect(lambda image, event: heard.append(event.channel.config))
    stock = core.mda.engine
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed", result.message
    assert is_dark(core, job)
    assert core.mda.engine is stock
    assert core.getAutoShutter()
    assert len(heard) == 16, "other listeners still get every frame"
    assert verify(run) == []
    yaozarrs.validate_zarr_store(str(tmp_path / "RUN" / "plate.ome.zarr"))
    records = run.ledger.read()
    assert [r.index for r in records] == list(range(16))
    assert {r.attempt for r in records} == {1}
    source = job.profile.light_source("DAPI")
    for r in records:
        assert r.led_read_percent == pytest.approx(r.led_percent, abs=source.step / source.max * 50)
        assert r.exposure_read_ms == r.exposure_ms
        assert np.hypot(*np.subtract(r.xy_um, r.xy_read_um)) < 2
        assert r.signal_dose_ms == pytest.approx(r.exposure_ms * r.led_percent / 100, rel=1e-4)
        assert r.sample_dose_ms >= r.signal_dose_ms
    status = run.read_status("acquire")
    assert status["state"] == "completed"
    saturated = 4 if microscope == "demo" else 0  # MMCore's pattern at 200 ms
    assert status["frames"] == {
        "planned": 16,
        "written": 16,
        "skipped": 0,
        "left_out": 0,
        "flagged": 0,
        "saturated": saturated,
    }


def test_every_frame_lies_under_its_light(tmp_path):
    job = small("simulated")
    run, _ = acquired(job, tmp_path / "RUN")
    plate = run.plate(job.protocol, job.profile)
    for r in run.ledger.read():
        signal_counts = plate.read(r.well, r.site, r.level).mean() - 200
        full = plate.read(r.well, r.site, "100%").mean() - 200
        level = next(lv for lv in job.protocol.light_levels if lv.name == r.level)
        assert signal_counts == pytest.approx(full * job.protocol.relative_dose(level), rel=0.05, abs=0.1)


def test_a_failed_snap_leaves_a_hole_and_shifts_nothing(tmp_path):
    """With the stock engine and an order-addressed writer all later frames land one early."""
    job = small("simulated", [{"kind": "snap_fails", "after": 5}])
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed_with_errors"
    skipped = [r for r in run.ledger.read() if r.state == "skipped"]
    assert [(r.index, r.reason) for r in skipped] == [(5, "camera error: no image was read out")]
    assert verify(run) == []
    plate = run.plate(job.protocol, job.profile)
    assert plate.read("B2", 1, "0.2%").max() == 0
    assert plate.read("B2", 1, "2%").mean() - 200 == pytest.approx(
        0.02 * (plate.read("B2", 1, "100%").mean() - 200), rel=0.05
    )


ONCE = {
    "led_ignores": [{"kind": "led_ignores", "after": 2}],
    "stage_stops_short": [{"kind": "stage_stops_short", "amount": 50}],
    "autofocus_fails": [{"kind": "autofocus_fails", "times": 2}],
}


@pytest.mark.parametrize("faults", ONCE.values(), ids=ONCE.keys())
def test_what_goes_wrong_once_is_tried_again(faults, tmp_path):
    run, result = acquired(small("simulated", faults), tmp_path / "RUN")
    assert result.end_reason == "completed", result.message
    assert verify(run) == []


ALWAYS = {
    "stage_stops_short": ([{"kind": "stage_stops_short", "amount": 50, "after": 1, "times": None}], "the stage is at"),
    "autofocus_fails": ([{"kind": "autofocus_fails", "after": 1, "times": None}], "autofocus failed"),
    "snap_fails": ([{"kind": "snap_fails", "after": 4, "times": None}], "no image was read out"),
    "shutter_sticks": ([{"kind": "shutter_sticks", "after": 8, "times": None}], "did not open"),
}


@pytest.mark.parametrize(("faults", "reason"), ALWAYS.values(), ids=ALWAYS.keys())
def test_what_stays_wrong_stops_the_run_with_the_light_off_and_no_false_frame(faults, reason, tmp_path):
    job = small("simulated", faults)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "frames of 2 sites in a row were skipped" in result.message
    assert reason in result.message
    assert is_dark(core, job)
    assert run.read_status("acquire")["state"] == "failed"
    records = run.ledger.read()
    assert [r.state for r in records] == ["written"] * 4 + ["skipped"] * 5
    assert all(r.site == 0 and r.well == "B2" for r in records[:4])
    assert sum(r.signal_dose_ms for r in records[4:]) == 0


def test_a_run_goes_on_with_its_own_configuration_alone(tmp_path):
    job = small("demo")
    acquired(job, tmp_path / "RUN")
    text = (ROOT / "hardware_configs" / "demo.cfg").read_bytes()
    (tmp_path / "demo.cfg").write_bytes(text.replace(b"\n", b"\r\n"))
    job.profile_path = tmp_path / "demo.yaml"
    assert acquired(job, tmp_path / "RUN")[1].end_reason == "completed", "line ends make no difference"
    lines = text.splitlines()
    number = next(n for n, line in enumerate(lines) if line.startswith(b"ConfigGroup,Channel,DAPI"))
    (tmp_path / "demo.cfg").write_bytes(b"\n".join(lines[:number] + lines[number + 1 :]))
    with pytest.raises(ProblemsError, match=f"line {number + 1} is not that of the configuration"):
        acquired(job, tmp_path / "RUN")


def test_the_remains_of_a_run_are_not_written_into(tmp_path):
    job = small("simulated")
    run, _ = acquired(job, tmp_path / "RUN")
    (run.path / "job.json").unlink()
    before = len(run.ledger.read())
    with pytest.raises(
        ProblemsError, match=r"holds frames\.jsonl, visits\.jsonl, light\.jsonl, plate\.ome\.zarr, but no"
    ):
        acquired(job, tmp_path / "RUN")
    assert len(run.ledger.read()) == before


def test_one_bad_site_is_one_failure_and_good_ones_begin_anew(tmp_path):
    """Two failures stop a run: the first site and the third are bad, one frame each or all."""
    job = small("simulated", [{"kind": "snap_fails", "times": 4}, {"kind": "snap_fails", "after": 8, "times": 1}])
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed_with_errors"
    assert [r.state for r in run.ledger.read()].count("skipped") == 5


def test_a_shutter_that_does_not_close_has_the_led_switched_off_at_once(tmp_path):
    job = small("simulated", [{"kind": "shutter_sticks", "after": 9, "times": None}])
    job.profile = MicroscopeProfile.model_validate(
        job.profile.model_dump() | {"verification": job.profile.verification.model_dump() | {"stop_after_failures": 1}}
    )
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "the light could not be switched off: the shutter Shutter is open" in result.message
    assert float(core.getProperty("LED", "Power")) == 0
    last = run.ledger.read()[-1]
    assert last.state == "skipped"
    assert last.sample_dose_ms == pytest.approx(4 * 0.025), "the sample was lit, though there is no image"


def test_a_led_that_no_longer_obeys_gives_no_frame_under_a_wrong_light(tmp_path):
    """It stays off, where the stock engine would label the darkness with a light."""
    run, result = acquired(small("simulated", [{"kind": "led_ignores", "after": 4, "times": None}]), tmp_path / "RUN")
    assert result.end_reason == "failed"
    assert "frames of 2 sites in a row were skipped" in result.message
    records = run.ledger.read()
    assert [r.state for r in records] == ["written"] * 4 + ["skipped"] * 5
    assert all("LED.Power is 0.0 (asked: " in r.reason and r.sample_dose_ms == 0 for r in records[4:])


def test_a_led_that_echoes_the_request_but_does_not_obey_is_caught_by_the_images(tmp_path):
    fault = [{"kind": "led_misreports", "after": 4, "times": 1, "amount": 10}]  # the second site's 2.5 % is 10 %
    run, result = acquired(small("simulated", fault), tmp_path / "RUN")
    assert result.end_reason == "completed_with_errors"
    assert "1 frames have the wrong light by the images' proof" in result.message
    checks = run.light_checks.read()
    assert len(checks) == 4 * 3
    wrong = [(c.well, c.site, c.level) for c in checks if c.verdict == "wrong"]
    assert wrong == [("B2", 1, "0.05%")]
    assert all(c.verdict == "ok" for c in checks if (c.well, c.site, c.level) not in wrong)


def test_a_lamp_that_dies_is_found_out_by_its_dark_images(tmp_path):
    """Nothing of such a site is proved by the rest of its well, which the lamp has lit; nor does it pass for an empty one."""
    fault = [{"kind": "led_misreports", "after": 12, "times": None, "amount": 0}]
    run, result = acquired(small("simulated", fault), tmp_path / "RUN")
    assert result.end_reason == "completed_with_errors"
    assert "1 frames have the wrong light by the images' proof" in result.message
    lit, dark = run.light_checks.read()[:9], run.light_checks.read()[9:]
    assert {c.verdict for c in lit} == {"ok"}
    assert {c.level: (c.verdict, c.expected) for c in dark} == {
        "100%": ("wrong", None), **dict.fromkeys(("2%", "0.2%", "0.05%"), ("undetermined", None))
    }  # fmt: skip
    assert str(wrong_light(run)[0]).startswith(
        "1 frames have the wrong light by the images' proof, for example 100% of B3_1"
    )
    assert {record.name for record in make_references(run, workers=1)} == {"B2_0", "B2_1", "B3_0"}


def test_a_run_whose_lamp_is_dead_ends_and_its_sites_can_be_taken_anew(tmp_path):
    """The profile says: two failures in a row. The light may reach the sample all the same, and not the camera."""
    fault = [{"kind": "led_misreports", "after": 4, "times": None, "amount": 0}]
    job = small("simulated", fault, wells="B2:B5")
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "failed"
    dark = [name for name in ("B2_1", "B3_0", "B3_1", "B4_0", "B4_1", "B5_0", "B5_1") if f" {name}" in result.message]
    assert 2 <= len(dark) < 7, "the proof comes while the next sites are under way"
    assert f"stopped after the bright images of {len(dark)} sites in a row were dark: lamp" in result.message
    assert f'scotopic retake "{run.path}" B2_1 B3_0' in result.message
    for site in dark:
        retake(run.path, site)
    assert wrong_light(run) == []
    assert list(finished_sites(run.ledger.read(), 4)) == [("B2", 0, 0)], "all others are taken by the same command"


def test_the_demo_cameras_pattern_proves_nothing(tmp_path):
    job = small("demo")
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed"
    assert run.light_checks.read() == []
    job.profile = job.profile.model_copy(
        update={"verification": job.profile.verification.model_copy(update={"light_check": True})}
    )
    run, result = acquired(job, tmp_path / "RUN2")
    assert "ok" not in {c.verdict for c in run.light_checks.read() if c.level != "2%"}


def test_an_autofocus_failure_is_never_imaged_unflagged(tmp_path):
    fault = [{"kind": "autofocus_fails", "after": 1, "times": 3}]
    job = small("simulated", fault, focus={"strategy": "hardware", "on_failure": "image_and_flag"})
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed_with_errors"
    assert result.message == "4 frames are flagged, the ledger says why"
    assert run.read_status("acquire")["frames"]["flagged"] == 4
    flagged = {(r.well, r.site) for r in run.ledger.read() if r.reason.startswith("autofocus failed")}
    assert flagged == {("B2", 1)}


class FullDisk:
    """A plate on a disk that fills."""

    def __init__(self, after: int) -> None:
        self.left = after
        self.write = PlateStore.write

    def __call__(self, plate, *args) -> None:
        self.left -= 1
        if self.left < 0:
            raise OSError(28, "No space left on device")
        self.write(plate, *args)


@pytest.mark.parametrize("microscope", ["demo", "simulated"])
def test_a_write_error_stops_the_run_at_once_and_resume_completes_it(microscope, tmp_path, monkeypatch):
    job = small(microscope)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    full = FullDisk(after=6)
    with monkeypatch.context() as patch:
        patch.setattr(PlateStore, "write", lambda self, *args: full(self, *args))
        run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "No space left on device" in result.message
    assert is_dark(core, job)
    assert len(run.ledger.read()) == 6
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert verify(run) == []
    records = run.ledger.read()
    attempts = {(r.well, r.site): r.attempt for r in records}
    assert attempts == {("B2", 0): 1, ("B2", 1): 2, ("B3", 0): 1, ("B3", 1): 1}
    assert len([r for r in records if (r.well, r.site) == ("B2", 0)]) == 4, "a finished site is never exposed again"


def test_cancel_of_pymmcore_plus_ends_with_the_light_off(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    core.mda.events.frameReady.connect(lambda *_: core.mda.cancel())
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "cancelled"
    assert is_dark(core, job)
    assert len(run.ledger.read()) == 1


def test_a_light_budget_stops_the_run_before_it_is_exceeded(tmp_path):
    job = small("simulated", light_budget_s=0.7)
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "budget_used_up"
    assert "the next site would exceed the light budget of 0.7 s" in result.message
    records = run.ledger.read()
    assert len(records) == 3 * 4
    assert 0.6 < sum(r.sample_dose_ms for r in records) / 1000 <= 0.7
    _, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "budget_used_up"
    assert len(run.ledger.read()) == 3 * 4, "resume knows what has been given"


def test_the_budget_holds_within_a_site_as_well(tmp_path, monkeypatch):
    """A hang or a slow shutter may cost more than a site was planned to take."""
    job = small("simulated", light_budget_s=0.45)
    real = engine.expose

    def slow(core, *rest):
        exposure = real(core, *rest)
        is_2_percent = core.getExposure() == 4 and float(core.getProperty("LED", "Power")) == 100
        return replace(exposure, lit_ms=300.0) if is_2_percent else exposure

    monkeypatch.setattr(engine, "expose", slow)
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "budget_used_up"
    assert "the next exposure would exceed the light budget of 0.45 s" in result.message
    assert [r.level for r in run.ledger.read()] == ["0.05%", "0.2%", "2%"]
    assert run.sample_dose_ms() == sum(r.sample_dose_ms for r in run.ledger.read()), "all light was noted"


def test_light_that_a_kill_has_left_unnoted_counts_as_given(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    with no_line_after(5):
        run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    given = float(core.getProperty("Simulator", "DeliveredLight_ms"))
    assert sum(r.sample_dose_ms for r in run.ledger.read()) < given - 0.1
    assert given <= run.sample_dose_ms() <= given + 420, "at most the sites under way more than was given"
    _, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert verify(run) == []
    attempts = [(r.site_key, r.attempt) for r in run.ledger.read()]
    assert attempts.count((("B2", 1, 0), 1)) == 1, "the visit that was cut short"
    assert attempts.count((("B2", 1, 0), 2)) == 4, "a visit of which no line says so counts as well"
    assert result.progress.sample_dose_ms >= 0.99 * float(core.getProperty("Simulator", "DeliveredLight_ms"))


def test_a_run_goes_on_only_with_the_same_protocol_and_profile(tmp_path):
    acquired(small("simulated"), tmp_path / "RUN")
    with pytest.raises(ProblemsError, match=r"protocol\.wells = 'B2:B3' in the run that was begun here, 'B2:B4' now"):
        acquired(small("simulated", wells="B2:B4"), tmp_path / "RUN")


def test_a_run_belongs_to_one_process_at_a_time(tmp_path):
    job = small("simulated")
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    with pytest.raises(ProblemsError, match="another process is acquiring"):
        prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    run.unlock()


def test_pixels_that_changed_behind_the_ledgers_back_are_found(tmp_path):
    job = small("simulated")
    run, _ = acquired(job, tmp_path / "RUN")
    plate = run.plate(job.protocol, job.profile)
    plate.write("B3", 1, "2%", 0, 0, np.zeros((512, 512), np.uint16))
    told = [str(problem) for problem in verify(run)]
    assert len(told) == 1
    assert "2% of B3_1, t 0, z 0 is not what the camera gave (checksum)" in told[0]
    with pytest.raises(ProblemsError, match="2% of B3_1 is not what the ledger says"):
        acquired(job, tmp_path / "RUN")


def test_stacks_and_time_lapses_are_addressed_as_well(tmp_path):
    changes = {
        "wells": "B2",
        "held_out": 0,
        "z_stack": {"planes": 3, "step_um": 4},
        "time_lapse": {"count": 2, "interval_s": 0},
        "focus": {"strategy": "fixed", "z_um": 1200},
    }
    run, result = acquired(small("simulated", **changes), tmp_path / "RUN")
    assert result.end_reason == "completed", result.message
    assert verify(run) == []
    records = run.ledger.read()
    assert len(records) == 2 * 2 * 4 * 3
    assert [r.index for r in records] == list(range(48))
    assert {r.z_read_um for r in records} == {1196, 1200, 1204}


def test_retries_of_the_autofocus_stay_within_the_z_limits():
    job = small("simulated")
    stage = job.profile.stage.model_copy(update={"z_um": (0, 500)})
    profile = job.profile.model_copy(update={"stage": stage})
    core = open_microscope(profile, job.profile_path, job.protocol)
    with pytest.raises(RuntimeError, match="outside 0 to 500"):
        autofocus(core, profile, 0)


@pytest.mark.e2e
@pytest.mark.parametrize("microscope", ["demo", "simulated"])
def test_a_run_that_is_killed_again_and_again_ends_complete(microscope, tmp_path):
    """SIGKILL at random moments; on Windows TerminateProcess. Every level of a site is of one visit, none is lost."""
    out = tmp_path / "RUN"
    command = [
        sys.executable,
        "-m",
        "scotopic",
        "acquire",
        ROOT / "protocols" / "quickstart.yaml",
        "-m",
        ROOT / "hardware_configs" / f"{microscope}.yaml",
        "--out",
        out,
    ]
    rng = np.random.default_rng(1)
    for _ in range(5):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        ledger = RunFolder(out).ledger
        before = len(ledger.read()) if out.exists() else 0
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            if (out / "frames.jsonl").exists() and len(ledger.read()) > before + int(rng.integers(1, 12)):
                break
            time.sleep(0.01)
        time.sleep(float(rng.random()) * 0.1)
        process.kill()
        process.wait()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = RunFolder(out)
    assert verify(run) == []
    records = run.ledger.read()
    assert max(r.attempt for r in records) > 1, "no kill has hit a site: the test is void"
    final = {}
    for r in records:
        final.setdefault((r.well, r.site), []).append(r)
    for site, lines in final.items():
        last = max(r.attempt for r in lines)
        assert len([r for r in lines if r.attempt == last]) == 4, site
        assert all(len([r for r in lines if r.attempt == a]) < 4 for a in range(1, last)), (
            "a finished site was exposed again"
        )


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process on Windows")
def test_the_first_ctrl_c_finishes_the_site_and_says_how_to_go_on(tmp_path):
    out = tmp_path / "RUN"
    command = [sys.executable, "-m", "scotopic", "acquire", ROOT / "protocols" / "quickstart.yaml"]
    command += ["-m", ROOT / "hardware_configs" / "simulated.yaml", "--out", out]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while " of 24 sites" not in (line := process.stdout.readline()):
        assert line
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on from here" in rest
    records = RunFolder(out).ledger.read()
    assert len(records) % 4 == 0
    assert json.loads((out / "status" / "acquire.json").read_text())["state"] == "cancelled"


@pytest.mark.e2e
@pytest.mark.skipif(sys.platform == "win32", reason="a console's Ctrl-C cannot be sent to one process on Windows")
def test_ctrl_c_does_not_wait_for_the_next_time_point(tmp_path):
    protocol = tmp_path / "p.yaml"
    text = (ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8")
    text = text.replace("wells: B2:C4", "wells: B2").replace("held_out: 2", "time_lapse: {count: 2, interval_s: 3600}")
    protocol.write_text(text)
    out = tmp_path / "RUN"
    command = [
        sys.executable,
        "-m",
        "scotopic",
        "acquire",
        protocol,
        "-m",
        ROOT / "hardware_configs" / "simulated.yaml",
    ]
    process = subprocess.Popen([*command, "--out", out], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "4 of 8 sites" not in (line := process.stdout.readline()):
        assert line
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors
    assert "the same command goes on from here" in rest
