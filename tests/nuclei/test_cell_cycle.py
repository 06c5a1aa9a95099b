from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest

from conftest import DATA
from scotopic.nuclei import LEAST_NUCLEI, SPLIT_DNA_CONTENT, NoFitError, fit_cell_cycle, measure
from scotopic.nuclei.images import image_files, read_plane


def population(n, g2, s, cv=0.08, seed=1, g1=5e6, noise=0.0):
    """Integrated intensities of nuclei, their true DNA content, and the noise they were measured with."""
    rng = np.random.default_rng(seed)
    phase = rng.choice(3, n, p=[1 - g2 - s, s, g2])
    dna = np.choose(phase, [np.ones(n), 1 + rng.random(n), 2 * np.ones(n)])
    return g1 * dna * (1 + cv * rng.standard_normal(n)) + noise * rng.standard_normal(n), dna


@pytest.mark.parametrize("g2", [0.1, 0.3, 0.5])
@pytest.mark.parametrize(("s", "points"), [(0.0, 0.5), (0.1, 0.6), (0.2, 1.5)])
def test_the_g2_fraction_is_found(g2, s, points):
    intensity, dna = population(5000, g2, s)
    fit = fit_cell_cycle(intensity)
    truth = (dna > SPLIT_DNA_CONTENT).mean()
    assert 100 * fit.g2_of_two == pytest.approx(100 * truth, abs=points)
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
    assert set(fit.classes[-3:]) == {"other"}
    assert ((fit.classes[:2000] == "G2") == (dna > SPLIT_DNA_CONTENT)).mean() > 0.98


def test_no_split_is_invented():
    few, _ = population(LEAST_NUCLEI - 1, 0.4, 0.0)
    with pytest.raises(NoFitError, match="99 nuclei are too few"):
        fit_cell_cycle(few)
    one, _ = population(2000, 0.0, 0.0)
    with pytest.raises(NoFitError, match="one peak only"):
        fit_cell_cycle(one)


def with_debris(intensity, share, seed=2, g1=5e6):
    """Add fragments, up to half a G1 nucleus, as that share of all."""
    rng = np.random.default_rng(seed)
    n = int(intensity.size * share / (1 - share))
    return np.concatenate([intensity, g1 * rng.uniform(0.02, 0.5, n)])


@pytest.mark.parametrize("share", [0.1, 0.2, 0.33])
def test_debris_does_not_move_the_peaks(share):
    intensity, dna = population(2000, 0.2, 0.2)
    fit = fit_cell_cycle(with_debris(intensity, share))
    assert fit.g1_intensity == pytest.approx(5e6, rel=0.03)
    assert fit.g2_of_two == pytest.approx((dna > SPLIT_DNA_CONTENT).mean(), abs=0.02)
    assert fit.other == pytest.approx(share, abs=0.03)
    assert (fit.classes[2000:] == "other").mean() > 0.9


def test_mostly_debris_is_no_fit():
    intensity, _ = population(1000, 0.3, 0.1)
    with pytest.raises(NoFitError):
        fit_cell_cycle(with_debris(intensity, 0.6))


@pytest.mark.parametrize("polyploid", [0.05, 0.15, 0.25])
@pytest.mark.parametrize("debris", [0.0, 0.2])
def test_polyploid_nuclei_are_not_taken_for_g2(polyploid, debris):
    intensity, dna = population(3000, 0.3, 0.1)
    rng = np.random.default_rng(3)
    octo = 4 * 5e6 * (1 + 0.08 * rng.standard_normal(int(3000 * polyploid)))
    fit = fit_cell_cycle(with_debris(np.concatenate([intensity, octo]), debris))
    assert fit.g1_intensity == pytest.approx(5e6, rel=0.02)
    assert fit.g2_of_two == pytest.approx((dna > SPLIT_DNA_CONTENT).mean(), abs=0.015)
    assert set(fit.classes[3000 : 3000 + octo.size]) == {"other"}


@pytest.mark.parametrize("ratio", [1.6, 2.6])
def test_a_second_peak_in_the_wrong_place_is_no_fit(ratio):
    rng = np.random.default_rng(4)
    both = np.concatenate([np.ones(1500), np.full(700, ratio)])
    with pytest.raises(NoFitError, match=r"times the first|one peak only"):
        fit_cell_cycle(5e6 * both * (1 + 0.05 * rng.standard_normal(both.size)))


def test_real_nuclei_have_twice_the_dna_before_they_divide():
    """Hoechst binds DNA. These 8-bit images were each stretched on their own: each is held against its median nucleus."""
    values = []
    for path in image_files(DATA / "nuclei" / "images"):
        nuclei = measure(iio.imread(DATA / "nuclei" / "masks" / f"{path.stem}.png").astype(np.int32), read_plane(path))
        whole = nuclei[~nuclei.touches_border].integrated_intensity_counts
        values.append(whole / whole.median())
    fit = fit_cell_cycle(np.concatenate(values))
    assert 1.8 < fit.peak_ratio < 2.1
    assert 0.4 < fit.fractions["G1"] < 0.75
    assert fit.other < 0.1
