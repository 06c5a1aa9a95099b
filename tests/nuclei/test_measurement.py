from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scotopic.nuclei import measure, measure_levels
from scotopic.photons import CameraNoise

CAMERA = CameraNoise(offset_counts=100, gain_e_per_count=0.5, read_noise_e=2, saturation_counts=4095)


def field():
    """Two discs on an uneven background, their light known."""
    y, x = np.indices((120, 160))
    labels = np.zeros(y.shape, np.int32)
    labels[(y - 40) ** 2 + (x - 50) ** 2 <= 144] = 1
    labels[(y - 80) ** 2 + (x - 159) ** 2 <= 144] = 2
    counts = 100 + 2 * x + 1000.0 * (labels == 1) + 500.0 * (labels == 2)
    return labels, counts


def test_light_is_that_above_the_local_background_in_electrons():
    labels, counts = field()
    table = measure(labels, counts, pixel_size_um=0.5, origin_um=(1000, 2000), camera=CAMERA)
    first = table.set_index("label").loc[1]
    pixels = (labels == 1).sum()
    assert first.area_um2 == pixels * 0.25
    assert (first.x_um, first.y_um) == pytest.approx((1000 + 25, 2000 + 20))
    assert (first.x_px, first.y_px) == pytest.approx((50, 40))
    assert first.background_e == pytest.approx(0.5 * 2 * 50, abs=2)
    assert first.integrated_intensity_e == pytest.approx(0.5 * 1000 * pixels, rel=0.01)
    assert first.eccentricity < 0.1
    assert list(table.touches_border) == [False, True]
    assert not table.saturated.any()


def test_saturated_nuclei_are_flagged():
    labels, counts = field()
    counts[40, 50] = 4095
    assert list(measure(labels, counts, camera=CAMERA).saturated) == [True, False]


def test_an_empty_field_gives_an_empty_table_with_all_columns():
    full = measure(*field())
    empty = measure(np.zeros((50, 60), np.int32), np.zeros((50, 60)))
    assert len(empty) == 0
    assert list(empty.columns) == list(full.columns)


def test_a_field_full_of_nuclei_still_has_a_background():
    labels = np.kron(np.arange(1, 10).reshape(3, 3), np.ones((20, 20), np.int32)).astype(np.int32)
    table = measure(labels, np.full(labels.shape, 50.0))
    assert np.isfinite(table.to_numpy(float)).all()


def test_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        measure(np.zeros((5, 5), int), np.zeros((6, 6)))


def test_the_same_nuclei_are_measured_in_several_images_at_once():
    labels, counts = field()
    images = {"bright": counts, "dark": 100 + (counts - 100) / 10}
    tables = measure_levels(labels, images, camera=CAMERA)
    assert list(tables) == ["bright", "dark"]
    for level, image in images.items():
        pd.testing.assert_frame_equal(tables[level], measure(labels, image, camera=CAMERA))


def test_in_the_dark_intensities_are_right_on_average_and_say_how_uncertain_they_are():
    """A median of whole counts would be off by up to half a count: a quarter of a nucleus at 2 e- a pixel."""
    camera = CameraNoise(offset_counts=200.3, gain_e_per_count=0.8, read_noise_e=1.2, saturation_counts=65535)
    labels = np.zeros((400, 400), np.int32)
    y, x = np.mgrid[:400, :400]
    for number, (row, column) in enumerate((r, c) for r in range(30, 400, 60) for c in range(30, 400, 60)):
        labels[np.hypot(y - row, x - column) < 12] = number + 1
    electrons = np.where(labels > 0, 2.0, 0.0).astype(np.float32) + np.float32(0.4)
    rng = np.random.default_rng(3)
    tables = [measure(labels, camera.expose(electrons, rng), pixel_size_um=1, camera=camera) for _ in range(8)]
    nuclei = pd.concat(tables)
    true = 2.0 * (labels == 1).sum()
    off = nuclei.integrated_intensity_e - true
    assert off.mean() == pytest.approx(0, abs=0.03 * true)
    assert off.std() == pytest.approx(nuclei.integrated_noise_e.median(), rel=0.25)
    assert nuclei.background_e.std() < 0.05, "what is local is drawn to the field's, where noise alone makes it differ"


def test_where_light_shows_it_the_background_is_local():
    labels = np.zeros((300, 300), np.int32)
    y, x = np.mgrid[:300, :300]
    for number, (row, column) in enumerate((r, c) for r in range(40, 300, 70) for c in range(40, 300, 70)):
        labels[np.hypot(y - row, x - column) < 12] = number + 1
    slope = 100 + 2.0 * x
    image = np.random.default_rng(0).normal(slope + 500 * (labels > 0), 3)
    table = measure(labels, image)
    centre = 100 + 2.0 * table.x_px
    np.testing.assert_allclose(table.background_counts, centre, atol=6)
    np.testing.assert_allclose(table.mean_intensity_counts, 500, atol=6)
