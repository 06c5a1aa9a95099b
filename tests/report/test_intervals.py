"""Intervals over wells, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scotopic.protocol import ValidationSettings
from scotopic.report.intervals import Estimate, estimate
from scotopic.report.recommendation import judge


def left_out_means(values):
    return [float(np.mean(values)), *(float(np.mean(np.delete(values, i))) for i in range(len(values)))]


def test_the_interval_of_a_mean_is_students():
    values = np.array([3.0, 5.0, 4.0, 8.0, 6.0, 4.5])
    low, high = estimate(left_out_means(values), "number").interval()
    expected = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    wide = estimate(left_out_means(values), "number").interval(0.99)
    assert wide[0] < low
    assert wide[1] > high


def test_a_ratio_is_taken_by_its_logarithm():
    low, high = Estimate(100.0, (50.0, 200.0, 100.0), "deviation_percent").interval()
    assert (1 + low / 100) * (1 + high / 100) == pytest.approx(2.0**2)


def test_a_share_stays_a_share():
    low, high = Estimate(2.0, (0.0, 1.0, 5.0), "percent").interval()
    assert low == 0
    assert high > 5


def test_none_missed_in_any_well_is_no_proof_that_none_ever_is():
    low, high = Estimate(0.0, (0.0,) * 6, "percent", trials=100).interval()
    assert low == 0
    assert high == pytest.approx(100 * (1 - 0.025**0.01), rel=1e-6), "Clopper and Pearson's"
    low, high = Estimate(1.0, (1.0,) * 6, "share", trials=100).interval()
    assert low == pytest.approx(0.025**0.01, rel=1e-6)
    assert high == 1


@pytest.mark.parametrize("left_out", [(), (1.0,), (1.0, None, 2.0), (1.0, float("nan"), 2.0)])
def test_no_interval_is_guessed(left_out):
    assert Estimate(1.0, left_out).interval() is None
    assert Estimate(None, (1.0, 2.0)).interval() is None


def errors(**changed):
    steady = {
        "count_deviation_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
        "g2_deviation_points": Estimate(0.1, (0.0, 0.1, 0.2), "difference"),
        "median_area_deviation_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
        "mean_intensity_deviation_percent": Estimate(0.1, (0.0, 0.1, 0.2), "deviation_percent"),
    }
    return steady | changed


def test_a_level_is_within_beyond_or_undecided():
    settings = ValidationSettings()
    assert judge(errors(), settings) == ("within", ())
    verdict, reasons = judge(
        errors(count_deviation_percent=Estimate(-4, (-4.1, -4, -3.9), "deviation_percent")), settings
    )
    assert verdict == "beyond"
    assert reasons == ("count -4 %, beyond 3",)
    verdict, reasons = judge(errors(g2_deviation_points=Estimate(0.5, (-1, 0.5, 2), "difference")), settings)
    assert verdict == "undecided"
    assert reasons[0].startswith("G2 -")
    assert reasons[0].endswith("points, allowed 2")
    verdict, reasons = judge(errors(g2_deviation_points=Estimate(None)), settings)
    assert (verdict, reasons) == ("undecided", ("G2: not known",))
    verdict, reasons = judge({name: Estimate(0.0, (0.0,)) for name in errors()}, settings)
    assert verdict == "undecided"
    assert "one well is not enough" in reasons[0]
