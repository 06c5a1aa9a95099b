"""Decisions and sentinels, from what is known to what is done."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from conftest import small
from scotopic.live import LiveHook, drift
from scotopic.live.rules import decide, enough
from scotopic.microscope import acquire, prepare_run
from scotopic.microscope.director import AsPlanned, Decision, Place
from scotopic.protocol import ImagingProtocol, LightLevel, Rules, Sentinels
from scotopic.store import LiveRecord, verify

BRIGHT = LightLevel(name="100%", exposure_ms=200, led_percent=100, role="reference")
UNSURE = LightLevel(name="2%", exposure_ms=4, led_percent=100, taken="when_unsure")
TAKEN, LEFT_OUT = Decision(), Decision(False, "no rule asked for it")


def seen(**values):
    place = {"well": "B2", "site": 0, "attempt": 1, "level": "0.2%", "state": "segmented"}
    return LiveRecord.model_validate(place | {"nuclei": 50, "confidence": 0.8} | values)


def decided(rules, level, planned, *, is_sentinel=False, retaken=0, **values):
    return decide(rules, level, planned, seen(**values), is_sentinel=is_sentinel, retaken=retaken)


def test_an_empty_site_gets_no_brighter_image_but_at_a_sentinel():
    rules = Rules(least_nuclei=5)
    assert decided(rules, BRIGHT, TAKEN, nuclei=5).taken
    assert decided(rules, BRIGHT, TAKEN, nuclei=4) == Decision(False, "4 nuclei at 0.2%, fewer than 5")
    assert decided(rules, BRIGHT, TAKEN, nuclei=0, confidence=None, is_sentinel=True).taken


def test_where_the_network_is_unsure_the_next_level_is_taken_and_not_where_it_is_not():
    rules = Rules(least_confidence=0.6)
    assert not decided(rules, UNSURE, LEFT_OUT, confidence=0.6).taken
    assert decided(rules, UNSURE, LEFT_OUT, confidence=0.55) == Decision(True, "confidence 0.55 at 0.2%, less than 0.6")
    assert not decided(rules, UNSURE, LEFT_OUT, nuclei=0, confidence=None).taken, "nothing to be unsure of"


def test_a_site_that_is_not_plausible_is_taken_anew_as_often_as_allowed():
    rules = Rules(retakes=1)
    first = decided(rules, BRIGHT, TAKEN, reason="saturated")
    assert first.anew
    assert "saturated" in first.reason
    assert not decided(rules, BRIGHT, TAKEN, reason="saturated", retaken=1).anew


def test_a_well_with_enough_nuclei_is_told_so():
    assert enough(Rules(enough_nuclei=100), "B2", 100) == "B2 has 100 nuclei, 100 are enough"
    assert not enough(Rules(enough_nuclei=100), "B2", 99)
    assert not enough(Rules(), "B2", 10**6)


def sentinels(rng, count, missed, false):
    """Compared sites of some 70 nuclei, which differ among themselves more than by chance."""
    records = []
    for _ in range(count):
        there = int(rng.poisson(70))
        hard = rng.lognormal(-0.08, 0.4)
        lost, more = min(rng.poisson(missed * hard * there), there), rng.poisson(false * hard * there)
        figures = {"reference_nuclei": there, "matched": there - lost, "nuclei": there - lost + more}
        records.append(seen(state="compared", **figures))
    return records


def test_a_stable_sample_is_left_alone_and_a_fading_one_is_noticed():
    rng, settings = np.random.default_rng(0), Sentinels()
    stable = sentinels(rng, 2000, missed=0.09, false=0.05)
    alarms = sum(bool(drift(stable[: number + 1][-5:], settings)) for number in range(len(stable)))
    assert alarms <= 2, "at most once in a thousand"
    assert "counts -" in drift(sentinels(rng, 5, missed=0.5, false=0.05), settings)
    wrong = drift(sentinels(rng, 5, missed=0.6, false=0.6), settings)
    assert "F1 0." in wrong
    assert "less than 0.75 (the last 5 sentinels" in wrong
    assert "counts +" in drift(sentinels(rng, 5, missed=0.05, false=0.35), settings)
    assert "F1 0.00" in drift(sentinels(rng, 1, missed=1, false=0), settings), "one is enough where nothing is found"
    assert not drift([seen(state="compared", reference_nuclei=10, matched=0, nuclei=0)], settings), "too few to tell"


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"live": None}, "is needed where a light level has taken: at_sentinels"),
        ({"live": {}}, "sentinels must be named"),
        ({"live": {"levels": ["7%"], "sentinels": {}}}, "levels: 7% not allowed; allowed: 0.05%"),
        ({"live": {"levels": ["100%"], "sentinels": {}}}, "levels: 100% not allowed"),
        ({"live": {"sentinels": {}}, "exposure_order": "as_listed"}, "need exposure_order: dimmest_first"),
        ({"live": {"sentinels": {"then": "brighter"}}}, "no light level has taken: when_unsure"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, told):
    data = low_light().protocol.model_dump() | changes
    with pytest.raises(ValueError, match=told):
        ImagingProtocol.model_validate(data)


def low_light(**changes):
    levels = (
        {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference", "taken": "at_sentinels"},
        {"name": "0.05%", "exposure_ms": 4, "led_percent": 2.5},
    )
    changes = {"held_out": 0, "light_levels": levels, "live": {"sentinels": {"every": 3}}} | changes
    return small("simulated", **changes)


def test_only_sentinels_get_bright_light_also_without_a_network(tmp_path):
    job = low_light(wells="B2:B4", time_lapse={"count": 2, "interval_s": 0})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "run")
    with run.masks_lock():
        result = acquire(job.protocol, job.profile, job.profile_path, run)
    run.unlock()
    assert result.end_reason == "completed"
    bright = {(r.t, r.well, r.site): r for r in run.ledger.read() if r.level == "100%"}
    sites = [(well, site) for well in ("B2", "B3", "B4") for site in (0, 1)]
    lit = {(t, *sites[place]) for t in (0, 1) for place in range(6) if (place + t) % 3 == 0}
    assert {key for key, record in bright.items() if record.state == "written"} == lit
    assert {record.reason for key, record in bright.items() if key not in lit} == {"no sentinel"}
    reference = next(level for level in job.protocol.light_levels if level.role == "reference")
    assert job.protocol.times_taken(reference) == len(lit) == 4
    assert result.progress.sample_dose_ms == pytest.approx(4 * 200 + 12 * 0.1)
    assert result.progress.saved_dose_ms == 0, "it was never planned"
    assert verify(run) == []


@pytest.mark.parametrize(("held_out", "bright_sites"), [("full_light", 4), ("as_others", 2)])
def test_held_out_wells_get_their_full_light_whatever_sentinels_and_rules_say(tmp_path, held_out, bright_sites):
    job = low_light(held_out="B3", live={"sentinels": {"every": 4}, "held_out": held_out}, wells="B2:B4")
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "run")
    acquire(job.protocol, job.profile, job.profile_path, run)
    run.unlock()
    bright = [r for r in run.ledger.read() if r.level == "100%" and r.state == "written"]
    assert len(bright) == bright_sites
    assert sum(r.well == "B3" for r in bright) == (2 if held_out == "full_light" else 0)


def test_no_rule_leaves_out_an_image_of_a_held_out_well():
    job = low_light(held_out="B3", live={"sentinels": {"every": 4}, "rules": {"least_nuclei": 5, "enough_nuclei": 1}})
    place = Place(("B3", 0, 0), 1, 2)
    hook = object.__new__(LiveHook)  # what it decides by alone: no worker is needed
    hook._protocol, hook._live, hook._raised, hook._decided = job.protocol, job.protocol.live, None, {}
    hook._planned = AsPlanned(job.protocol)
    assert hook.site(place) == ""
    assert hook.level(place, job.protocol.reference).taken


def test_after_an_alarm_the_brighter_level_replaces_the_dimmer(tmp_path, caplog):
    levels = (
        {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference", "taken": "at_sentinels"},
        {"name": "2%", "exposure_ms": 4, "led_percent": 100, "taken": "when_unsure"},
        {"name": "0.2%", "exposure_ms": 4, "led_percent": 10, "taken": "when_unsure"},
        {"name": "0.05%", "exposure_ms": 4, "led_percent": 2.5},
    )
    job = low_light(light_levels=levels, live={"sentinels": {"every": 2, "then": "brighter"}})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "run")
    run.unlock()
    hook = LiveHook(run, job.protocol, job.profile, None)  # not entered: no worker
    bad = {"state": "compared", "reference_nuclei": 70, "matched": 20, "nuclei": 22}
    for _ in range(2):
        hook._remember(seen(level="0.05%", **bad))
        hook._watch("0.05%")
    assert "0.2% is taken instead of dimmer levels" in caplog.text
    from scotopic.microscope.director import Place

    planned = {level.name: hook.level(Place(("B2", 1, 0), 1, 1), level) for level in job.protocol.light_levels}
    assert {name: decision.taken for name, decision in planned.items()} == {
        "100%": False, "2%": False, "0.2%": True, "0.05%": False,
    }  # fmt: skip
    hook._remember(seen(level="0.2%", **bad))
    hook._watch("0.2%")
    assert hook.level(Place(("B2", 1, 1), 1, 1), job.protocol.light_levels[1]).taken, "and the next one"


def test_light_that_sentinels_have_raised_stays_raised_when_the_run_goes_on(tmp_path):
    from scotopic.microscope.director import Place

    levels = (
        {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference", "taken": "at_sentinels"},
        {"name": "0.2%", "exposure_ms": 4, "led_percent": 10, "taken": "when_unsure"},
        {"name": "0.05%", "exposure_ms": 4, "led_percent": 2.5},
    )
    job = low_light(light_levels=levels, live={"sentinels": {"every": 2, "then": "brighter"}})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "run")
    run.unlock()
    bad = {"state": "compared", "reference_nuclei": 70, "matched": 20, "nuclei": 22}
    run.live.append([seen(level="0.05%", **bad)])
    hook = LiveHook(run, job.protocol, job.profile, None)
    taken = {level.name: hook.level(Place(("B2", 1, 0), 1, 1), level).taken for level in job.protocol.light_levels}
    assert taken == {"100%": False, "0.2%": True, "0.05%": False}
    assert len(hook.summary()["alarms"]) == 1


def test_a_latest_model_that_cannot_be_read_stops_no_worker(tmp_path):
    from scotopic.live.messages import Setup
    from scotopic.live.worker import _Worker

    job = low_light()
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "run")
    run.unlock()
    run.models_path.mkdir()
    worker = _Worker(Setup(run.path, None, (512, 512)))
    assert not worker.look_for_a_model()
    for content in ("{", '{"model": "gone.safetensors"}', '{"model": "torn.safetensors"}', "{}"):
        (run.models_path / "torn.safetensors").write_bytes(b"torn")
        (run.models_path / "latest.json").write_text(content, encoding="utf-8")
        assert not worker.look_for_a_model()
    frame = SimpleNamespace(well="B2", site=0, t=0, z=0, attempt=1, level="0.05%")
    record = worker._segmented(frame, None)
    assert record.state == "no model"
    assert "it cannot be used" in record.reason


def test_a_sentinel_may_pause_the_run(tmp_path):
    job = low_light(live={"sentinels": {"then": "pause"}})
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "run")
    run.unlock()
    hook = LiveHook(run, job.protocol, job.profile, None)
    hook._remember(seen(level="0.05%", state="compared", reference_nuclei=70, matched=0, nuclei=0))
    hook._watch("0.05%")
    assert run.request() == "pause"
