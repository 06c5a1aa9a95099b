from __future__ import annotations

import numpy as np
import pytest

from scotopic.nuclei import LEAST_NUCLEI, SPLIT_DNA_CONTENT, NoFitError, fit_cell_cycle


def population(n, g2, s, cv=0.08, seed=1, g1=5e6, noise=0.0):
    """Integrated intensities of nuclei, their true DNA content, and the noise they were measured with."""
    rng = np.random.default_rng(seed)
    phase = rng.choice(3, n, p=[1 - g2 - s, s, g2])
    dna = np.choose(phase, [np.ones(n), 1 + rng.random(n), 2 * np.ones(n)])
    return g1 * dna * (1 + cv * rng.standard_normal(n)) + noise * rng.standard_normal(n), dna


@pytest.mark.parametrize("g2", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("s", [0.0, 0.1])
def test_the_g2_fraction_is_found(g2, s):
    intensity, dna = population(5000, g2, s)
    fit = fit_cell_cycle(intensity)
    truth = (dna > SPLIT_DNA_CONTENT).mean()
    assert fit.g2_of_two == pytest.approx(truth, abs=0.006)
    assert fit.peak_ratio == pytest.approx(2, abs=0.03)
    assert fit.cv == pytest.approx(0.08, abs=0.012)
    assert fit.g1_intensity == pytest.approx(5e6, rel=0.01)
    assert sum(fit.fractions.values()) == pytest.approx(1)


def test_noise_that_is_known_does_not_widen_the_peaks():
    noise = 0.15 * 5e6
    intensity, dna = population(5000, 0.36, 0.05, noise=noise)
    fit = fit_cell_cycle(intensity, noise)
    assert fit.cv == pytest.approx(0.08, abs=0.03)
    assert fit.g2_of_two == pytest.approx((dna > SPLIT_DNA_CONTENT).mean(), abs=0.015)


def test_a_culture_with_more_g2_than_g1_is_not_mistaken_for_the_reverse():
    intensity, _ = population(3000, 0.7, 0.05)
    fit = fit_cell_cycle(intensity)
    assert fit.g1_intensity == pytest.approx(5e6, rel=0.02)
    assert fit.fractions["G2"] > 0.65


def test_classes_follow_the_posterior_and_odd_values_are_left_out():
    intensity, dna = population(2000, 0.4, 0.0)
    fit = fit_cell_cycle(np.concatenate([intensity, [np.nan, -5.0, 0.0]]))
    assert fit.n == 2000
    assert np.isnan(fit.posterior[-3:]).all()
    assert ((fit.classes[:2000] == "G2") == (dna > SPLIT_DNA_CONTENT)).mean() > 0.98


def test_no_split_is_invented():
    few, _ = population(LEAST_NUCLEI - 1, 0.4, 0.0)
    with pytest.raises(NoFitError, match="99 nuclei are too few"):
        fit_cell_cycle(few)
    one, _ = population(2000, 0.0, 0.0)
    with pytest.raises(NoFitError, match="one peak only"):
        fit_cell_cycle(one)
