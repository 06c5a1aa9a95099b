from __future__ import annotations

import numpy as np
import pytest

from scotopic.protocol import Plate, SyntheticSpecimenSettings
from scotopic.simulator import Field, SyntheticSpecimen

PX = 0.65
PINNED = "synthetic-1-3084793af11f"
PLATE = Plate.model_validate("96-well")


def specimen(**changes: object) -> SyntheticSpecimen:
    return SyntheticSpecimen(SyntheticSpecimenSettings.model_validate(changes), PLATE)


def fields_over_the_plate(n=24):
    step = len(PLATE.wells) // n
    return [Field(*PLATE.centre_um(well), 512, 512, PX) for well in list(PLATE.wells)[::step]]


def test_the_pinned_specimen_is_what_published_figures_name():
    """A change here is another specimen: raise VERSION, and measure every published figure anew."""
    assert specimen().fingerprint == PINNED


def test_any_other_setting_is_another_specimen():
    assert len({s.fingerprint for s in (specimen(), specimen(seed=2), specimen(g2_fraction=0.2))}) == 3


def test_a_place_looks_the_same_whenever_and_in_whatever_order_it_is_visited():
    one, other = specimen(), specimen()
    places = [(13000, 200), (0, 0), (41000, 55000)]
    first = [one.scene(p, (128, 128), PX).light for p in places]
    for place, image in reversed(list(zip(places, first, strict=True))):
        np.testing.assert_array_equal(other.scene(place, (128, 128), PX).light, image)


def test_neighbouring_fields_agree_where_they_overlap():
    s = specimen()
    a, b = (s.scene(origin, (300, 300), PX).light for origin in ((1000, 300), (1100, 251)))
    np.testing.assert_allclose(a[:251, 100:], b[49:, :200], atol=0.002)
    left, right = (s.truth(Field(650 + dx, 200, 300, 300, PX)).labels for dx in (0, 100 * PX))
    assert ((left[:, 100:] > 0) == (right[:, :200] > 0)).all()


def test_truth_shows_exactly_what_is_in_the_image():
    s = specimen()
    field = Field(*PLATE.centre_um("C5"), 512, 512, PX)
    truth = s.truth(field)
    assert truth.labels.max() == len(truth.nuclei)
    assert np.bincount(truth.labels.ravel())[1:] * PX**2 == pytest.approx(truth.nuclei.area_um2)
    light = s.scene(field.origin_px, (512, 512), PX).light
    assert light[truth.labels > 0].mean() > 5 * np.median(light[truth.labels == 0])


def test_integrated_light_is_the_dna_content():
    s = specimen(haze_fraction=0, debris_per_mm2=0, background_fraction=0)
    field = Field(*PLATE.centre_um("C5"), 512, 512, PX)
    field = Field(
        round(field.origin_px[0]) * PX + 511 / 2 * PX, round(field.origin_px[1]) * PX + 511 / 2 * PX, 512, 512, PX
    )
    truth = s.truth(field)
    light = s.scene(tuple(round(v) for v in field.origin_px), (512, 512), PX).light
    whole = truth.nuclei[~truth.nuclei.touches_border]
    total = np.bincount(truth.labels.ravel(), light.ravel())[whole.label]
    assert (total / whole.dna_content).std() / (total / whole.dna_content).mean() < 1e-3


def test_phases_are_as_frequent_as_asked():
    import pandas as pd

    s = specimen(seed=5)
    nuclei = pd.concat([s.truth(f).nuclei for f in fields_over_the_plate(48)])
    share = nuclei.phase.value_counts(normalize=True)
    assert share["G2"] == pytest.approx(0.30, abs=0.04)
    assert share["S"] == pytest.approx(0.08, abs=0.025)
    assert share["M"] == pytest.approx(0.05, abs=0.02)
    assert share["dim"] == pytest.approx(0.05, abs=0.02)
    g1, g2 = (nuclei[nuclei.phase == p].dna_content for p in ("G1", "G2"))
    assert g2.mean() / g1.mean() == pytest.approx(2, rel=0.01)
    assert g1.std() / g1.mean() == pytest.approx(0.05, abs=0.01)


def test_the_density_is_that_asked_for_and_differs_between_wells():
    counts = [len(specimen().truth(f).nuclei) for f in fields_over_the_plate()]
    per_mm2 = np.array(counts) / (512 * PX / 1000) ** 2
    assert per_mm2.mean() == pytest.approx(640, rel=0.15)
    assert 0.1 < per_mm2.std() / per_mm2.mean() < 0.5


def test_nothing_grows_outside_wells_or_in_empty_ones():
    between = Field(4500, 4500, 512, 512, PX)
    assert len(specimen().truth(between).nuclei) == 0
    empty = specimen(empty_well_fraction=1)
    assert len(empty.truth(Field(0, 0, 512, 512, PX)).nuclei) == 0


def test_memory_is_bounded_however_many_sites_are_seen():
    s = specimen()
    for k in range(150):
        s._nuclei_in(k * 2000.0, 0, k * 2000.0 + 300, 300)
    assert s._tile.cache_info().currsize <= 4096


@pytest.mark.parametrize("px", [0.108, 0.325, 1.3])
def test_any_pixel_size_shows_the_same_nuclei(px):
    a = specimen().truth(Field(0, 0, 512, 512, PX)).nuclei
    b = specimen().truth(Field(0, 0, int(512 * PX / px), int(512 * PX / px), px)).nuclei
    assert abs(len(a) - len(b)) <= 2
    assert b.area_um2.median() == pytest.approx(a.area_um2.median(), rel=0.03)
