"""From rough regions to contours: each nucleus is cut where its own edge is steepest."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi
from skimage.measure import label as connected
from skimage.segmentation import watershed

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LOWEST, _HIGHEST, _STEPS = 0.12, 0.92, 32
"""Range of the cut, relative to the median intensity of a nucleus, and the number of steps tried."""
_SMOOTH_STEPS = (0.25, 0.5, 1, 0.5, 0.25)
_FLOOR_NOISE = 5.0
"""Nothing fainter than this many standard deviations of the noise is part of a nucleus."""


def cut_at_steepest(
    image: NDArray[np.float32], regions: NDArray[np.int32], noise: float, edge: float
) -> NDArray[np.int32]:
    """Grow regions to their basins, and cut each at the level where the gradient along its edge is largest.

    Parameters
    ----------
    image : NDArray, shape (Y, X), float32
        Smoothed image without background.
    regions : NDArray, shape (Y, X), integer
        Labels 1 to n, each inside its nucleus.
    noise : float
        Standard deviation of the noise of `image`.
    edge : float
        A nucleus is a dome: where the gradient hardly changes from its edge inwards, the outermost level that has this
        share of the largest gradient is the edge.

    Returns
    -------
    NDArray, shape (Y, X), int32
        The same labels; a label may be in several pieces, with holes, or gone.
    """
    count = int(regions.max())
    if count == 0:
        return regions
    basins = watershed(-image, regions, mask=(image > _FLOOR_NOISE * noise) | (regions > 0))
    inside = regions > 0
    height = np.concatenate([[1.0], ndi.median(image[inside], regions[inside], np.arange(1, count + 1))])
    relative = image / np.maximum(height, 1e-6)[basins]
    on_edge = (basins > 0) & (relative > _LOWEST) & (relative < _HIGHEST)
    step = ((relative[on_edge] - _LOWEST) / (_HIGHEST - _LOWEST) * _STEPS).astype(np.int64)
    key = (basins[on_edge] - 1) * _STEPS + step
    gradient = np.hypot(*np.gradient(image))
    total = np.bincount(key, gradient[on_edge], count * _STEPS).reshape(count, _STEPS)
    pixels = np.bincount(key, minlength=count * _STEPS).reshape(count, _STEPS).astype(float)
    total, pixels = (ndi.convolve1d(a, _SMOOTH_STEPS, axis=1, mode="constant") for a in (total, pixels))
    steepness = total / np.maximum(pixels, 2)
    steepest = np.argmax(steepness >= edge * steepness.max(1, keepdims=True), axis=1)
    cut = np.concatenate([[np.inf], _LOWEST + (steepest + 0.5) * (_HIGHEST - _LOWEST) / _STEPS])
    labels: NDArray[np.int32] = np.where(relative >= cut[basins], basins, 0).astype(np.int32)
    return labels


def tidy(labels: NDArray[Any], smallest_px: float) -> NDArray[np.int32]:
    """Return labels of one piece each, without holes, consecutive from 1; what is smaller than allowed is dropped."""
    return consecutive(one_piece(labels, smallest_px))


def one_piece(labels: NDArray[Any], smallest_px: float) -> NDArray[np.int32]:
    """Return the largest piece of each label, without holes, under its number, unless it is smaller than allowed."""
    pieces = connected(labels, connectivity=1, background=0)
    if pieces.max() == 0:
        return np.zeros(labels.shape, np.int32)
    size = np.bincount(pieces.ravel())
    owner = np.zeros(size.size, np.int64)
    owner[pieces.ravel()] = labels.ravel()
    order = np.lexsort((size, owner))
    largest = np.append(owner[order][1:] != owner[order][:-1], True)
    kept = np.zeros(size.size, bool)
    kept[order[largest]] = True
    kept[0] = False
    kept &= size >= smallest_px
    whole = np.where(kept[pieces], labels, 0).astype(np.int32)
    _fill_holes(whole)
    return whole


def _fill_holes(labels: NDArray[np.int32]) -> None:
    """Give the background that a nucleus encloses to it, in place. Only those beside an enclosed gap are looked at: few."""
    gaps = connected(labels == 0, connectivity=1)
    beside: set[int] = set()
    for number, box in enumerate(ndi.find_objects(gaps), start=1):
        wide = tuple(slice(s.start - 1, s.stop + 1) for s in box)
        if all(s.start >= 0 and s.stop <= n for s, n in zip(wide, labels.shape, strict=True)):
            mine = gaps[wide] == number
            beside.update(labels[wide][ndi.binary_dilation(mine) & ~mine].tolist())
    boxes = ndi.find_objects(labels) if beside else []
    for number in sorted(beside):
        box = boxes[number - 1]
        labels[box][ndi.binary_fill_holes(labels[box] == number) & (labels[box] == 0)] = number


def consecutive(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Return labels numbered from 1 without gaps; 0 stays background."""
    return renumbered(labels)[0]


def renumbered(labels: NDArray[Any]) -> tuple[NDArray[np.int32], NDArray[np.intp]]:
    """Return labels numbered from 1 without gaps, and the number that each had before."""
    present = np.flatnonzero(np.bincount(labels.ravel())[1:]) + 1
    table = np.zeros(int(labels.max(initial=0)) + 1, np.int32)
    table[present] = np.arange(1, present.size + 1)
    return table[labels], present
