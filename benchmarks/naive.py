"""The naive segmentation that difficulty is measured with, and its score: deliberately plain, never tuned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import watershed

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_AREA_PX = 60
MIN_DISTANCE_PX = 7


def naive_segmentation(image: NDArray[np.generic]) -> NDArray[np.int32]:
    """Return labels, shape (Y, X): Otsu threshold of the image smoothed by 1 px, distance transform, watershed."""
    smooth = gaussian(image.astype(float), 1)
    mask = ndimage.binary_opening(ndimage.binary_fill_holes(smooth > threshold_otsu(smooth)))
    distance = gaussian(ndimage.distance_transform_edt(mask), 1)
    peaks = peak_local_max(distance, min_distance=MIN_DISTANCE_PX, labels=mask.astype(int), exclude_border=False)
    markers = np.zeros(mask.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    labels = watershed(-distance, markers, mask=mask).astype(np.int32)
    labels[(np.bincount(labels.ravel()) < MIN_AREA_PX)[labels]] = 0
    return labels


def matches(truth: NDArray[np.integer], found: NDArray[np.integer]) -> tuple[int, int, int]:
    """Return pairs with an intersection over union above 0.5, number found, number true."""
    _, t = np.unique(truth, return_inverse=True)
    _, f = np.unique(found, return_inverse=True)
    n_true, n_found = int(t.max()), int(f.max())
    pairs = t.ravel().astype(np.int64) * (n_found + 1) + f.ravel()
    overlap = np.bincount(pairs, minlength=(n_true + 1) * (n_found + 1)).reshape(n_true + 1, n_found + 1)
    union = overlap.sum(1, keepdims=True) + overlap.sum(0, keepdims=True) - overlap
    return int((overlap / np.maximum(union, 1))[1:, 1:].__gt__(0.5).sum()), n_found, n_true
