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
