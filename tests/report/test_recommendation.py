"""Verdicts: what lies within, what cancels, and what cannot be told."""

from __future__ import annotations

import pytest

from scotopic.protocol import Tolerances, ValidationSettings
from scotopic.report.intervals import Estimate
from scotopic.report.recommendation import judge
from scotopic.report.schema import Judgement, Learned, Level, Purpose, Recommendation, Report
from scotopic.report.verdict import doubt_words, judged_sites, verdict

TOLERANCES = ValidationSettings().by_purpose


def errors(**changed):
    """Small errors, as sure as six wells can be."""
    steady = {
        "count_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
        "missed_percent": Estimate(1.0, (0.9, 1.0, 1.1), "percent"),
        "false_percent": Estimate(1.0, (0.9, 1.0, 1.1), "percent"),
        "g2_points": Estimate(0.1, (0.0, 0.1, 0.2), "difference"),
        "area_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
        "intensity_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
        "dna_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
        "dna_spread_percent": Estimate(8.0, (7.9, 8.0, 8.1), "difference"),
    }
    return steady | changed


@pytest.mark.parametrize("purpose", TOLERANCES)
def test_small_errors_are_within_for_every_purpose(purpose):
    assert judge(errors(), TOLERANCES[purpose], 0.95) == ("within", ())


def test_misses_and_false_finds_that_cancel_in_the_count_are_found_out():
    """As seed 1 of the plates of version 0.1.0: 10.2 % missed, 10.1 % false, a count of +0.14 %, and 0.05 % recommended."""
    wrong = errors(
        missed_percent=Estimate(10.2, (10.1, 10.2, 10.3), "percent"),
        false_percent=Estimate(10.1, (10.0, 10.1, 10.2), "percent"),
    )
    for tolerances in TOLERANCES.values():
        verdict_, doubts = judge(wrong, tolerances, 0.95)
        assert verdict_ == "beyond"
        assert [doubt.figure for doubt in doubts] == ["missed_percent", "false_percent"]


def test_an_error_is_beyond_undecided_or_not_known():
    tolerances = Tolerances(count_percent=3, g2_points=2)
    found, (doubt,) = judge(errors(count_percent=Estimate(-4, (-4.1, -4, -3.9), "deviation_percent")), tolerances, 0.95)
    assert (found, doubt.kind) == ("beyond", "beyond")
    assert doubt_words(doubt) == "count -4 %, beyond 3"
    found, (doubt,) = judge(errors(g2_points=Estimate(0.5, (-1, 0.5, 2))), tolerances, 0.95)
    assert (found, doubt.kind) == ("undecided", "interval")
    assert doubt.enough_wells > 3
    found, (doubt,) = judge(errors(g2_points=Estimate(None)), tolerances, 0.95)
    assert (found, doubt.kind, doubt_words(doubt)) == ("undecided", "unknown", "G2: not known")
    found, doubts = judge({name: Estimate(0.0, (0.0,)) for name in errors()}, tolerances, 0.95)
    assert found == "undecided"
    assert {doubt.kind for doubt in doubts} == {"no interval"}


def test_what_a_purpose_does_not_ask_for_is_not_judged():
    assert judge(errors(g2_points=Estimate(None)), TOLERANCES["count"], 0.95)[0] == "within"
    assert judge(errors(g2_points=Estimate(None)), TOLERANCES["cell_cycle"], 0.95)[0] == "undecided"
    wide = errors(dna_spread_percent=Estimate(30.0, (29.0, 30.0, 31.0)))
    assert judge(wide, TOLERANCES["cell_cycle"], 0.95)[0] == "within"
    assert judge(wide, TOLERANCES["each_nucleus"], 0.95)[0] == "beyond"


