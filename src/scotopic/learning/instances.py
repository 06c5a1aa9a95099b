"""From what the network says to nuclei: peaks of the object probability, star-convex polygons, contours."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi
from skimage.segmentation import expand_labels

from scotopic.learning.targets import GRID, RAYS
from scotopic.nuclei import one_piece, renumbered

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

_SMOOTH = 1.0
"""Smoothing of the probability before peaks are taken, in grid points."""
_OWNED = 0.5
"""A polygon of which a larger share belongs to better ones already is the same nucleus seen again."""
_REACH = 3
"""A contour may lie so many grid points outside of its polygon, where the network is sure of foreground."""
_SURELY = 0.5
SMALLEST_PX = 12
"""What is smaller is no nucleus, nor a visible part of one."""
_SHORTEST, _LONGEST = 0.5, 127.5
"""Rays are cut to these, in grid points."""
_REACHED = int(_LONGEST)


@dataclass(frozen=True)
class Maps:
    """What the network says of an image of shape (Y, X); the grid has half as many points each way, rounded up."""

    probability: NDArray[np.float32]
    """That a nucleus has its middle here, on the grid: shape (Y/2, X/2)."""
    foreground: NDArray[np.float32]
    """Probability of nucleus: shape (Y, X)."""
    rays_at: Callable[[NDArray[np.intp], NDArray[np.intp]], NDArray[np.float32]]
    """Distances to its border in pixels of the image, shape (n, RAYS), from n grid points (their y and x)."""


@dataclass(frozen=True)
class Candidates:
    """Objects, best first. Those above any cut-off are a beginning of the list: an object is dropped only for better ones."""

    scores: NDArray[np.float32]
    """Object probability of each, falling: shape (n,)."""
    owner: NDArray[np.int32]
    """Which object each grid point belongs to, from 1; 0 none: shape (Y/2, X/2)."""


def best_score(maps: Maps) -> float:
    """Return the probability of the best object of an image."""
    return float(ndi.gaussian_filter(maps.probability, _SMOOTH).max())


def find_candidates(maps: Maps, least: float, most: int | None = None) -> Candidates:
    """Return the objects with a probability of at least `least`, best first, none mostly inside better ones.

    Parameters
    ----------
    most : int, optional
        No more than the best so many peaks are looked at: a network that has hardly learned sees thousands.
    """
    smooth = ndi.gaussian_filter(maps.probability, _SMOOTH)
    peak = (smooth >= least) & (smooth == ndi.maximum_filter(smooth, 3))
    rows, columns = np.nonzero(peak)
    order = np.argsort(-smooth[rows, columns], kind="stable")[:most]
    rows, columns = rows[order], columns[order]
    lengths = np.clip(maps.rays_at(rows, columns) / GRID, _SHORTEST, _LONGEST)
    owner = np.zeros(smooth.shape, np.int32)
    scores: list[float] = []
    for row, column, rays in zip(rows.tolist(), columns.tolist(), lengths, strict=True):
        box, inside = _polygon(row, column, rays, owner.shape)
        mine = owner[box]
        free = inside & (mine == 0)
        if np.count_nonzero(free) >= (1 - _OWNED) * np.count_nonzero(inside):
            scores.append(float(smooth[row, column]))
            mine[free] = len(scores)
    return Candidates(np.array(scores, np.float32), owner)


def visible(maps: Maps, candidates: Candidates, foreground: float) -> NDArray[np.bool_]:
    """Return which objects have foreground enough to become nuclei: in the dark some have a middle, but no body."""
    body = _on_pixels(candidates.owner, maps)[maps.foreground > foreground]
    return np.bincount(body, minlength=candidates.scores.size + 1)[1:] >= SMALLEST_PX


def _on_pixels(on_grid: NDArray[np.int32], maps: Maps) -> NDArray[np.int32]:
    height, width = maps.foreground.shape
    return on_grid.repeat(GRID, 0).repeat(GRID, 1)[:height, :width]


def _polygon(
    row: int, column: int, rays: NDArray[np.float32], shape: tuple[int, ...]
) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """Return a box around a polygon, cut to the grid, and which of its points lie inside.

    Between the rays a and b, an angle D apart, a point at distance d and at angles A and B from them lies inside if
    d sin B / (a sin D) + d sin A / (b sin D) <= 1.
    """
    reach = int(rays.max())
    box = tuple(slice(max(at - reach, 0), min(at + reach + 1, n)) for at, n in zip((row, column), shape, strict=True))
    there = tuple(
        slice(s.start - at + _REACHED, s.stop - at + _REACHED) for s, at in zip(box, (row, column), strict=True)
    )
    ray, share, next_share = (table[there] for table in _around())
    inverse = 1 / np.append(rays, rays[0])
    return box, share * inverse[ray] + next_share * inverse[ray + 1] <= 1  # type: ignore[return-value] # two slices


@cache
def _around() -> tuple[NDArray[Any], ...]:
    """Return for each point around a middle the ray before it, and its shares of that and of the next one."""
    y, x = np.mgrid[-_REACHED : _REACHED + 1, -_REACHED : _REACHED + 1]
    angle = np.arctan2(y, x) % (2 * np.pi) / (2 * np.pi) * RAYS
    ray = np.minimum(angle.astype(np.intp), RAYS - 1)
    between = 2 * np.pi / RAYS
    after = (angle - ray) * between
    distance = np.hypot(y, x) / np.sin(between)
    return ray, *(np.asarray(distance * np.sin(a), np.float32) for a in (between - after, after))


def nuclei_of(
    maps: Maps, candidates: Candidates, *, probability: float, foreground: float, presence: float = 0
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return label image and scores of the objects above a cut-off.

    Parameters
    ----------
    probability : float
        Cut-off of the object probability.
    foreground : float
        Cut-off of the foreground inside an object's polygon; up to 6 px around it 0.5, or this one if it is higher.
    presence : float
        If no object is so probable, there is none.

    Returns
    -------
    (NDArray[int32], shape (Y, X); NDArray[float32], shape (n,))
        Labels from 1 to n, each of one piece without holes; 0 is background. Score of label i at i - 1.
    """
    is_empty = candidates.scores.max(initial=0) < presence
    count = 0 if is_empty else int((candidates.scores >= probability).sum())
    owner = np.where(candidates.owner <= count, candidates.owner, 0)
    wide, around = (_on_pixels(each, maps) for each in (owner, expand_labels(owner, _REACH)))
    inside = np.where(maps.foreground > foreground, wide, 0)
    labels = np.where((inside == 0) & (wide == 0) & (maps.foreground > max(_SURELY, foreground)), around, inside)
    neat, numbers = renumbered(one_piece(labels, SMALLEST_PX))
    return neat, candidates.scores[numbers - 1]
