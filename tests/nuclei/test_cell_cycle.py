from __future__ import annotations

import re
from typing import NamedTuple

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


class Kind(NamedTuple):
    """A population of nuclei: its phases, how its S cells are spread, and what lies beside it."""

    g1: float = 0.5
    s: float = 0.2
    g2: float = 0.3
    cv: float = 0.08
    g2_cv: float | None = None
    progress: tuple[float, float] = (1, 1)
    """Parameters of the beta distribution of the S cells between G1 and G2; 1 and 1 is even."""
    noise: float = 0.0
    """Standard deviation of the measurement, relative to G1."""
    clone: float = 0.0
    dna_index: float = 1.0
    polyploid: float = 0.0
    octoploid: float = 0.0
    debris: float = 0.0
    apoptotic: float = 0.0
    doublets: float = 0.0


def drawn(kind, seed, n=1000):
    """Return intensities (G1 is 1000), the true shares of the phases, and that of a DNA content above the split."""
    rng = np.random.default_rng(seed)
    phase = rng.choice(3, n, p=[kind.g1, kind.s, kind.g2])
    dna = np.choose(phase, [np.ones(n), 1 + rng.beta(*kind.progress, n), np.full(n, 2.0)])
    shares, above = np.bincount(phase, minlength=3) / n, (dna > SPLIT_DNA_CONTENT).mean()
    cv = np.where(phase == 2, kind.g2_cv or kind.cv, kind.cv)
    dna = np.where(rng.random(n) < kind.clone, kind.dna_index, 1) * dna * (1 + cv * rng.standard_normal(n))
    dna = dna + (rng.random(n) < kind.doublets) * rng.permutation(dna)
    beside = [
        4 * (1 + kind.cv * rng.standard_normal(more(n, kind.polyploid))),
        8 * (1 + kind.cv * rng.standard_normal(more(n, kind.octoploid))),
        rng.uniform(0.02, 0.5, more(n, kind.debris)),
        np.abs(rng.normal(0.6, 0.1, more(n, kind.apoptotic))),
    ]
    dna = np.concatenate([dna, *beside])
    return 1000 * (dna + kind.noise * rng.standard_normal(dna.size)), shares, above


def more(n, share):
    """How many to add to n, to be that share of all."""
    return int(n * share / (1 - share))


LATE, EARLY, MIDDLE = (8, 2), (2, 8), (20, 20)
FITTED = {
    **{f"G2 {g2}, S {s}": Kind(1 - s - g2, s, g2) for g2 in (0.1, 0.3, 0.5) for s in (0.0, 0.1, 0.2, 0.4)},
    "S half": Kind(0.3, 0.5, 0.2),
    "early S half, CV 6 %": Kind(0.3, 0.5, 0.2, cv=0.06, progress=EARLY),
    "early S half": Kind(0.3, 0.5, 0.2, progress=EARLY),
    "early S 30 %": Kind(0.5, 0.3, 0.2, progress=EARLY),
    "G2 arrest": Kind(0.2, 0.1, 0.7),
    "polyploid 25 %": Kind(polyploid=0.25),
    "polyploid 40 %": Kind(polyploid=0.4),
    "polyploid 20 %, octoploid 15 %": Kind(polyploid=0.2, octoploid=0.15),
    "apoptotic 10 %": Kind(apoptotic=0.1),
    **{f"debris {share}": Kind(0.6, 0.2, 0.2, debris=share) for share in (0.13, 0.2, 0.33)},
    "CV 15 %": Kind(cv=0.15),
    "G2 wider": Kind(cv=0.06, g2_cv=0.1),
    "G2 narrower": Kind(cv=0.08, g2_cv=0.05),
    "noise 15 %": Kind(noise=0.15),
}
"""Kinds that are fitted, and rightly."""
FITTED_OR_REFUSED = {
    "late S half, CV 6 %": Kind(0.2, 0.5, 0.3, cv=0.06, progress=LATE),
    "late S half": Kind(0.2, 0.5, 0.3, progress=LATE),
    "late S 30 %": Kind(0.5, 0.3, 0.2, progress=LATE),
    "late S half, no G2": Kind(0.5, 0.5, 0.0, progress=LATE),
    "middle S half": Kind(0.3, 0.5, 0.2, progress=MIDDLE),
    "middle S 30 %": Kind(0.5, 0.3, 0.2, progress=MIDDLE),
    "all in S": Kind(0.0, 1.0, 0.0),
    "doublets 10 %": Kind(0.6, 0.2, 0.2, doublets=0.1),
    "doublets 20 %": Kind(0.6, 0.2, 0.2, doublets=0.2),
}
"""Kinds that the intensities do not always show clearly: no fit is as good as a right one."""
REFUSED = {
    "all in early S": (Kind(0.0, 1.0, 0.0, progress=EARLY), "one peak only|no G2 peak"),
    "all in late S": (Kind(0.0, 1.0, 0.0, progress=LATE), "one peak only"),
    "all in G1": (Kind(1.0, 0.0, 0.0), "one peak only"),
    "all in G2": (Kind(0.0, 0.0, 1.0), "one peak only"),
    "apoptotic 25 %": (Kind(apoptotic=0.25), "do not follow"),
    "debris 60 %": (Kind(0.6, 0.2, 0.2, debris=0.6), "debris"),
    **{
        f"{share:.0%} of a clone with {index} times the DNA": (
            Kind(0.6, 0.2, 0.2, clone=share, dna_index=index),
            "two populations|times the first|do not follow",
        )
        for index in (1.3, 1.5, 1.7)
        for share in (0.2, 0.5)
    },
    "half of a clone with 1.2 times the DNA": (Kind(0.6, 0.2, 0.2, 0.05, clone=0.5, dna_index=1.2), "two populations"),
}
"""Kinds that have no right fit, and what the error says."""
SEEDS = range(4)


