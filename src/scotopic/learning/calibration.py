"""What the network sees of an image: counts turned into planes that mean the same at every light and on every camera."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from scotopic.learning.targets import GRID

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise

_SMOOTH = (1.0, 2.5)
"""Standard deviations of the smoothing, in grid points: in the dark a nucleus shows only over some fifty pixels, and a
network that is given their mean need not spend its training on finding how to take it."""
PLANES = 2 * GRID**2 + len(_SMOOTH) + 1
_PHOTON_SHARE = 0.3
"""Shot noise is reckoned for this share of the peak: between the background and a bright nucleus."""
_CLIP = 4
"""Linear planes are clipped here: a single photon in the dark is many peaks high."""


def input_planes(counts: NDArray[Any], dose: float, camera: CameraNoise, peak_e: float, gain: float = 1.0) -> Tensor:
    """Return what the network sees of an image, on the grid: each plane of pixels becomes four of grid points.

    Nothing is taken from the image itself, so that an empty field stays empty. With electrons e, dose d, peak p and read
    noise r: arcsinh(e / 2s), s² = r² + 0.3 p d (noise of about one: the variance-stabilising transform of Anscombe's kind);
    e / p d, the image as full light would show it, clipped; the mean of that over a grid point, smoothed; and log10 d / 4.

    Parameters
    ----------
    counts : NDArray, shape (Y, X)
        Image as the camera gave it; Y and X are multiples of `GRID`.
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
    Tensor, float32, shape (PLANES, Y/2, X/2)
    """
    return planes_of(torch.from_numpy(camera.to_electrons(counts)), dose, camera, peak_e, gain)


def planes_of(electrons: Tensor, dose: float, camera: CameraNoise, peak_e: float, gain: float = 1.0) -> Tensor:
    """Return the same for photo-electrons, float32, shape (Y, X); in torch alone, so that a model for other programs can hold it."""
    full = peak_e * gain * dose
    noise = math.sqrt(camera.read_noise_e**2 + _PHOTON_SHARE * full + 0.25)
    electrons = functional.pixel_unshuffle(electrons[None], GRID)
    linear = electrons / full
    mean = linear.mean(0, keepdim=True)
    smooth = [_smoothed(mean, sigma) for sigma in _SMOOTH]
    light = torch.full_like(mean, math.log10(dose) / 4)
    planes = [(electrons / (2 * noise)).asinh_(), *(each.clamp_(-_CLIP, _CLIP) for each in (linear, *smooth)), light]
    return torch.cat(planes)


def _smoothed(plane: Tensor, sigma: float) -> Tensor:
    """Return a plane, shape (1, Y, X), under a Gaussian filter: by shifts, for scipy and a convolution take six times as long."""
    reach = math.ceil(3 * sigma)
    weights = [math.exp(-0.5 * (shift / sigma) ** 2) for shift in range(-reach, reach + 1)]
    for axis, margins in ((2, [reach, reach, 0, 0]), (1, [0, 0, reach, reach])):
        wide = functional.pad(plane[None], margins, mode="replicate")[0]
        plane = torch.zeros_like(plane)
        for shift, weight in enumerate(weights):
            plane.add_(wide.narrow(axis, shift, plane.shape[axis]), alpha=weight / sum(weights))
    return plane
