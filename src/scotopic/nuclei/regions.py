"""Candidates for nuclei: connected regions across all thresholds of an image, and the choice among them.

The regions above all thresholds form a tree (component tree, max-tree: Salembier et al. 1998, IEEE Trans. Image Process.
7:555). Each node is scored as a nucleus by its shape, size and edge, and the best set of disjoint nodes is found from
the leaves to the root (as Arteta et al. 2012, MICCAI, LNCS 7510:348, do with learned scores).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import higra as hg
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LEVELS = 512
_NOISE_PER_LEVEL = 2.0
"""Levels are spaced evenly up to this many standard deviations of the noise, logarithmically above."""


@dataclass(frozen=True)
class NodeScore:
    """How a region is scored as a nucleus: each term lies between 0 and 1, and the score is their product."""

    size_sigma: float = 0.6
    """Width of the size prior: standard deviation of the logarithm of the area."""
    least_fit: float = 0.80
    """Ellipse fit (see `ellipse_fit`) at which the shape term is 0."""
    full_fit: float = 0.97
    """Ellipse fit from which the shape term is 1."""
    full_edge: float = 2.7
    """Mean gradient along the contour, relative to mean intensity per diameter, from which the edge term is 1."""
    full_contrast: float = 16.0
    """Mean intensity in standard deviations of the noise from which the contrast term is 1."""
    exponent: float = 2.0
    """Power of the product: the larger, the more one good region counts against several middling ones."""
    smallest: float = 0.12
    """Smallest area of a candidate, relative to that of a nucleus."""
    largest: float = 6.0
    """Largest area of a candidate, relative to that of a nucleus."""
    least: float = 0.02
    """Lowest score of a region that is taken at all."""


def find_regions(image: NDArray[np.float32], diameter: float, noise: float, how: NodeScore) -> NDArray[np.int32]:
    """Return the best set of disjoint regions as a label image.

    Parameters
    ----------
    image : NDArray, shape (Y, X), float32
        Smoothed image without background.
    diameter : float
        Diameter of a nucleus in pixels.
    noise : float
        Standard deviation of the noise of `image`.
    """
    stretched = np.arcsinh(np.maximum(image, 0) / (_NOISE_PER_LEVEL * noise))
    top = float(stretched.max())
    if top <= 0:
        return np.zeros(image.shape, np.int32)
    levels = (stretched * ((_LEVELS - 1) / top)).astype(np.uint16)
    tree, _ = hg.component_tree_max_tree(hg.get_8_adjacency_implicit_graph(image.shape), levels)
    score = _score(tree, image, levels, diameter, noise, how)
    owner = _best_nodes(tree, image.size, score)
    number = np.zeros(score.size, np.int32)
    chosen = np.flatnonzero(np.bincount(owner, minlength=score.size)[1:]) + 1
    number[chosen] = np.arange(1, chosen.size + 1)
    labels: NDArray[np.int32] = number[owner].reshape(image.shape)
    return labels


def ellipse_fit(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the area of regions relative to the ellipse that has their second moments.

    1 for an ellipse, less for anything else: 0.89 for two discs that touch.

    Parameters
    ----------
    moments : NDArray, shape (..., 6)
        Sums over the pixels of a region: 1, y, x, y², x², x y.
    """
    area, sy, sx, syy, sxx, sxy = np.moveaxis(moments, -1, 0)
    # A pixel is a square, not a point: its own second moment is 1/12.
    vy, vx = syy / area - (sy / area) ** 2 + 1 / 12, sxx / area - (sx / area) ** 2 + 1 / 12
    covariance = sxy / area - sy * sx / area**2
    fit: NDArray[np.float64] = area / (4 * np.pi * np.sqrt(np.maximum(vy * vx - covariance**2, 1e-9)))
    return fit


def _score(
    tree: Any, image: NDArray[np.float32], levels: NDArray[np.uint16], diameter: float, noise: float, how: NodeScore
) -> NDArray[np.float64]:
    """Score every node of the tree."""
    y, x = (axis.astype(float) for axis in np.indices(image.shape))
    drop, length = _outflow(image, levels)
    leaves = np.stack([np.ones_like(y), y, x, y * y, x * x, x * y, image, drop, length], axis=-1)
    sums = hg.accumulate_sequential(tree, leaves.reshape(image.size, -1), hg.Accumulators.sum)
    nominal = np.pi / 4 * diameter**2
    area, mean = sums[:, 0], sums[:, 6] / sums[:, 0]
    edge = sums[:, 7] / np.maximum(sums[:, 8], 1) * diameter / np.maximum(mean, 1e-6)
    terms = (
        np.clip((ellipse_fit(sums[:, :6]) - how.least_fit) / (how.full_fit - how.least_fit), 0, 1),
        0.25 + 0.75 * np.exp(-0.5 * (np.log(area / nominal) / how.size_sigma) ** 2),
        np.clip(edge / how.full_edge, 0, 1),
        np.clip(mean / (how.full_contrast * noise), 0, 1),
    )
    score = np.prod(terms, axis=0) ** how.exponent
    allowed = (area >= how.smallest * nominal) & (area <= how.largest * nominal) & (score >= how.least)
    allowed[: image.size] = False
    return np.where(allowed, score, 0.0)


def _outflow(image: NDArray[np.float32], levels: NDArray[np.uint16]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return for each pixel the drop of intensity to its lower neighbours less that from higher ones, and their number.

    Summed over a region everything inside cancels: what is left are the drop along its contour and the contour's length.
    """
    drop, length = np.zeros(image.shape), np.zeros(image.shape)
    for axis in (0, 1):
        step = np.sign(np.diff(levels.astype(np.int32), axis=axis))
        rise = np.where(step == 0, 0, np.diff(image, axis=axis))
        low, high = [slice(None)] * 2, [slice(None)] * 2
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        for total, change in ((drop, rise), (length, step)):
            total[tuple(high)] += change
            total[tuple(low)] -= change
    return drop, length


def _best_nodes(tree: Any, n_pixels: int, score: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return for each pixel the node that it belongs to in the set of disjoint nodes with the largest sum of scores."""
    best = hg.accumulate_and_max_sequential(tree, score, np.zeros(n_pixels), hg.Accumulators.sum)
    chosen = np.where((score > 0) & (score >= best - 1e-12), np.arange(score.size), 0)[n_pixels:].tolist()
    parents = (tree.parents()[n_pixels:] - n_pixels).tolist()
    owner = [0] * len(chosen)
    for node in range(len(chosen) - 1, -1, -1):  # from the root down: the topmost chosen node owns all below
        above = owner[parents[node]] if parents[node] != node else 0
        owner[node] = above or chosen[node]
    owners: NDArray[np.int64] = np.asarray(owner)[tree.parents()[:n_pixels] - n_pixels]
    return owners
