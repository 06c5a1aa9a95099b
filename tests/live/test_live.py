"""The hook on a running acquisition, with a real worker process and a trained network."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from conftest import DATA, small
from scotopic.learning.device import use_threads
from scotopic.learning.model import Model, model_hash
from scotopic.learning.prediction import Predictor
from scotopic.live import LiveHook
from scotopic.microscope import acquire, prepare_run
from scotopic.protocol import MicroscopeProfile
from scotopic.store import LIVE, live_labels, verify

MODEL = DATA / "model.safetensors"


def run_live(job, out, model=MODEL, *, during=lambda _: None, **hooked):
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, out)
    try:
        with LiveHook(run, job.protocol, job.profile, model, **hooked) as hook:
            during(hook)
            result = acquire(job.protocol, job.profile, job.profile_path, run, director=hook)
    finally:
        run.unlock()
    return run, result, hook


def levels(*, dim="always", reference="always"):
    return (
        {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference", "taken": reference},
        {"name": "0.2%", "exposure_ms": 4, "led_percent": 10, "taken": dim},
        {"name": "0.05%", "exposure_ms": 4, "led_percent": 2.5},
    )


def by_state(run):
    records = run.live.read()
    return {state: [r for r in records if r.state == state] for state in {r.state for r in records}}


@pytest.mark.e2e
def test_dark_frames_are_segmented_as_they_are_taken_and_as_they_would_be_afterwards(tmp_path):
    live = {"levels": ["0.05%", "0.2%"], "queue": 16, "sentinels": {"every": 2}}
    job = small("simulated", held_out=0, light_levels=levels(reference="at_sentinels"), live=live)
    run, result, hook = run_live(job, tmp_path / "run")
    assert result.end_reason == "completed"
    assert verify(run) == []
    states = by_state(run)
    assert len(states["segmented"]) == 8
    assert {r.well for r in states["compared"]} == {"B2", "B3"}
    assert len(states["compared"]) == 4, "two levels of two sentinels"
    assert all(r.f1 > 0.8 for r in states["compared"])
    taken = {(r.well, r.site): r.state for r in run.ledger.read() if r.level == "100%"}
    assert sorted(taken.values()) == ["left_out", "left_out", "written", "written"]
    dtype = hook.summary()["computes_in"].split(", ")[1]
    predictor = Predictor(Model.load(MODEL), job.profile.camera.noise, dtype=dtype)
    use_threads(max(1, (os.cpu_count() or 1) - 1))  # as the worker: sums in another order differ in the last digit
    plate = run.plate(job.protocol, job.profile)
    for record in states["segmented"]:
        assert record.nuclei > 20
        assert record.latency_ms > 0
        image = plate.read(record.well, record.site, record.level)
        expected = predictor(image, {"0.2%": 0.002, "0.05%": 0.0005}[record.level]).labels
        order = [level.name for level in job.protocol.light_levels].index(record.level)
        written = plate.read_labels(record.well, record.site, live_labels(order))
        np.testing.assert_array_equal(written, expected)
        table = run.nuclei.read(LIVE, record.well, record.site, 0)
        assert (table["level"] == record.level).sum() == record.nuclei
    assert run.read_status("live")["images"]["segmented"] == 8


@pytest.mark.e2e
def test_an_empty_well_gets_no_bright_light_and_the_light_saved_is_counted(tmp_path):
    job = small("simulated", held_out=0, light_levels=levels(), live={"rules": {"least_nuclei": 3, "wait_s": 20}})
    data = job.profile.model_dump(mode="json")
    data["simulator"]["specimen"] |= {"empty_well_fraction": 0.5, "seed": 4}
    job.profile = MicroscopeProfile.model_validate(data)
    run, result, _ = run_live(job, tmp_path / "run")
    bright = {(r.well, r.site): r for r in run.ledger.read() if r.level == "100%"}
    seen = {(r.well, r.site, r.level): r.nuclei for r in run.live.read()}
    for (well, site), record in bright.items():
        is_empty = seen[well, site, "0.05%"] < 3
        assert record.state == ("left_out" if is_empty else "written")
        assert record.sample_dose_ms == (0 if is_empty else 200)
        assert not is_empty or "nuclei at 0.05%, fewer than 3" in record.reason
    states = [r.state for r in bright.values()]
    assert {"left_out", "written"} == set(states), "this seed has a well of each kind"
    assert result.progress.saved_dose_ms == pytest.approx(states.count("left_out") * 200.4)
    assert verify(run) == []


@pytest.mark.e2e
def test_a_killed_worker_is_back_and_the_acquisition_never_knew(tmp_path):
    job = small("simulated", wells="B2:B5", light_levels=levels(), live={"rules": {"least_nuclei": 1, "wait_s": 20}})
    handed = []

    def with_a_kill(hook):
        hand_over = hook.frame

        def frame(place, record, image):
            hand_over(place, record, image)
            handed.append(record)
            if len(handed) == 4:  # while it looks at this one, or has it before it
                hook._process.kill()

        hook.frame = frame

    run, result, hook = run_live(job, tmp_path / "run", during=with_a_kill)
    assert result.end_reason == "completed"
    assert verify(run) == []
    states = by_state(run)
    assert hook.summary()["restarts"] == 1
    assert states["lost"], "the gap is reported"
    assert states["segmented"][-1].well == "B5", "it is back"
    dim = [r for r in run.ledger.read() if r.level != "100%"]
    assert sum(map(len, states.values())) == len(dim), "each image has its line"


@pytest.mark.e2e
def test_more_images_than_may_wait_are_not_analysed_but_stored(tmp_path):
    job = small("simulated", light_levels=levels(), live={"queue": 1})
    run, result, hook = run_live(job, tmp_path / "run")
    assert result.end_reason == "completed"
    states = by_state(run)
    assert states["dropped"]
    assert len(states["dropped"]) + len(states["segmented"]) == 8
    assert hook.summary()["images"]["dropped"] == len(states["dropped"])
    assert all(r.state == "written" for r in run.ledger.read())
    assert verify(run) == []


@pytest.mark.e2e
def test_a_model_that_is_promoted_meanwhile_is_taken_up(tmp_path):
    job = small("simulated", wells="B2:B5", light_levels=levels(), live={"rules": {"least_nuclei": 1, "wait_s": 20}})
    out = tmp_path / "run"

    def promote(record):
        if not (out / "models" / "latest.json").exists():
            (out / "models").mkdir(exist_ok=True)
            name = f"{model_hash(MODEL)}.safetensors"
            (out / "models" / name).write_bytes(MODEL.read_bytes())
            (out / "models" / "latest.json").write_text(f'{{"model": "{name}"}}')
            time.sleep(2.5)

    run, _, _ = run_live(job, out, model=None, on_record=promote)
    models = [record.model for record in run.live.read()]
    assert models[0] == ""
    assert models[-1] == model_hash(MODEL)
    assert [r.state for r in run.live.read() if not r.model] == ["no model"] * models.count("")


@pytest.mark.e2e
def test_the_hook_runs_on_the_demo_devices(tmp_path):
    job = small("demo", light_levels=levels(), live={})
    run, result, hook = run_live(job, tmp_path / "run")
    assert result.end_reason.startswith("completed")
    images = hook.summary()["images"]
    assert images["segmented"] + images["dropped"] == 8
    assert verify(run) == []


@pytest.mark.e2e
def test_the_newest_image_is_shown_with_what_was_found_in_it(tmp_path):
    from scotopic.live.view import newest

    job = small("simulated", wells="B2", held_out=0, light_levels=levels(), live={"queue": 16, "levels": ["0.2%"]})
    run, _, _ = run_live(job, tmp_path / "run")
    name, picture = newest(run)
    last = run.live.read()[-1]
    assert name == f"B2_{last.site}, t 0, 0.2%: {last.nuclei} nuclei"
    assert picture.shape == (512, 512, 3)
    red = (picture == (255, 40, 40)).all(-1)
    assert red.mean() > 0.01, "contours"


@pytest.mark.e2e
@pytest.mark.parametrize(("bleaching", "fades"), [(0.3, True), (0.0, False)])
def test_a_sample_that_fades_is_noticed_by_the_sentinels(tmp_path, bleaching, fades):
    sentinels = {"every": 1, "window": 4, "then": "warn"}
    live = {"levels": ["0.05%"], "queue": 40, "sentinels": sentinels}
    dark = (*levels()[:1], *levels()[2:])
    job = small(
        "simulated", wells="B2", held_out=0, light_levels=dark, live=live, time_lapse={"count": 8, "interval_s": 0}
    )
    data = job.profile.model_dump(mode="json")
    data["simulator"]["bleaching_per_full_exposure"] = bleaching
    job.profile = MicroscopeProfile.model_validate(data)
    run, result, hook = run_live(job, tmp_path / "run")
    assert result.end_reason == "completed"
    alarms = hook.summary()["alarms"]
    assert bool(alarms) == fades
    compared = [record.f1 for record in run.live.read() if record.state == "compared"]
    assert len(compared) == 16
    assert min(compared[:2]) > 0.8
    assert (compared[-1] < 0.5) == fades
    assert not fades or "sentinels at 0.05%: " in alarms[0]