@pytest.mark.parametrize(
    ("figures", "enough"),
    [
        ({"f1": 0.95}, True),
        ({"f1": 0.84}, False),
        ({"f1": None}, False),
        ({"f1": 0.9, "f1_there": 0.86, "classical_f1": 0.97}, False),
        ({"f1": 0.95, "f1_there": 0.92, "classical_f1": 0.97}, True),
    ],
)
def test_a_network_has_learned_when_it_agrees_with_the_masks_and_is_not_clearly_worse_than_the_classical_method(
    figures, enough
):
    assert Learned(least_f1=0.85, wells="held-out", **figures).is_enough is enough


def level(name, dose, *, measured=True):
    return Level(
        name=name, source="network", measured=measured, relative_dose=dose, sample_dose=200 * dose, nuclei_count=9,
        g1_percent=None, g2_percent=None, cell_cycle="", median_area_um2=None, mean_intensity=None, against={},
    )  # fmt: skip


def told(outcome, *, learned=None, judgements=(), purpose="each_nucleus", seen="same_plate", left_out=None, **values):
    purposes = {purpose: Purpose(outcome=outcome, tolerances={}, judgements=judgements, **values)}
    learned = learned or Learned(f1=0.95, least_f1=0.85, wells="held-out")
    recommendation = Recommendation(purpose=purpose, purposes=purposes, confidence=0.95, learned=learned)
    report = Report(
        protocol="a plate", model="0" * 12, held_out_wells=("B3", "B4", "B5"), sites=5, planned_sites=32, seen=seen,
        left_out=left_out or {}, levels=(level("100%", 1), level("2%", 0.02)), missing=(), recommendation=recommendation,
        timing={}, dose={}, versions={}, specimen=None,
    )  # fmt: skip
    return report, verdict(report, "runs/mine")


WITHIN = Judgement(name="2%", relative_dose=0.02, measured=True, verdict="within")


def test_the_verdict_says_how_low_the_light_may_go():
    saved = {"level": "2%", "light_saving_factor": 50.0, "time_saving_factor": 9.17}
    report, text = told("level", judgements=(WITHIN,), **saved)
    assert text.startswith(
        "For single nuclei (tracking, intensity of each) the light may go down to 2%: 50 times less light, 9.17 times faster."
    )
    assert report.recommended_level == "2%"
    assert report.is_whole


@pytest.mark.parametrize(
    ("outcome", "words", "is_whole"),
    [
        ("none", "No lower light can be recommended.", True),
        ("too few nuclei", "There are too few nuclei or wells to tell", True),
        ("too few wells", "There are too few held-out wells to tell: at least three", True),
        ("too few sites", "Fewer than half of the held-out sites could be judged", False),
        ("no nuclei", "There are no nuclei in the held-out wells", False),
        ("not learned", "The network has not learned yet", False),
    ],
)
def test_every_other_outcome_has_a_sentence_and_some_an_exit_code(outcome, words, is_whole):
    report, text = told(outcome)
    assert text.startswith(words)
    assert report.recommended_level is None
    assert report.is_whole is is_whole


def test_a_network_that_has_not_learned_is_no_finding_about_the_sample():
    learned = Learned(f1=0.2, least_f1=0.85, wells="held-out", steps=127)
    _, text = told("not learned", learned=learned)
    assert text.startswith(
        "The network has not learned yet after 127 steps: at full light its F1 against the reference masks of the held-out wells is "
        "0.20 (at least 0.85 is needed). Nothing can be said of low light. Train longer: `scotopic train runs/mine --minutes 12 --again`"
    )


def test_how_many_wells_would_be_enough_is_said():
    _, text = told("too few nuclei", enough_wells=7, enough_nuclei=1400)
    assert "about 7 wells with 1,400 nuclei would be enough" in text


def test_what_was_left_out_is_said_first():
    report, _ = told("too few sites", left_out={"no full-light image": 26, "wrong light": 1})
    assert judged_sites(report) == (
        "Judged on 5 of 32 sites of the held-out wells; left out: 26 without a full-light image, 1 with wrong light."
    )
