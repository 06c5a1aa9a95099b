"""Something moves what was reached, time passes between two acquisitions, and people edit what they resume."""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile

from conftest import acquired, rewrite_lines, small
from scotopic.microscope import acquire, engine, open_microscope, prepare_run
from scotopic.protocol import ImagingProtocol, ProblemsError
from scotopic.store import RunFolder, verify
from scotopic.workflow import verify as verify_all
from scotopic.workflow.acquisition import progress_line
from scotopic.workflow.job import with_specimen

FIXED = {"focus": {"strategy": "fixed", "z_um": 1200}}
HARDWARE = {"focus": {"strategy": "hardware"}}


def bumped_run(tmp_path, bump, *, focus, after, times=1, on_failure=None):
    """Acquire, and let something move a stage once a frame has been taken so many times."""
    focus = {"focus": focus["focus"] | ({"on_failure": on_failure} if on_failure else {})}
    job = small("simulated", **focus)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    taken = []

    def meddle(*_) -> None:
        taken.append(1)
        if after <= len(taken) < after + times:
            bump(core)

    core.mda.events.frameReady.connect(meddle)
    return acquired(job, tmp_path / "RUN", core)


def bump_xy(core) -> None:
    x, y = core.getXYPosition()
    core.setXYPosition(x + 100, y)
    core.waitForDevice("XY")


def bump_z(core) -> None:
    core.setZPosition(core.getZPosition() + 10)


@pytest.mark.parametrize("focus", [FIXED, HARDWARE], ids=["fixed", "hardware"])
@pytest.mark.parametrize("bump", [bump_xy, bump_z])
def test_a_site_that_is_bumped_within_is_taken_anew_from_its_first_level(bump, focus, tmp_path):
    run, result = bumped_run(tmp_path, bump, focus=focus, after=6)
    assert result.end_reason == "completed", result.message
    assert verify(run) == []
    lines = [(r.well, r.site, r.attempt, r.level) for r in run.ledger.read()]
    assert lines[4:6] == [("B2", 1, 1, "0.05%"), ("B2", 1, 1, "0.2%")]
    assert [line[2:] for line in lines[6:10]] == [(2, level) for level in ("0.05%", "0.2%", "2%", "100%")]
    assert len(lines) == 18
    assert run.sample_dose_ms() == pytest.approx(sum(r.sample_dose_ms for r in run.ledger.read())), "all light is noted"


@pytest.mark.parametrize("bump", [bump_xy, bump_z])
def test_a_site_that_is_bumped_before_its_first_light_is_reached_again(bump, tmp_path, monkeypatch):
    job = small("simulated", **FIXED)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    real, calls = engine.go_to, []

    def then_bump(core, *rest):
        real(core, *rest)
        calls.append(1)
        if len(calls) == 2:
            bump(core)

    monkeypatch.setattr(engine, "go_to", then_bump)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert {r.attempt for r in run.ledger.read()} == {1}
    assert len(calls) == 5, "four sites, one of them twice"


def test_what_moves_again_and_again_gives_a_site_up_and_no_false_frame(tmp_path):
    run, result = bumped_run(tmp_path, bump_xy, focus=FIXED, after=2, times=3)
    assert result.end_reason == "completed_with_errors"
    skipped = [r for r in run.ledger.read() if r.state == "skipped"]
    assert {(r.well, r.site, r.attempt) for r in skipped} == {("B2", 0, 3)}
    assert all(r.reason.startswith("moved by something again and again") for r in skipped)


def with_a_drive_that_sticks(tmp_path, monkeypatch, after, on_failure):
    """Acquire on a plane with a Z drive that does not move any more after so many moves; return the moves as well."""
    plane = {"strategy": "plane", "points": {"A1": 1200, "A12": 1300, "H1": 1200}, "on_failure": on_failure}
    job = small("simulated", focus=plane)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    moves, real = [], type(core).setZPosition

    def stick(z_um) -> None:
        moves.append(z_um)
        if len(moves) <= after:
            real(core, z_um)

    monkeypatch.setattr(core, "setZPosition", stick)
    return (*acquired(job, tmp_path / "RUN", core), moves)


def test_z_is_moved_with_the_site_and_once(tmp_path, monkeypatch):
    run, result, moves = with_a_drive_that_sticks(tmp_path, monkeypatch, 99, "stop")
    assert result.end_reason == "completed"
    assert moves == [r.z_um for r in run.ledger.read()[::4]]
    assert len(set(moves)) == 4


