"""Who decides what is taken, and what the engine makes of it."""

from __future__ import annotations

import pytest

from conftest import small
from scotopic.microscope import acquire, prepare_run
from scotopic.microscope.director import AsPlanned, Decision
from scotopic.store import RunFolder, finished_sites, verify


class Scripted(AsPlanned):
    """Takes one site anew once, and nothing of another."""

    def __init__(self, protocol, anew=None, left_out=None):
        super().__init__(protocol)
        self.anew, self.left_out, self.frames = anew, left_out, []

    def site(self, place):
        return "enough was seen" if place.key[:2] == self.left_out else ""

    def level(self, place, level):
        if place.key[:2] == self.anew and place.attempt == 1 and level.role == "reference":
            return Decision(False, "0.05% is not plausible: saturated", anew=True)
        return super().level(place, level)

    def frame(self, place, record, image):
        self.frames.append((*place.key[:2], place.attempt, record.level, float(image.mean())))


def directed(job, out, director):
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, out)
    try:
        return run, acquire(job.protocol, job.profile, job.profile_path, run, director=director)
    finally:
        run.unlock()


@pytest.mark.parametrize("microscope", ["simulated", "demo"])
def test_a_site_that_is_not_plausible_is_taken_anew_as_its_next_attempt(tmp_path, microscope):
    job = small(microscope)
    director = Scripted(job.protocol, anew=("B2", 1))
    run, result = directed(job, tmp_path / "run", director)
    assert result.end_reason.startswith("completed")
    lines = [(r.attempt, r.level) for r in run.ledger.read() if (r.well, r.site) == ("B2", 1)]
    dim, every = ["0.05%", "0.2%", "2%"], ["0.05%", "0.2%", "2%", "100%"]
    assert lines == [(1, level) for level in dim] + [(2, level) for level in every]
    assert finished_sites(run.ledger.read(), 4)["B2", 1, 0] == 2
    assert verify(run) == []
    assert RunFolder(run.path).sample_dose_ms() == pytest.approx(result.progress.sample_dose_ms)


def test_a_site_of_which_nothing_is_wanted_gets_no_light_and_no_visit(tmp_path):
    job = small("simulated")
    director = Scripted(job.protocol, left_out=("B2", 1))
    run, result = directed(job, tmp_path / "run", director)
    assert result.end_reason == "completed"
    lines = [r for r in run.ledger.read() if (r.well, r.site) == ("B2", 1)]
    assert [(r.state, r.reason, r.sample_dose_ms) for r in lines] == [("left_out", "enough was seen", 0)] * 4
    assert ("B2", 1) not in {(visit.well, visit.site) for visit in run.visits.read()}
    assert ("B2", 1) not in {frame[:2] for frame in director.frames}
    assert result.progress.frames_left_out == 4
    assert result.progress.saved_dose_ms == pytest.approx(200 + 4 + 0.4 + 0.1)
    assert result.progress.sample_dose_ms == pytest.approx(3 * (200 + 4 + 0.4 + 0.1))
    assert verify(run) == []
    again, resumed = directed(job, tmp_path / "run", director)
    assert resumed.end_reason == "completed"
    assert len(again.ledger.read()) == 16, "nothing is taken again"
    assert resumed.progress.saved_dose_ms == result.progress.saved_dose_ms


def test_only_the_light_that_is_planned_counts_towards_the_budget(tmp_path):
    levels = [level.model_dump() for level in small("simulated").protocol.light_levels]
    levels[0]["taken"] = "at_sentinels"
    live = {"sentinels": {"every": 4}}
    job = small("simulated", held_out=0, light_levels=levels, live=live, light_budget_s=0.3)
    run, result = directed(job, tmp_path / "run", None)
    assert result.end_reason == "completed", "four sites of 4.5 ms, one of them with 200"
    assert verify(run) == []
