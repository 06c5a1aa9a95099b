"""What the network sees of an image: counts turned into planes that mean the same at every light and on every camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise

PLANES = 4
_PHOTON_SHARE = 0.3
"""Shot noise is reckoned for this share of the peak: between the background and a bright nucleus."""
_CLIP = 4
"""Linear planes are clipped here: a single photon in the dark is many peaks high."""
_SMOOTH_PX = 2.0
"""Standard deviation of the smoothing: in the dark a nucleus shows only over some fifty pixels, and a network that is
given their mean need not spend its training on finding how to take it."""


def input_planes(
    counts: NDArray[Any], dose: float, camera: CameraNoise, peak_e: float, gain: float = 1.0
) -> NDArray[np.float32]:
    """Return what the network sees of an image.

    Nothing is taken from the image itself, so that an empty field stays empty. With electrons e, dose d, peak p and read
    noise r: arcsinh(e / 2s), s² = r² + 0.3 p d (noise of about one: the variance-stabilising transform of Anscombe's kind);
    e / p d, the image as full light would show it, clipped; the same smoothed; and log10 d / 4.

    Parameters
    ----------
    counts : NDArray, shape (..., Y, X)
        Image as the camera gave it.
    dose : float
        Light relative to the reference level's, as the image has it (exposure x LED power).
    camera : CameraNoise
        Offset, gain and read noise.
    peak_e : float
        Photo-electrons of a bright nucleus at full light, above the offset.
    gain : float
        Factor on the peak: training varies it, so that the brightness of the sample need not be known exactly.

    Returns
    -------
    NDArray[float32], shape (4, ..., Y, X)
    """
    electrons = camera.to_electrons(counts)
    full = np.float32(peak_e * gain * dose)
    noise = np.float32(np.sqrt(camera.read_noise_e**2 + _PHOTON_SHARE * full + 0.25))
    planes = np.empty((PLANES, *counts.shape), np.float32)
    np.arcsinh(electrons / (2 * noise), out=planes[0])
    electrons /= full
    np.clip(electrons, -_CLIP, _CLIP, out=planes[1])
    smooth = ndi.gaussian_filter(electrons, _SMOOTH_PX, axes=(-2, -1), mode="nearest", truncate=3)
    np.clip(smooth, -_CLIP, _CLIP, out=planes[2])
    planes[3] = np.log10(dose) / 4
    return planes