@pytest.mark.parametrize(
    ("on_failure", "end", "states"),
    [
        ("image_and_flag", "completed_with_errors", ["written"] * 16),
        ("skip_site", "failed", ["written"] * 8 + ["skipped"] * 5),
        ("stop", "failed", ["written"] * 8),
    ],
)
def test_the_policy_of_a_plane_decides_where_z_is_not_reached(on_failure, end, states, tmp_path, monkeypatch):
    run, result, _ = with_a_drive_that_sticks(tmp_path, monkeypatch, 2, on_failure)
    assert result.end_reason == end, result.message
    records = run.ledger.read()
    assert [r.state for r in records] == states
    assert all(r.reason.startswith("Z is at") for r in records[8:])
    assert "Z is at" in result.message or on_failure == "image_and_flag"


def record_waits(monkeypatch, core):
    """Let waits for a time point take no time, and note when each frame would have been due."""
    waits = []
    real = type(core.mda)._wait_until_event

    def wait(runner, event):
        if event.min_start_time:
            waits.append((event.index["t"], event.min_start_time - runner.event_seconds_elapsed()))
        return real(runner, event.model_copy(update={"min_start_time": None}))

    monkeypatch.setattr(type(core.mda), "_wait_until_event", wait)
    return waits


def test_a_resumed_time_lapse_keeps_its_clock(tmp_path, monkeypatch):
    job = small("simulated", wells="B2", held_out=0, time_lapse={"count": 4, "interval_s": 3600})
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    waits = record_waits(monkeypatch, core)
    stop = []

    def stop_in_the_third(_, event) -> None:
        if event.index["t"] == 2 and not stop:
            stop.append(1)
            core.mda.cancel()

    core.mda.events.frameReady.connect(stop_in_the_third)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "cancelled"
    assert [t for t, _ in waits] == [1, 2]
    assert [wait for _, wait in waits] == pytest.approx([3600, 7200], abs=20)
    waits.clear()
    path = tmp_path / "RUN" / "frames.jsonl"  # no time was waited: the first two time points are put where they belong
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for line in lines:
        line["time"] = (datetime.fromisoformat(line["time"]) - timedelta(hours=2 - line["t"])).isoformat()
    rewrite_lines(path, lines)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    # The third time point is under way, no site of it waits; the fourth is due an hour after the third began.
    assert [t for t, _ in waits] == [3]
    assert waits[0][1] == pytest.approx(3600, abs=20)
    assert verify(run) == []


def test_a_time_lapse_that_is_late_does_not_catch_up_in_a_burst(tmp_path, monkeypatch):
    job = small("simulated", wells="B2", held_out=0, time_lapse={"count": 4, "interval_s": 100})
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    waits = record_waits(monkeypatch, core)
    now, real = [0.0], time.time
    monkeypatch.setattr(engine.time, "time", lambda: real() + now[0])

    def a_long_pause(_, event) -> None:
        if event.index["t"] == 0 and event.index["p"] == 1 and event.channel.config == "100%":
            now[0] += 1000

    core.mda.events.frameReady.connect(a_long_pause)
    acquired(job, tmp_path / "RUN", core)
    assert [t for t, _ in waits] == [2, 3], "the second time point is late and taken at once"
    assert [wait for _, wait in waits] == pytest.approx([100, 200], abs=10), "its followers keep their distance"


def test_edits_that_change_nothing_of_the_images_are_noted(tmp_path, caplog):
    job = small("simulated", light_budget_s=0.3)
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "budget_used_up"
    edited = {"description": "second thoughts", "labels": {"B2": {"drug": "none"}}, "light_budget_s": 3}
    job.protocol = ImagingProtocol.model_validate(job.protocol.model_dump() | edited)
    run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed"
    assert run.read_protocol().description == "second thoughts"
    edits = run._read_job()["edits"]
    assert {edit["key"] for edit in edits} >= {"protocol.description", "protocol.light_budget_s"}
    assert "protocol.light_budget_s was 0.3 when the run was begun, and is 3.0 from now on" in caplog.text
    assert RunFolder(tmp_path / "RUN").read_protocol().light_budget_s == 3


def test_a_run_goes_on_from_anywhere_with_its_specimen_and_says_so_without(tmp_path, monkeypatch):
    (tmp_path / "images").mkdir()
    for number in range(2):
        image = np.random.default_rng(number).integers(0, 4000, (512, 1024)).astype(np.uint16)
        tifffile.imwrite(tmp_path / "images" / f"{number}.tif", image)
    job = small("simulated")
    monkeypatch.chdir(tmp_path)
    profile = job.profile
    job.profile = with_specimen(profile, Path("images"))
    assert acquired(job, tmp_path / "RUN")[1].end_reason == "completed"
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    job.profile = with_specimen(profile, tmp_path / "images")
    assert acquired(job, tmp_path / "RUN")[1].end_reason == "completed"
    shutil.move(tmp_path / "images", tmp_path / "moved")
    job.profile = with_specimen(profile, tmp_path / "moved")
    assert acquired(job, tmp_path / "RUN")[1].end_reason == "completed", "the same files in another place"
    job.profile = profile
    with pytest.raises(ProblemsError, match=r"was begun with --specimen \S+moved: give it again"):
        acquired(job, tmp_path / "RUN")


