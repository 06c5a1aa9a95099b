"""Defective rows and columns of the camera: dead ones, and those that are brighter or darker than both of their sides.

The quality gate calls it. In an image without such a line it finds one at most once in 1,000 images, however large the image
is and however its noise is distributed: the threshold follows from the number of comparisons (`_threshold`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri

if TYPE_CHECKING:
    from numpy.typing import NDArray

_PARTS = 8
"""A line is looked at in so many parts. A defect covers half of them or more, one after the other: a sensor that is read out
in halves has half columns."""
_FALSE_ALARMS = 1e-3
"""Largest share of clean images in which a line is found."""
_LEAST_SHARE = 0.2
"""Share of a defective line's pixels that stand out above both sides, less the share of those below (or the reverse). A line
that is off by a third of a pixel's standard deviation has it; less does no harm."""
_EACH_SIDE = 3.5
"""Standard deviations by which a line differs from either side alone. Where another tile of a stitched image begins half of the
pixels stand out above both sides, but within their own tile they are as often above as below."""
_DEAD, _ALIVE = 0.99, 0.2
"""Share of pixels that equal the next one, in a dead line at least and in the lines on both sides at most."""
_NORMAL_QUARTILE = 1.1503
"""A quarter of normal values are further from their mean, in standard deviations."""


def defective_lines(image: NDArray[Any]) -> int:
    """Return the number of rows and columns that are dead, or off from both sides, over half of their length or more.

    A pixel stands out if it is above, or below, the median of three pixels before its line and that of three after it (which
    a defect of up to three lines leaves alone). Where nothing is wrong both are as frequent, whatever the noise; on the slopes
    of nuclei hardly a pixel stands out, as one side is higher and one lower. The two are counted along the line. The outermost
    lines have but one side and are not judged.

    Parameters
    ----------
    image : NDArray, shape (Y, X)
        Counts.
    """
    plane = np.nan_to_num(np.asarray(image, np.float32))
    return sum(int(_are_defective(rows).sum()) for rows in (plane, plane.T) if min(plane.shape) >= 2 * _PARTS)


def _are_defective(rows: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return which rows are defective, shape (Y,)."""
    runs = [slice(i, j) for i in range(_PARTS) for j in range(i + _PARTS // 2, _PARTS + 1)]
    threshold = _threshold(len(runs) * sum(rows.shape))
    before, after = (np.sign(rows - side).astype(np.int8) for side in _sides(rows))
    signs = [_in_parts(values) for values in (np.where(before == after, before, 0), before, after)]
    counts = [_in_parts(values) for values in ((before == after) & (before != 0), before != 0, after != 0)]
    equal = _in_parts(rows[:, 1:] == rows[:, :-1])
    pixels = np.diff(np.arange(_PARTS + 1) * rows.shape[1] // _PARTS)
    found = np.zeros(len(rows), bool)
    for run in runs:
        size, total = pixels[run].sum(), signs[0][:, run].sum(1)
        both, *each = (
            sums[:, run].sum(1) / np.sqrt(np.maximum(count[:, run].sum(1), 1))
            for sums, count in zip(signs, counts, strict=True)
        )
        is_off = (np.abs(_scaled(both)) > threshold) & (np.abs(total) > _LEAST_SHARE * size)
        found |= is_off & (np.minimum(*(side * np.sign(total) for side in each)) > _EACH_SIDE)
        found |= _are_dead(equal[:, run].sum(1) / (size - 1))
    return found


def _threshold(comparisons: int) -> float:
    """Return how many standard deviations one of so many sums of signs exceeds in `_FALSE_ALARMS` of images at most.

    Bonferroni's bound, with the normal distribution; the sum of independent signs exceeds such values less often than that.
    """
    return float(-ndtri(_FALSE_ALARMS / comparisons / 2))


def _sides(rows: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the medians of the three rows before and of the three after each row; the outermost rows are repeated."""
    padded = np.pad(rows, ((3, 3), *[(0, 0)] * (rows.ndim - 1)), mode="edge")
    a, b, c, _, d, e, f = (padded[shift : shift + len(rows)] for shift in range(7))
    return _median(a, b, c), _median(d, e, f)


def _median(a: NDArray[Any], b: NDArray[Any], c: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c)))


def _in_parts(values: NDArray[Any]) -> NDArray[np.int64]:
    """Return the sums over the parts of each row, shape (Y, parts)."""
    begins = np.arange(_PARTS) * values.shape[1] // _PARTS
    return np.asarray(np.add.reduceat(values, begins, axis=1, dtype=np.int64))


def _are_dead(equal: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which rows hold one value where those beside do not, by the share of pixels that equal the next, shape (Y,)."""
    return np.asarray((equal >= _DEAD) & (np.maximum(*_sides(equal)) <= _ALIVE))


def _scaled(deviation: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return deviations in those that rows of this image usually have, where these are larger than one.

    Pixels that depend on their neighbours (nuclei, a scaled or compressed image) make sums of signs vary more.
    """
    centred = deviation - np.median(deviation)
    usual = float(np.percentile(np.abs(centred), 75)) / _NORMAL_QUARTILE
    return np.asarray(centred / max(usual, 1.0))
