from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import ndimage

if TYPE_CHECKING:
    from numpy.typing import NDArray

_HALF_THICK = 0.25
"""Fluorescence at which a thing is some 60 % as thick as things get."""
_ABSORBED, _REFRACTED, _FRINGE_UM = 0.04, 0.35, (0.6, 2.0)

MARGIN_PX = 16
"""Pixels that a scene needs beyond the image on each side: for drift between exposures, and for the blur's edge."""


def illumination(shape: tuple[int, int], falloff: float) -> NDArray[np.float32]:
    """Return the light over the field of view: brightest a little off the centre, falling towards the corners.

    Parameters
    ----------
    shape : (int, int)
        Rows and columns.
    falloff : float
        Loss of light from the brightest point to the farthest corner, as a fraction.

    Returns
    -------
    NDArray[float32], shape (Y, X)
        Light relative to the mean of the field (so that exposures keep their meaning).
    """
    y = np.linspace(-1, 1, shape[0], dtype=np.float32)[:, None] - np.float32(0.12)
    x = np.linspace(-1, 1, shape[1], dtype=np.float32)[None, :] + np.float32(0.18)
    squared = x * x + y * y
    light = 1 - np.float32(falloff) * squared / squared.max()
    relative: NDArray[np.float32] = light / light.mean()
    return relative


def transmission(fluorescence: NDArray[np.float32], pixel_size_um: float) -> NDArray[np.float32]:
    """Return what share of light comes through a scene: a brightfield-like view of the same nuclei.

    What is thick absorbs a little and refracts more: nuclei are a few percent darker than the bare field, with a dark and a bright
    fringe at their outline, whatever their stain. It is made to have no more than that to tell a nucleus by; no model of real optics.

    Parameters
    ----------
    fluorescence : NDArray[float32], shape (Y, X)
        Scene behind the optics, 1 for a bright nucleus.
    """
    thick = 1 - np.exp(-fluorescence / np.float32(_HALF_THICK))
    narrow, wide = (ndimage.gaussian_filter(thick, sigma_um / pixel_size_um) for sigma_um in _FRINGE_UM)
    through: NDArray[np.float32] = 1 - np.float32(_ABSORBED) * thick + np.float32(_REFRACTED) * (wide - narrow)
    return through


def blur(scene: NDArray[np.float32], sigma_px: float) -> NDArray[np.float32]:
    """Return the scene blurred by the point-spread function, a Gaussian of this width (B. Zhang et al., 2007)."""
    blurred: NDArray[np.float32] = ndimage.gaussian_filter(scene, sigma_px, mode="nearest", truncate=3.5)
    return blurred


def shifted(image: NDArray[np.float32], x_px: float, y_px: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """Return the part of an image whose first pixel lies at (x_px, y_px), by linear interpolation.

    Linear is enough: the image is smooth after the blur.
    """
    x0, y0 = int(np.floor(x_px)), int(np.floor(y_px))
    fx, fy = np.float32(x_px - x0), np.float32(y_px - y0)
    height, width = shape
    piece = image[y0 : y0 + height + 1, x0 : x0 + width + 1]
    along = piece[:, :-1] * (1 - fx)
    along += piece[:, 1:] * fx
    result = along[:-1] * (1 - fy)
    result += along[1:] * fy
    return result
