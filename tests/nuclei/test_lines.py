"""Lines of the camera that are defective are found, and hardly ever one that is not."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi

from scotopic.nuclei import judge, measure, reference_segmentation
from scotopic.nuclei.lines import defective_lines

NOISE = 4.0
"""Standard deviation of a pixel of background in these fields, in counts."""


def field(size=192, seed=1, count=14):
    """Discs at random places, with photon noise of each pixel for itself."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    light = np.zeros((size, size))
    for cy, cx in rng.uniform(10, size - 10, (count, 2)):
        light[np.hypot(y - cy, x - cx) <= 7] += 8000
    return (rng.poisson(ndi.gaussian_filter(light, 1.2) + 64) / 2 + 130).astype(np.uint16)


def noise(seed, size):
    """Images without a line, of every kind of noise that a camera or a file gives."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((size, size))
    return (
        rng.poisson(64, (size, size)) // 2,  # values lie so close that most lines have the same percentiles
        rng.poisson(0.5, (size, size)),
        rng.poisson(100 + 400 * np.exp(-((x / size - 0.5) ** 2) - (y / size) ** 2)),
        ndi.gaussian_filter(rng.normal(100, 10, (size, size)), 0.7).round(),
        np.where(x < size // 3, 0, rng.poisson(30, (size, size))),  # the padding of a stitched image
        rng.poisson(np.where(y < size // 2, 60, 90)),
        rng.exponential(20, (size, size)),
    )


@pytest.mark.parametrize(("size", "seed"), [(192, 10), (192, 30), (256, 8)])
def test_a_clean_field_is_usable(size, seed):
    image = field(size, seed)
    labels = reference_segmentation(image)
    assert judge(labels, image, measure(labels, image)).reasons == ()


def test_images_without_a_line_have_none():
    images = [image for seed in range(12) for image in noise(seed, 160 + seed)]
    assert sum(defective_lines(image) > 0 for image in images) == 0


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize(
    "kind", ["off by 2 sd", "dark", "half", "three wide", "gain", "dead at 0", "dead half, mid-grey"]
)
def test_a_defective_line_is_found(kind, axis):
    image = field().astype(float)
    line = (image.T if axis else image)[40:41]
    if kind == "off by 2 sd":
        line += 2 * NOISE
    elif kind == "dark":
        line -= 2 * NOISE
    elif kind == "half":
        line[:, 50:146] += 4 * NOISE
    elif kind == "three wide":
        (image.T if axis else image)[39:42] += 3 * NOISE
    elif kind == "gain":
        line *= 0.8
    elif kind == "dead at 0":
        line[:] = 0
    else:
        line[:, :96] = np.median(image)
    assert 1 <= defective_lines(np.rint(image).astype(np.uint16)) <= 3


def test_nuclei_in_rows_are_no_lines():
    """Small nuclei in straight rows, as on a patterned slide."""
    y, x = np.indices((240, 240))
    light = 4000.0 * (np.hypot(y % 12 - 6, x % 12 - 6) <= 3)
    image = np.random.default_rng(3).poisson(ndi.gaussian_filter(light, 1) + 60)
    assert defective_lines(image) == 0
