"""What the network sees of an image: counts turned into planes that mean the same at every light and on every camera."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise

PLANES = 3
_PHOTON_SHARE = 0.3
"""Shot noise is reckoned for this share of the peak: between the background and a bright nucleus."""
_DARK = 0.002
"""Relative dose below which the linear plane is clipped wider, and scaled down: single photons are many peaks high."""


def input_planes(
    counts: NDArray[Any], dose: float, camera: CameraNoise, peak_e: float, gain: float = 1.0
) -> NDArray[np.float32]:
    """Return what the network sees of an image.

    Nothing is taken from the image itself, so that an empty field stays empty. With electrons e, dose d, peak p and read
    noise r: arcsinh(e / 2s), s² = r² + 0.3 p d (noise of about one: the variance-stabilising transform of Anscombe's kind);
    e / p d, the image as full light would show it, clipped; and log10 d / 4.

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
    NDArray[float32], shape (3, ..., Y, X)
    """
    electrons = camera.to_electrons(counts)
    full = np.float32(peak_e * gain * dose)
    noise = np.float32(np.sqrt(camera.read_noise_e**2 + _PHOTON_SHARE * full + 0.25))
    planes = np.empty((PLANES, *counts.shape), np.float32)
    np.arcsinh(electrons / (2 * noise), out=planes[0])
    if dose < _DARK:
        np.clip(electrons / full, -8, 8, out=planes[1])
        planes[1] /= 4
    else:
        np.clip(electrons / full, -4, 4, out=planes[1])
    planes[2] = np.log10(dose) / 4
    return planes
