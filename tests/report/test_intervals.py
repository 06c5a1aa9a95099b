"""Intervals over wells, and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scotopic.report.intervals import Estimate, estimate


def left_out_means(values):
    return [float(np.mean(values)), *(float(np.mean(np.delete(values, i))) for i in range(len(values)))]


def test_the_interval_of_a_mean_is_students():
    values = np.array([3.0, 5.0, 4.0, 8.0, 6.0, 4.5])
    low, high = estimate(left_out_means(values), "difference").interval()
    expected = stats.t.interval(0.95, 5, values.mean(), stats.sem(values))
    assert (low, high) == pytest.approx(expected)
    wide = estimate(left_out_means(values), "difference").interval(0.99)
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


def test_two_wells_give_no_interval_and_a_positive_number_stays_positive():
    assert Estimate(50.0, (40.0, 60.0), "positive").interval() is None
    low, high = Estimate(50.0, (20.0, 60.0, 90.0), "positive").interval()
    assert 0 < low < 50 < high


def test_how_many_wells_would_be_enough_follows_from_the_spread():
    few = np.array([-3.0, -1.0, 1.0, 3.0])
    found = estimate(left_out_means(few), "difference")
    assert max(map(abs, found.interval())) > 2
    enough = found.enough_wells(2.0)
    more = np.random.default_rng(0).normal(0, 2, enough)
    more = (more - more.mean()) / more.std(ddof=1) * few.std(ddof=1)
    assert max(map(abs, estimate(left_out_means(more), "difference").interval())) == pytest.approx(2.0, rel=0.1)
    assert Estimate(5.0, (4.0, 5.0, 6.0)).enough_wells(2.0) is None, "no number of wells mends an error"
    assert Estimate(0.0, (0.0,)).enough_wells(2.0) is None, "one well has no spread"
    assert Estimate(0.0, (-0.5, 0.5)).enough_wells(2.0) >= 3, "two have one"
    none_missed = Estimate(0.0, (0.0,) * 6, "percent", trials=20)
    assert none_missed.enough_wells(8.0) > 6, "six were not enough, so three are not"
