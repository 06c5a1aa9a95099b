"""Clumps into nuclei: where an intensity valley or a waist between two parts says that they are two."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.segmentation import watershed

from scotopic.nuclei.regions import ellipse_fit

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGE_ENOUGH = 0.3
"""Objects smaller than this share of a nucleus are not split."""
_PEAK_DISTANCE = 0.15
"""Smallest distance of two candidates for centres, in diameters."""
_SMOOTH = 0.07
"""Smoothing of the landscape of distance and intensity, in diameters."""
_INTENSITY_WEIGHT = 0.5
_LEAST_FIT, _FULL_FIT = 0.86, 0.975
_SMALL_SIGMA, _LARGE_SIGMA = 0.7, 0.55
_VALLEY, _WAIST, _MISFIT = 0.15, 0.3, 0.06
"""Depth of a valley relative to the dimmer side, narrowing relative to the smaller part's width, and lack of ellipse
fit: each of these alone is evidence enough that two parts are two nuclei."""
_ENOUGH_EVIDENCE = 0.6
_WHOLE_BONUS = 1.15


@dataclass
class _Part:
    """One or several fragments of an object, and the best way found to divide them into nuclei."""

    fragments: list[int]
    moments: NDArray[np.float64]
    brightness: float
    worth: float
    nuclei: list[list[int]] = field(default_factory=list)


def split_clumps(image: NDArray[np.float32], labels: NDArray[np.int32], diameter: float) -> NDArray[np.int32]:
    """Divide objects that are several nuclei.

    Each object is cut into fragments by a watershed on distance to its border and intensity; fragments are then joined
    again, the least separated first, and for each join the whole is weighed against its parts by shape and size. Parts
    only win where a valley, a waist or a bad shape speaks for two.

    Parameters
    ----------
    image : NDArray, shape (Y, X), float32
        Smoothed image without background.
    labels : NDArray, shape (Y, X), int32
        Objects, numbered from 1, in one piece each.
    diameter : float
        Diameter of a nucleus in pixels.
    """
    divided = labels.copy()
    following = int(labels.max()) + 1
    nominal = np.pi / 4 * diameter**2
    for number, box in enumerate(ndi.find_objects(labels), start=1):
        if box is None:
            continue
        own = labels[box] == number
        if own.sum() < _LARGE_ENOUGH * nominal:
            continue
        landscape = _landscape(image[box], own, diameter)
        fragments = _fragments(landscape, own, diameter)
        if fragments.max() < 2:
            continue
        for nucleus in _nuclei(image[box], landscape, fragments, nominal)[1:]:
            divided[box][np.isin(fragments, nucleus)] = following
            following += 1
    return divided


def _landscape(image: NDArray[np.float32], own: NDArray[np.bool_], diameter: float) -> NDArray[np.float64]:
    distance = ndi.distance_transform_edt(np.pad(own, 1))[1:-1, 1:-1]
    relative = np.clip(image / max(float(np.median(image[own])), 1e-6), 0, 2)
    height = ndi.gaussian_filter(distance / (diameter / 2) + _INTENSITY_WEIGHT * relative, _SMOOTH * diameter)
    landscape: NDArray[np.float64] = np.where(own, height, 0.0)
    return landscape


def _fragments(landscape: NDArray[np.float64], own: NDArray[np.bool_], diameter: float) -> NDArray[np.int32]:
    apart = max(1, int(_PEAK_DISTANCE * diameter))
    peaks = peak_local_max(landscape, min_distance=apart, labels=own.astype(np.int32), exclude_border=False)
    if len(peaks) < 2:
        return own.astype(np.int32)
    markers = np.zeros(own.shape, np.int32)
    markers[tuple(peaks.T)] = np.arange(1, len(peaks) + 1)
    fragments: NDArray[np.int32] = watershed(-landscape, markers, mask=own)
    return fragments


def _nuclei(
    image: NDArray[np.float32], landscape: NDArray[np.float64], fragments: NDArray[np.int32], nominal: float
) -> list[list[int]]:
    """Return the fragments of each nucleus of an object."""
    parts = {number: _single(image, fragments, number, nominal) for number in range(1, int(fragments.max()) + 1)}
    first, second, valley, pass_height = _contacts(image, landscape, fragments)
    highest: dict[tuple[int, int], float] = {}
    for a, b, height in zip(first.tolist(), second.tolist(), pass_height.tolist(), strict=True):
        highest[a, b] = max(height, highest.get((a, b), 0.0))
    part_of = {number: number for number in parts}
    for a, b in sorted(highest, key=lambda pair: -highest[pair]):
        one, two = part_of[a], part_of[b]
        if one == two:
            continue
        lookup = np.zeros(int(fragments.max()) + 1, np.int8)
        lookup[parts[one].fragments], lookup[parts[two].fragments] = 1, 2
        between = lookup[first] + lookup[second] == 3
        between &= (lookup[first] > 0) & (lookup[second] > 0)
        parts[one] = _joined(parts[one], parts.pop(two), valley[between], nominal)
        for number in parts[one].fragments:
            part_of[number] = one
    return [nucleus for part in parts.values() for nucleus in part.nuclei]


def _single(image: NDArray[np.float32], fragments: NDArray[np.int32], number: int, nominal: float) -> _Part:
    y, x = (axis.astype(float) for axis in np.nonzero(fragments == number))
    moments = np.array([y.size, y.sum(), x.sum(), (y * y).sum(), (x * x).sum(), (x * y).sum()])
    brightness = float(np.percentile(image[fragments == number], 75))
    return _Part([number], moments, brightness, _worth(moments, nominal), [[number]])


def _joined(one: _Part, two: _Part, contact: NDArray[np.float32], nominal: float) -> _Part:
    """Join two parts, as one nucleus if it is worth more than the two of them."""
    moments = one.moments + two.moments
    valley = max(1 - float(contact.mean()) / max(min(one.brightness, two.brightness), 1e-6), 0.0)
    width = 2 * np.sqrt(min(one.moments[0], two.moments[0]) / np.pi)
    waist = max(1 - contact.size * (np.pi / 4) / width, 0.0)  # steps along pixel sides are longer than the line
    misfit = max(0.97 - float(ellipse_fit(moments)), 0.0)
    evidence = valley / _VALLEY + waist / _WAIST + misfit / _MISFIT
    whole = _worth(moments, nominal) * max(_WHOLE_BONUS - 1.5 * valley - 0.3 * waist, 0.05)
    fragments, brightness = one.fragments + two.fragments, max(one.brightness, two.brightness)
    if evidence < _ENOUGH_EVIDENCE or whole >= one.worth + two.worth:
        return _Part(fragments, moments, brightness, _worth(moments, nominal), [fragments])
    return _Part(fragments, moments, brightness, one.worth + two.worth, one.nuclei + two.nuclei)


def _worth(moments: NDArray[np.float64], nominal: float) -> float:
    """Return how much of a nucleus an object is by shape and size, times its area."""
    shape = np.clip((ellipse_fit(moments) - _LEAST_FIT) / (_FULL_FIT - _LEAST_FIT), 0, 1)
    deviation = np.log(moments[0] / nominal)
    sigma = _SMALL_SIGMA if deviation < 0 else _LARGE_SIGMA
    return float(moments[0] * shape * np.exp(-0.5 * (deviation / sigma) ** 2))


def _contacts(
    image: NDArray[np.float32], landscape: NDArray[np.float64], fragments: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.float32], NDArray[np.float64]]:
    """Return each pair of neighbouring pixels of different fragments: their numbers, intensity and height between."""
    found = []
    for axis in (0, 1):
        low, high = [slice(None)] * 2, [slice(None)] * 2
        low[axis], high[axis] = slice(None, -1), slice(1, None)
        near, far = tuple(low), tuple(high)
        a, b = fragments[near], fragments[far]
        touch = (a != b) & (a > 0) & (b > 0)
        pair = np.sort(np.stack([a[touch], b[touch]]), axis=0)
        between = np.minimum(image[near], image[far])[touch], np.minimum(landscape[near], landscape[far])[touch]
        found.append((*pair, *between))
    first, second, valley, height = (np.concatenate(each) for each in zip(*found, strict=True))
    return first, second, valley, height