def test_a_killed_run_is_not_said_to_be_running(tmp_path):
    job = small("simulated")
    run, _ = acquired(job, tmp_path / "RUN")
    run.write_status("acquire", state="running", sites={"finished": 4})
    assert run.read_status("acquire")["state"] == "interrupted"
    run.lock()
    assert run.read_status("acquire")["state"] == "running"
    assert any("is being acquired" in str(problem) for problem in verify_all(run.path))
    run.unlock()
    assert verify_all(run.path) == []


def test_a_first_ctrl_c_is_answered_at_once(tmp_path, caplog):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    answered = []

    def interrupt(_, event) -> None:
        if event.index["p"] == 1 and not answered:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.5)
            answered.append("asked to end: finishing this site" in caplog.text)

    core.mda.events.frameReady.connect(interrupt)
    _, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "cancelled"
    assert answered == [True]


def test_a_time_lapse_says_when_it_goes_on_and_when_it_is_done(tmp_path):
    job = small("simulated", wells="B2", held_out=0, time_lapse={"count": 3, "interval_s": 2})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    begun, told = time.time(), []
    acquire(job.protocol, job.profile, job.profile_path, run, on_progress=lambda p: told.append((time.time(), p)))
    run.unlock()
    waits = [p for _, p in told if p.waiting]  # once or twice each: the last site's files may take longer
    kinds = list(dict.fromkeys(p.waiting.split(", at ")[0] for p in waits))
    assert kinds == [f"waiting for time point {t} of 3" for t in (2, 3)]
    last = [p for p in waits if "2 of 3" in p.waiting][-1]
    assert progress_line(last).startswith("2 of 6 sites; waiting for time point 2 of 3, at ")
    assert "; done at about " in last.waiting
    ends = [at + p.seconds_left for at, p in told if p.seconds_left is not None and at - begun > 1]
    assert ends == pytest.approx([time.time()] * len(ends), abs=1), "the waiting is in it, from the first point on"
    assert not told[-1][1].waiting
    assert run.read_status("acquire")["seconds_left"] == 0


def test_a_pause_does_not_make_the_rest_longer(tmp_path):
    job = small("simulated", wells="B2", held_out=0, sites={"rows": 2, "columns": 2})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    told = []

    def show(progress) -> None:
        if progress.paused:
            threading.Timer(3, lambda: run.ask("resume")).start()
        elif progress.sites_done == 1 and not told:
            run.ask("pause")
        if not progress.paused and progress.sites_done:
            told.append(progress.seconds_left)

    acquire(job.protocol, job.profile, job.profile_path, run, on_progress=show)
    run.unlock()
    assert max(told) < 3


def test_a_resume_names_the_one_key_of_a_list_that_differs(tmp_path):
    job = small("simulated")
    acquired(job, tmp_path / "RUN")
    levels = [level.model_dump() for level in job.protocol.light_levels]
    levels[2]["led_percent"] = 20
    job.protocol = ImagingProtocol.model_validate(job.protocol.model_dump() | {"light_levels": levels})
    with pytest.raises(ProblemsError, match=r"light_levels\[2\]\.led_percent = 10\S* in the run .* 20\S* now"):
        acquired(job, tmp_path / "RUN")


def test_after_a_pause_the_next_time_point_comes_a_full_interval_later(tmp_path):
    lapse = {"time_lapse": {"count": 3, "interval_s": 2}, "sites": {"rows": 1, "columns": 1}}
    job = small("simulated", wells="B2", held_out=0, **lapse)
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")

    def show(progress) -> None:
        if progress.paused:
            threading.Timer(4, lambda: run.ask("resume")).start()
        elif progress.sites_done == 1 and "2 of 3" in progress.waiting:
            run.ask("pause")

    acquire(job.protocol, job.profile, job.profile_path, run, on_progress=show)
    run.unlock()
    begun = {r.t: datetime.fromisoformat(r.time).timestamp() for r in reversed(run.ledger.read())}
    assert begun[1] - begun[0] > 4
    assert begun[2] - begun[1] > 1.8
    assert run.read_status("acquire")["waiting"] == ""
