"""What the network is to say of an image, made from its masks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi

from scotopic.nuclei import unlabelled

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

RAYS = 32
GRID = 2
"""Objects live on a grid of half the resolution."""
_LONGEST_RAY_PX = 255
_BRIGHT = 0.25
"""What is brighter than this share of a median nucleus, above background, and has no label, is not taught as background."""


@dataclass(frozen=True)
class Targets:
    """What the network is to say of an image of shape (Y, X); both are cut to a whole number of grid points."""

    probability: NDArray[np.float32]
    """Distance to the border over its maximum in the nucleus, on the grid: shape (Y/2, X/2), 0 to 1."""
    rays: NDArray[np.uint8]
    """Distances to the border in `RAYS` directions, in pixels of the image: shape (RAYS, Y/2, X/2)."""
    foreground: NDArray[np.bool_]
    """Nucleus or not: shape (Y, X)."""
    weight: NDArray[np.bool_]
    """False where nothing is known: shape (Y, X)."""


def ray_directions() -> NDArray[np.float64]:
    """Return the unit vectors (y, x) of the rays, shape (RAYS, 2)."""
    angles = 2 * np.pi * np.arange(RAYS) / RAYS
    return np.stack([np.sin(angles), np.cos(angles)], axis=1)


def make_targets(labels: NDArray[Any], weight: NDArray[np.bool_]) -> Targets:
    """Return the targets of a label image, shape (Y, X), and where they count.

    Star-convex polygons after Schmidt et al. 2018 (MICCAI, LNCS 11071:265). A grid point lies in the middle of its 2 x 2
    pixels.
    """
    height, width = (n // GRID * GRID for n in labels.shape)
    cut = np.ascontiguousarray(labels[:height, :width])
    return Targets(_centrality(cut)[::GRID, ::GRID], _rays(cut), cut > 0, weight[:height, :width])


def probability_of_crop(targets: Targets, labels: NDArray[Any], top: int, left: int, size: int) -> NDArray[np.float32]:
    """Return the object probability of a crop: a nucleus that the crop cuts is one that the border of an image cuts.

    Without this a network learns from crops that what is left of a cut nucleus is none, and misses it in images.

    Parameters
    ----------
    targets : Targets
        Of the whole image.
    labels : NDArray, shape (Y, X), integer
        Masks that they were made from.
    top, left, size : int
        First row and column, and side of the crop; multiples of `GRID`.
    """
    row, column, side = top // GRID, left // GRID, size // GRID
    result = targets.probability[row : row + side, column : column + side].copy()
    crop = labels[top : top + size, left : left + size]
    cut = np.unique(np.concatenate([crop[0], crop[-1], crop[:, 0], crop[:, -1]]))
    pieces = np.where(np.isin(crop, cut), crop, 0).astype(np.int32)
    there = pieces[::GRID, ::GRID] > 0
    result[there] = _centrality(pieces)[::GRID, ::GRID][there]
    return result


def _centrality(labels: NDArray[Any]) -> NDArray[np.float32]:
    """Return the distance to the border over its maximum in each nucleus, at full resolution."""
    result = np.zeros(labels.shape, np.float32)
    for number, box in enumerate(ndi.find_objects(labels), start=1):
        if box is None:
            continue
        # One pixel around, but not beyond the image: where the image ends the nucleus goes on.
        wide = tuple(slice(max(s.start - 1, 0), min(s.stop + 1, n)) for s, n in zip(box, labels.shape, strict=True))
        mine = labels[wide] == number
        depth = ndi.distance_transform_edt(mine) if not mine.all() else np.ones(mine.shape)
        result[wide][mine] = (depth / depth.max())[mine]
    return result


def _rays(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """March along each ray until the label changes; each step is one shift of the whole image, which is fast."""
    height, width = (n // GRID for n in labels.shape)
    pad = _LONGEST_RAY_PX // GRID + 2
    phases = {
        (py, px): np.pad(labels[py::GRID, px::GRID].astype(np.int32), pad) for py in range(GRID) for px in range(GRID)
    }
    start = labels[::GRID, ::GRID].astype(np.int32)
    rays = np.zeros((RAYS, height, width), np.uint8)
    for number, direction in enumerate(ray_directions()):
        inside = start > 0
        for step in range(1, _LONGEST_RAY_PX):
            # From the middle of a grid point's pixels, 0.5 px beyond the first of them.
            dy, dx = (int(np.floor(1 - 1e-6 + step * d)) for d in direction)
            (ay, py), (ax, px) = divmod(dy, GRID), divmod(dx, GRID)
            there = phases[py, px][pad + ay : pad + ay + height, pad + ax : pad + ax + width]
            inside &= there == start
            if not inside.any():
                break
            rays[number] += inside
    return rays


def known(image: NDArray[Any], labels: NDArray[Any], doubted: Collection[int]) -> NDArray[np.bool_]:
    """Return where masks tell the truth: not where something bright has no label, nor where a label is doubted.

    Parameters
    ----------
    image : NDArray, shape (Y, X)
        Bright image that the masks were made from.
    labels : NDArray, shape (Y, X), integer
        Masks.
    doubted : collection of int
        Labels of clumps and debris.

    Returns
    -------
    NDArray[bool], shape (Y, X)
    """
    mask = labels > 0
    doubtful = np.isin(labels, list(doubted)) if doubted else np.zeros(mask.shape, bool)
    return np.asarray(~(doubtful | unlabelled(image, labels, _BRIGHT)))
