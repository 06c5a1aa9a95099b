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
_DARK_BLOCK_PX = 4
"""As small as a nucleus at low magnification."""
_DARK_NOISES = 3
"""So many read noises no median of 16 pixels is brighter in one image than in another one without light: seven standard errors."""


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


def is_dark(bright: NDArray[Any], dim: NDArray[Any], noise: CameraNoise) -> bool:
    """Return whether an image has no more light than one of the same place with far less exposure: then it has none.

    Nowhere: neither in nuclei nor between them, where medium and plastic shine even in an empty well. A lamp that died looks so, or a
    shutter that stays closed. Medians of blocks are compared, so hot pixels and lines of the camera do not count; the camera's offset and pattern are
    in both.

    Parameters
    ----------
    bright, dim : NDArray, shape (Y, X), uint16
        Counts.
    noise : CameraNoise
        Gain and read noise of the camera.
    """
    side = _DARK_BLOCK_PX
    height, width = (n // side * side for n in bright.shape)
    more = bright[:height, :width].astype(np.int32) - dim[:height, :width]
    blocks = more.reshape(height // side, side, width // side, side).swapaxes(1, 2)
    medians = np.median(blocks.reshape(-1, side**2), axis=1)
    most = _DARK_NOISES * noise.read_noise_e / noise.gain_e_per_count + 1  # counts are whole
    return medians.size > 0 and float(medians.max()) < most


def pooled(ratios: Iterable[DoseRatio]) -> DoseRatio:
    """Return the mean of several ratios, weighted by their errors: a well's sites together show what one could not."""
    finite = [r for r in ratios if np.isfinite(r.error)]
    if not finite:
        return DoseRatio(float("nan"), float("inf"))
    weights = np.array([1 / r.error**2 for r in finite])
    mean = float((weights * [r.ratio for r in finite]).sum() / weights.sum())
    return DoseRatio(mean, float(weights.sum() ** -0.5))