def is_right(kind, fit, shares, above):
    assert list(fit.fractions.values()) == pytest.approx(shares, abs=0.1)
    assert fit.g2_of_two == pytest.approx(above, abs=0.05 if kind.progress == (1, 1) else 0.1)
    assert kind.g1 == 0 or fit.g1_intensity == pytest.approx(1000, rel=0.03)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FITTED)
def test_populations_that_the_model_describes_are_fitted(name, seed):
    kind = FITTED[name]
    intensity, shares, above = drawn(kind, seed)
    is_right(kind, fit_cell_cycle(intensity, 1000 * kind.noise), shares, above)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", FITTED_OR_REFUSED)
def test_where_s_is_not_clear_a_fit_is_right_or_there_is_none(name, seed):
    kind = FITTED_OR_REFUSED[name]
    intensity, shares, above = drawn(kind, seed)
    try:
        fit = fit_cell_cycle(intensity)
    except NoFitError as refused:
        error = str(refused)
    else:
        is_right(kind, fit, shares, above)
        return
    assert re.search("spread evenly|one peak only|doublets|do not follow", error)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_single_cell_cycle_is_refused(name, seed):
    kind, why = REFUSED[name]
    with pytest.raises(NoFitError, match=why):
        fit_cell_cycle(drawn(kind, seed)[0])


def test_few_nuclei_that_follow_the_model_are_not_refused():
    for seed in range(20):
        fit_cell_cycle(drawn(Kind(0.6, 0.1, 0.3), seed, n=200)[0])


def test_the_same_nuclei_in_less_light_have_the_same_share_of_g2():
    """The peaks of the fit at full light serve both: only the nuclei, and their noise, may make a difference."""
    intensity, dna = population(700, 0.35, 0.1, seed=5)
    fit = fit_cell_cycle(intensity)
    assert fit.g2_of_two_in(intensity, 0.0) == pytest.approx(fit.g2_of_two, abs=0.003)
    rng = np.random.default_rng(6)
    off = [
        fit.g2_of_two_in(intensity + 0.14 * 5e6 * rng.standard_normal(700), 0.14 * 5e6) - fit.g2_of_two
        for _ in range(10)
    ]
    assert abs(np.mean(off)) < 0.01
    assert np.std(off) < 0.015
    missed = intensity[dna < SPLIT_DNA_CONTENT]
    assert fit.g2_of_two_in(missed, 0.0) < 0.1, "G2 nuclei that are not found are gone"
    assert fit.g2_of_two_in([], []) is None


def test_too_noisy_nuclei_are_not_sorted():
    intensity, _ = population(1000, 0.35, 0.1, noise=0.25 * 5e6)
    with pytest.raises(NoFitError, match=r"noise of 2[0-9]% of G1"):
        fit_cell_cycle(intensity, 0.25 * 5e6)
