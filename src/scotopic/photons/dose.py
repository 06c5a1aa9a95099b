from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scotopic.photons.blocks import block_sums

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from scotopic.photons.camera import CameraNoise

Verdict = Literal["ok", "wrong", "undetermined"]

_BLOCK_PX = 8
"""Pixels are averaged over blocks first: drift of a pixel between two exposures then hardly matters."""
_LARGEST_ERROR = 0.1
_LARGEST_DEVIATION = 0.25
"""The light of a level may differ from the reference's by a quarter (LED not linear, bleaching) before it is wrong."""
_SIGMAS = 4
_DARK_NOISES = 5
"""So many read noises above the camera's offset stay the brightest blocks of an image without light: the offset of a camera wanders."""
_BRIGHTEST_BLOCKS = 99.5
"""Percentile; single hot pixels do not pass for light."""


@dataclass(frozen=True)
class DoseRatio:
    """Light of a dim image relative to the reference image of the same place, as the images show it."""

    ratio: float
    error: float
    """Standard error of the ratio."""

    def verdict(self, expected: float) -> Verdict:
        """Return whether the light was the expected one; "undetermined" where there is too little to see."""
        if not np.isfinite(self.error) or self.error > _LARGEST_ERROR * expected:
            return "undetermined"
        return "ok" if abs(self.ratio - expected) <= _LARGEST_DEVIATION * expected + _SIGMAS * self.error else "wrong"


def dose_ratio(dim: NDArray[Any], reference: NDArray[Any], noise: CameraNoise) -> DoseRatio:
    """Return the dose ratio of two images of the same place: the slope of one regressed on the other.

    The intercept is free, so an error of the camera's offset does not matter; what decides is the contrast of nuclei
    against background. The error follows from the camera's noise, not from the scatter, and grows without bounds for
    an empty field.

    Parameters
    ----------
    dim, reference : NDArray, shape (Y, X), uint16
        Counts.
    noise : CameraNoise
        Offset, gain and read noise of the camera.
    """
    x, y = (noise.to_electrons(block_sums(image, _BLOCK_PX) / _BLOCK_PX**2) for image in (reference, dim))
    saturated = block_sums((reference >= noise.saturation_counts).view(np.uint8), _BLOCK_PX)
    x, y = x[saturated == 0].astype(float), y[saturated == 0].astype(float)
    spread = x - x.mean() if x.size else x
    sxx = float((spread**2).sum())
    # What the noise of the reference alone would make of an empty field is no contrast.
    noise_only = x.size * (noise.read_noise_e**2 + max(float(x.mean()), 0.0)) / _BLOCK_PX**2 if x.size else 0.0
    if sxx <= 4 * noise_only:
        return DoseRatio(float("nan"), float("inf"))
    slope = float((spread * y).sum() / sxx)
    # Noise of each block: read noise and photons of the dim image, and what the reference's noise adds to it.
    variance = noise.read_noise_e**2 + np.maximum(y, 0) + slope**2 * (noise.read_noise_e**2 + np.maximum(x, 0))
    return DoseRatio(slope, float(np.sqrt((spread**2 * variance).sum()) / (_BLOCK_PX * sxx)))


def is_dark(image: NDArray[Any], noise: CameraNoise) -> bool:
    """Return whether an image shows no light at all, neither of nuclei nor of what is between them.

    An empty well is no such thing at full light, where medium and plastic shine; a lamp that died is, or a shutter that stays closed.

    Parameters
    ----------
    image : NDArray, shape (Y, X), uint16
        Counts.
    noise : CameraNoise
        Offset, gain and read noise of the camera.
    """
    means = noise.to_electrons(block_sums(image, _BLOCK_PX) / _BLOCK_PX**2)
    return bool(means.size) and float(np.percentile(means, _BRIGHTEST_BLOCKS)) < _DARK_NOISES * noise.read_noise_e


def pooled(ratios: Iterable[DoseRatio]) -> DoseRatio:
    """Return the mean of several ratios, weighted by their errors: a well's sites together show what one could not."""
    finite = [r for r in ratios if np.isfinite(r.error)]
    if not finite:
        return DoseRatio(float("nan"), float("inf"))
    weights = np.array([1 / r.error**2 for r in finite])
    mean = float((weights * [r.ratio for r in finite]).sum() / weights.sum())
    return DoseRatio(mean, float(weights.sum() ** -0.5))
