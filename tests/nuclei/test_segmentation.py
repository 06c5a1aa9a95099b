from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage as ndi

from conftest import DATA
from scotopic.nuclei import (
    SegmentationSettings,
    estimate_diameter,
    matching,
    pooled,
    reference_segmentation,
)

RNG = np.random.default_rng(1)
REAL = sorted(p.stem for p in (DATA / "nuclei" / "images").iterdir())


def discs(*nuclei, shape=(200, 240), background=100.0, noise=3.0, blur=1.0) -> np.ndarray:
    """Blurred discs (y, x, radius, height) on a background, in counts."""
    y, x = np.indices(shape)
    image = np.full(shape, background)
    for cy, cx, radius, height in nuclei:
        image += height * ((y - cy) ** 2 + (x - cx) ** 2 <= radius**2)
    image = ndi.gaussian_filter(image, blur) + np.random.default_rng(2).normal(0, noise, shape)
    return np.clip(image, 0, 65535).astype(np.uint16)


IMAGES = {
    "empty": np.full((64, 80), 200, np.uint16),
    "dark noise": RNG.normal(200, 5, (128, 128)).astype(np.uint16),
    "saturated": np.full((64, 64), 65535, np.uint16),
    "one pixel": np.zeros((1, 1), np.uint8),
    "one row": np.arange(50, dtype=np.uint8)[None],
    "one bright pixel": np.pad(np.array([[5000]], np.uint16), 40),
    "not a number": np.full((50, 50), np.nan, np.float32),
    "partly not a number": np.where(RNG.random((90, 90)) < 0.1, np.nan, RNG.random((90, 90))).astype(np.float32),
    "infinite": np.where(np.eye(60) > 0, np.inf, 1.0),
    "negative": -1000 * np.ones((60, 60)),
    "8 bit": (discs((60, 60, 12, 900), (120, 150, 12, 700)) // 8).astype(np.uint8),
    "16 bit": discs((60, 60, 12, 9000), (120, 150, 12, 7000)),
    "float": discs((60, 60, 12, 9000), (120, 150, 12, 7000)) / 65535.0,
    "noise of a camera": RNG.integers(0, 65535, (100, 100), dtype=np.uint16),
    "read only": discs((60, 60, 12, 9000)),
    "not contiguous": discs((60, 60, 12, 9000)).T[::2],
}


class SegmenterContract:
    """What every segmenter must stand; subclass it with another one."""

    @staticmethod
    def segment(image):
        raise NotImplementedError

    @pytest.mark.parametrize("name", IMAGES)
    def test_labels_are_integer_connected_without_holes_and_consecutive(self, name):
        image = IMAGES[name].copy()
        image.flags.writeable = name != "read only"
        before = image.copy()
        labels = self.segment(image)
        np.testing.assert_array_equal(image, before)
        assert labels.shape == image.shape
        assert np.issubdtype(labels.dtype, np.integer)
        assert sorted(np.unique(labels[labels > 0])) == list(range(1, int(labels.max()) + 1))
        for number in range(1, int(labels.max()) + 1):
            own = labels == number
            assert ndi.label(own)[1] == 1
            assert (ndi.binary_fill_holes(own) & (labels == 0)).sum() == 0

    @pytest.mark.parametrize("name", ["empty", "dark noise", "saturated", "not a number", "negative", "one pixel"])
    def test_where_there_is_nothing_nothing_is_found(self, name):
        assert self.segment(IMAGES[name]).max() == 0

    @pytest.mark.parametrize("name", ["8 bit", "16 bit", "float"])
    def test_two_nuclei_are_two_whatever_the_type_of_pixel(self, name):
        assert self.segment(IMAGES[name]).max() == 2


class TestReferenceSegmentation(SegmenterContract):
    segment = staticmethod(reference_segmentation)


def test_touching_nuclei_are_split_and_a_long_one_is_not():
    pair = discs((60, 60, 12, 5000), (60, 82, 12, 5000), (140, 60, 12, 5000), (140, 160, 12, 5000))
    assert reference_segmentation(pair).max() == 4
    y, x = np.indices((200, 240))
    long = 100 + 5000 * (((y - 100) / 10) ** 2 + ((x - 120) / 18) ** 2 <= 1)
    single = discs((40, 60, 13, 5000), (160, 60, 13, 5000), (160, 180, 13, 5000)) + long
    assert reference_segmentation(ndi.gaussian_filter(single, 1)).max() == 4


def test_a_dim_nucleus_in_the_glare_of_a_bright_one_is_found():
    image = discs((100, 100, 12, 20000), (100, 130, 13, 900), (40, 60, 13, 1500), (160, 180, 13, 1500), blur=1.5)
    labels = reference_segmentation(image)
    assert labels[100, 133] > 0
    assert labels[100, 133] != labels[100, 100]


def test_a_slope_in_the_background_is_no_nucleus():
    slope = np.linspace(200, 2000, 240)[None] * np.ones((200, 1))
    assert reference_segmentation(slope + RNG.normal(0, 5, slope.shape)).max() == 0
    nuclei = discs((60, 60, 12, 1500), (120, 150, 12, 1500)) + slope
    assert reference_segmentation(nuclei).max() == 2


def test_debris_is_dropped_but_a_nucleus_cut_by_the_border_stays():
    image = discs((100, 120, 13, 4000), (40, 60, 13, 4000), (150, 60, 3, 4000), (100, 245, 13, 4000))
    labels = reference_segmentation(image)
    assert labels.max() == 3
    assert labels[150, 60] == 0
    assert labels[100, 239] > 0


@settings(max_examples=8, deadline=None)
@given(st.floats(8, 60), st.floats(1, 200))
def test_the_result_depends_neither_on_gain_nor_on_the_scale(diameter, gain):
    radius = diameter / 2
    size = int(diameter * 8)
    places = [(0.25, 0.25), (0.25, 0.7), (0.7, 0.3), (0.72, 0.72)]
    image = discs(
        *((y * size, x * size, radius, 30 * gain) for y, x in places),
        shape=(size, size),
        background=5 * gain,
        noise=0.2 * gain,
        blur=diameter / 25,
    )
    assert estimate_diameter(image) == pytest.approx(diameter, rel=0.2)
    assert reference_segmentation(image).max() == 4


def test_a_diameter_in_micrometres_needs_the_size_of_a_pixel():
    image = discs((60, 60, 12, 9000), (120, 150, 12, 7000))
    told = SegmentationSettings(diameter_um=12)
    assert reference_segmentation(image, pixel_size_um=0.5, settings=told).max() == 2
    with pytest.raises(ValueError, match="size of a pixel"):
        reference_segmentation(image, settings=told)


def test_real_fields_agree_with_their_hand_masks():
    found = []
    for stem in REAL:
        image = iio.imread(next((DATA / "nuclei" / "images").glob(f"{stem}.*")))
        mask = iio.imread(next((DATA / "nuclei" / "masks").glob(f"{stem}.*")))
        found.append(matching(mask, reference_segmentation(image)))
    assert pooled(found).at(0.5).f1 > 0.93
    assert pooled(found).at(0.7).f1 > 0.87


def test_a_lower_edge_reaches_farther_out_and_finds_the_same_nuclei():
    image = iio.imread(DATA / "nuclei" / "images" / "007.png")
    usual, wide = (reference_segmentation(image, settings=SegmentationSettings(edge=edge)) for edge in (0.97, 0.85))
    assert wide.max() == pytest.approx(usual.max(), abs=2)
    assert 1.05 < (wide > 0).sum() / (usual > 0).sum() < 1.25
