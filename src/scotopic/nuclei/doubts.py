"""What in a bright image speaks against its masks: light without a label, fibres taken for nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi
from skimage.morphology import disk, opening, skeletonize

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALO, _BRIGHT = 0.15, 0.35
"""Light without a label begins so far beyond the masks, in diameters, and at this share of a nucleus' own light."""
_LONG, _EVEN, _LEAST_PIECES = 7.0, 0.7, 5
"""A strip is this many of its own widths long; its tenth percentile of width is this share of the median (chains of nuclei
have waists); and it was cut into so many pieces."""
_CUT = 0.8
"""Three of four cuts between the pieces of a strip are this share of the smaller piece's width: nuclei that touch meet in less."""


def typical_diameter(labels: NDArray[Any]) -> float:
    """Return the diameter in pixels of a disc with the median area of the labels; there must be one."""
    areas = np.bincount(labels.ravel())[1:]
    return float(np.sqrt(4 / np.pi * np.median(areas[areas > 0])))


def unlabelled(image: NDArray[Any], labels: NDArray[Any], bright: float = _BRIGHT) -> NDArray[np.bool_]:
    """Return where something as bright as nuclei has no label: clumps at the border, debris, nuclei that were missed.

    Parameters
    ----------
    image : NDArray, shape (Y, X)
        Bright image that the masks were made from.
    labels : NDArray, shape (Y, X), integer
        Masks; without any, nothing is known of how bright nuclei are, and nothing is found.
    bright : float
        How bright it must be, relative to the median nucleus.
    """
    mask = labels > 0
    if not mask.any() or mask.all():
        return np.zeros(mask.shape, bool)
    smooth = ndi.gaussian_filter(np.asarray(image, np.float32), 1.0)
    diameter = typical_diameter(labels)
    above = smooth - _background(smooth, mask, diameter)
    height = float(np.median(above[mask]))
    far = ndi.distance_transform_edt(~mask) > max(1.0, _HALO * diameter)
    return np.asarray(opening(far & (above > bright * height), disk(max(1, round(0.08 * diameter)))), bool)


def strips(labels: NDArray[Any]) -> NDArray[np.int32]:
    """Return the labels that are pieces of a fibre, or the like: of something long and evenly wide that was cut up.

    Parameters
    ----------
    labels : NDArray, shape (Y, X), integer
        Masks.
    """
    found: list[int] = []
    pieces, _ = ndi.label(labels > 0, np.ones((3, 3), int))
    for number, box in enumerate(ndi.find_objects(pieces), start=1):
        own = pieces[box] == number
        members = np.unique(labels[box][own])
        if members.size < _LEAST_PIECES:
            continue
        depth = ndi.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
        along = depth[skeletonize(own)]
        if along.size == 0:
            continue
        width = 2 * float(np.median(along))
        inner = along[along > 0.25 * width]  # branches of the skeleton run out into corners
        is_even = own.sum() / width > _LONG * width and np.percentile(inner, 10) > _EVEN * width / 2
        if is_even and np.percentile(_cuts(np.where(own, labels[box], 0), depth), 25) > _CUT:
            found += members.tolist()
    return np.asarray(found, np.int32)


def _cuts(pieces: NDArray[Any], depth: NDArray[np.float64]) -> list[float]:
    """Return how wide the cut between each two pieces that touch is, relative to the smaller one's width.

    Parameters
    ----------
    pieces : NDArray, shape (Y, X), integer
        Pieces of one object.
    depth : NDArray, shape (Y, X), float64
        Distance to the border of the whole object: at a cut half of its width.
    """
    widest: dict[tuple[int, int], float] = {}
    for one, other, deep in (
        (pieces[1:], pieces[:-1], depth[1:]),
        (pieces[:, 1:], pieces[:, :-1], depth[:, 1:]),
    ):
        meet = (one != other) & (one > 0) & (other > 0)
        for a, b, half in zip(one[meet].tolist(), other[meet].tolist(), deep[meet].tolist(), strict=True):
            pair = (min(a, b), max(a, b))
            widest[pair] = max(widest.get(pair, 0.0), half)
    own = {piece: float(ndi.distance_transform_edt(np.pad(pieces == piece, 1)).max()) for piece in {*sum(widest, ())}}
    return [half / min(own[a], own[b]) for (a, b), half in widest.items()] or [0.0]


def _background(smooth: NDArray[np.float32], mask: NDArray[np.bool_], diameter: float) -> NDArray[np.float32]:
    """Return the light between the nuclei: the mean of what has no label, over some diameters around."""
    outside = (~ndi.binary_dilation(mask, iterations=max(1, round(_HALO * diameter)))).astype(np.float32)
    block = max(1, round(diameter / 4))
    sigma = 3 * diameter / block
    height, width = (n // block * block for n in smooth.shape)

    def coarse(values: NDArray[np.float32]) -> NDArray[np.float32]:
        blocks = values[:height, :width].reshape(height // block, block, width // block, block)
        return np.asarray(ndi.gaussian_filter(blocks.mean((1, 3)), sigma, mode="nearest"))

    light, share = coarse(smooth * outside), coarse(outside)
    everywhere = float(np.median(smooth[outside > 0])) if outside.any() else float(smooth.min())
    low = np.where(share > 1e-3, light / np.maximum(share, 1e-3), everywhere)
    rows, columns = (np.minimum(np.arange(n) // block, m - 1) for n, m in zip(smooth.shape, low.shape, strict=True))
    background: NDArray[np.float32] = low[np.ix_(rows, columns)].astype(np.float32)
    return background
