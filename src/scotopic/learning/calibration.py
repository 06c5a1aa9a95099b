"""What the network sees of an image: counts turned into planes that mean the same at every light and on every camera."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from skimage.measure import block_reduce
from skimage.transform import resize
from torch import Tensor
from torch.nn import functional

from scotopic.learning.targets import GRID
from scotopic.photons import CameraNoise

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SMOOTH = (1.0, 2.5)
"""Standard deviations of the smoothing, in grid points: in the dark a nucleus shows only over some fifty pixels, and a
network that is given their mean need not spend its training on finding how to take it."""
PLANES = 2 * GRID**2 + len(_SMOOTH) + 1
_PHOTON_SHARE = 0.3
"""Shot noise is reckoned for this share of the peak: between the background and a bright nucleus."""
_MIDDLE, _CONTRAST_COUNTS = 32768, 10_000
"""Counts of the bare field in an image of contrasts, and of a contrast of one."""
_FIELD_BLOCK_PX, _FIELD_BLOCKS = 8, 8.0
"""Lattice of the bare field in pixels, and the smoothing on it."""
_CLIP = 4
"""Linear planes are clipped here: a single photon in the dark is many peaks high."""


def contrast_camera(camera: CameraNoise, field_e: float) -> CameraNoise:
    """Return the camera of images that `contrast` has made: its photo-electrons are those beyond the bare field's, of either sign.

    Parameters
    ----------
    field_e : float
        Photo-electrons of the bare field at full light; their shot noise is the image's.
    """
    return CameraNoise(
        offset_counts=_MIDDLE,
        gain_e_per_count=field_e / _CONTRAST_COUNTS,
        read_noise_e=math.sqrt(camera.read_noise_e**2 + field_e),
        saturation_counts=65535,
    )


def contrast(counts: NDArray[Any], dose: float, camera: CameraNoise) -> NDArray[np.uint16]:
    """Return an image in transmitted light as its contrast to the bare field around each place, which takes uneven light out of it.

    Parameters
    ----------
    counts : NDArray, shape (Y, X)
        Image as the camera gave it.
    dose : float
        Light relative to full light: the contrast is that of as many photo-electrons.

    Returns
    -------
    NDArray[uint16], shape (Y, X)
        Counts of `contrast_camera`.
    """
    electrons = camera.to_electrons(counts)
    field = np.maximum(bare_field(electrons), 1)
    relative = (electrons / field - 1) * np.float32(_CONTRAST_COUNTS * dose)
    return np.clip(np.rint(relative + _MIDDLE), 0, 65535).astype(np.uint16)


def bare_field(electrons: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the light around each place of an image, shape (Y, X): its mean over more than a few cells, on a coarse lattice.

    A surface of second order first, so that smoothing what is left of it bends nothing at the border.
    """
    whole = np.pad(electrons, [(0, -n % _FIELD_BLOCK_PX) for n in electrons.shape], mode="edge")
    coarse = block_reduce(whole, _FIELD_BLOCK_PX, np.mean)
    y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(-1, 1, n) for n in coarse.shape), indexing="ij"))
    terms = np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=1)
    surface = np.maximum(terms @ np.linalg.lstsq(terms, coarse.ravel(), rcond=None)[0], 1).reshape(coarse.shape)
    smooth = surface * gaussian_filter(coarse / surface, _FIELD_BLOCKS, mode="nearest")
    rows, columns = (n * _FIELD_BLOCK_PX for n in smooth.shape)
    wide: NDArray[np.float32] = resize(smooth, (rows, columns), order=1, mode="edge", preserve_range=True)
    return wide[: electrons.shape[0], : electrons.shape[1]]


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
