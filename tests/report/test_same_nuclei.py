"""The same nuclei at two light levels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scotopic.nuclei import fit_cell_cycle
from scotopic.report.same_nuclei import agreement, changes, dna_scale, g2_percent

G1_E = 5e5


def nuclei(n=900, g2=0.35, noise=0.02, *, ratio=1.0, extra=0.0, seed=1):
    """Nuclei of six wells measured twice: `their_*` at full light, and with a scale, a noise and a spread of its own at low light."""
    rng = np.random.default_rng(seed)
    dna = np.where(rng.random(n) < g2, 2.0, 1.0) * (1 + 0.06 * rng.standard_normal(n))
    area = 250 * dna**0.6
    low = G1_E * dna * ratio * (1 + extra * rng.standard_normal(n)) + noise * G1_E * rng.standard_normal(n)
    return pd.DataFrame(
        {
            "well": [f"B{2 + i % 6}" for i in range(n)],
            "area": area * 1.02,
            "their_area": area,
            "intensity": low,
            "their_intensity": G1_E * dna,
            "noise": noise * G1_E,
            "their_noise": 0.0,
        }
    )


def test_bias_and_spread_are_those_that_were_planted():
    wells = [f"B{number}" for number in range(2, 8)]
    matched = nuclei(noise=0.0, ratio=1.03, extra=0.08)
    found = agreement([matched, *(matched[matched["well"] != well] for well in wells)])
    assert found["intensity_bias_percent"].value == pytest.approx(3, abs=0.7)
    assert found["dna_spread_percent"].value == pytest.approx(8, abs=0.8)
    assert found["area_bias_percent"].value == pytest.approx(2)
    low, high = found["dna_spread_percent"].interval()
    assert 0 < low < 8 < high < 11


def test_what_contours_add_to_the_noise_is_told_from_it():
    scale = dna_scale(nuclei(n=5000, noise=0.1, ratio=0.97, extra=0.06))
    assert scale.ratio == pytest.approx(0.97, abs=0.01)
    assert scale.extra == pytest.approx(0.06, abs=0.02)
    assert dna_scale(nuclei(n=5000, noise=0.1)).extra < 0.03
    assert dna_scale(nuclei(n=2)) is None


def test_the_share_of_g2_differs_by_the_nuclei_and_not_by_the_noise():
    """Seven hundred nuclei are enough to tell two points: two fits of their own are not."""
    matched = nuclei(n=700, noise=0.13, ratio=1.04, extra=0.05)
    full = matched.assign(intensity=matched["their_intensity"], noise=0.0)
    fit = fit_cell_cycle(full["intensity"])
    scale = dna_scale(matched)
    bright = g2_percent(fit, full)
    assert bright == pytest.approx(35, abs=4)
    assert g2_percent(fit, matched, scale) == pytest.approx(bright, abs=1.5)
    without_g2 = matched[matched["their_intensity"] < 1.5 * G1_E]
    lost = g2_percent(fit, pd.concat([without_g2, matched[matched["their_intensity"] >= 1.5 * G1_E][::2]]), scale)
    assert lost < bright - 8, "G2 nuclei that are missed are missed in the share"


def test_who_changes_class_is_counted():
    matched = nuclei(n=700, noise=0.0)
    fit = fit_cell_cycle(matched["their_intensity"])
    swapped = matched.copy()
    is_g1 = matched["their_intensity"] < 1.5 * fit.g1_intensity
    some = matched.index[is_g1][:9]
    swapped.loc[some, "intensity"] *= 2
    assert changes(fit, swapped, dna_scale(swapped)) == (9, 0)
