"""From what the network says to nuclei: peaks of the object probability, star-convex polygons, contours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage as ndi
from skimage.draw import polygon
from skimage.segmentation import expand_labels

from scotopic.learning.targets import GRID, ray_directions
from scotopic.nuclei import tidy

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMOOTH = 0.7
"""Smoothing of the probability before peaks are taken, in grid points."""
_OWNED = 0.35
"""A polygon of which a larger share belongs to better ones already is the same nucleus seen again."""
_REACH = 3
"""A contour may lie so many grid points outside of its polygon, where the network is sure of foreground."""
_SURELY = 0.5
_SMALLEST_PX = 12


@dataclass(frozen=True)
class Maps:
    """What the network says of an image of shape (Y, X); the grid has half as many points each way, rounded up."""

    probability: NDArray[np.float32]
    """That a nucleus has its middle here, on the grid: shape (Y/2, X/2)."""
    rays: NDArray[np.float32]
    """Distances to its border in pixels of the image: shape (RAYS, Y/2, X/2)."""
    foreground: NDArray[np.float32]
    """Probability of nucleus: shape (Y, X)."""


@dataclass(frozen=True)
class Candidates:
    """Objects, best first. Those above any cut-off are a beginning of the list: an object is dropped only for better ones."""

    scores: NDArray[np.float32]
    """Object probability of each, falling: shape (n,)."""
    owner: NDArray[np.int32]
    """Which object each grid point belongs to, from 1; 0 none: shape (Y/2, X/2)."""


def find_candidates(maps: Maps, least: float) -> Candidates:
    """Return the objects with a probability of at least `least`, best first, none mostly inside better ones."""
    smooth = ndi.gaussian_filter(maps.probability, _SMOOTH)
    peak = (smooth >= least) & (smooth == ndi.maximum_filter(smooth, 3))
    rows, columns = np.nonzero(peak)
    order = np.argsort(-smooth[rows, columns], kind="stable")
    rows, columns = rows[order], columns[order]
    vertices = maps.rays[:, rows, columns].T[..., None] / GRID * ray_directions()
    vertices += np.stack([rows, columns], axis=1)[:, None]
    owner = np.zeros(smooth.shape, np.int32)
    scores: list[float] = []
    for place, corners in zip(zip(rows, columns, strict=True), vertices, strict=True):
        y, x = polygon(corners[:, 0], corners[:, 1], owner.shape)
        if y.size == 0:
            y, x = (np.array([v]) for v in place)
        mine = owner[y, x]
        free = mine == 0
        if free.sum() < (1 - _OWNED) * mine.size:
            continue
        scores.append(float(smooth[place]))
        owner[y[free], x[free]] = len(scores)
    return Candidates(np.array(scores, np.float32), owner)


def nuclei_of(
    maps: Maps, candidates: Candidates, *, probability: float, foreground: float
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return label image and scores of the objects above a cut-off.

    Parameters
    ----------
    probability : float
        Cut-off of the object probability.
    foreground : float
        Cut-off of the foreground inside an object's polygon; up to 6 px around it 0.5, or this one if it is higher.

    Returns
    -------
    (NDArray[int32], shape (Y, X); NDArray[float32], shape (n,))
        Labels from 1 to n, each of one piece without holes; 0 is background. Score of label i at i - 1.
    """
    count = int((candidates.scores >= probability).sum())
    owner = np.where(candidates.owner <= count, candidates.owner, 0)
    height, width = maps.foreground.shape
    wide, around = (
        each.repeat(GRID, 0).repeat(GRID, 1)[:height, :width] for each in (owner, expand_labels(owner, _REACH))
    )
    inside = np.where(maps.foreground > foreground, wide, 0)
    labels = np.where((inside == 0) & (wide == 0) & (maps.foreground > max(_SURELY, foreground)), around, inside)
    neat = tidy(labels, _SMALLEST_PX)
    score = np.zeros(int(neat.max()) + 1, np.float32)
    score[neat.ravel()] = np.concatenate([[0], candidates.scores])[labels.ravel()]
    return neat, score[1:]
