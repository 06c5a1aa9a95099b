"""The photon limit: the best recall that any segmentation could reach at a light level.

The report calls this for each light level and draws the result as the grey line in its figure of error against light
dose. A network near the line needs more photons to improve; a network far below it can still be trained better.

The limit is the Cramer-Rao bound on the contour of an isolated nucleus, from camera noise, background, and size and
brightness of the run's own nuclei. The choices favour the method, so the limit is a best case: the nucleus
is already found and touches nothing, it is an evenly bright disc of known brightness, and the spread of sizes and shapes
in the population is known. Discs have the smallest bound of all star-shaped outlines (Piramuthu and Hero 2000).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.special import ive, ndtr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import ArrayLike, NDArray

BLUR_PX = 1.3
"""Standard deviation of the blur across a contour, in pixels.

Taken from the edges of 937 isolated U2OS nuclei (BBBC038, 20x): relative to the mean intensity of the mask, they carry
as much information as a Gaussian edge of 1.46 px (median of 18 fields) and 1.77 px (of 18 others); the sharpest quarter
as one below 1.29 and 1.40 px. A sharp value keeps the limit a best case."""
SHAPE_SD = (0.26, np.inf, 0.172, 0.045, 0.041, 0.020, 0.016, 0.012, 0.0093, 0.0079, 0.0068)
"""How much nuclei differ: standard deviation of each Fourier coefficient of the contour, relative to the radius.

Harmonic 0 is the size, 1 the position (no prior knowledge), 2 the elongation. From the hand-drawn contours of 4,328
nuclei away from the border, in the 54 fields of U2OS cells of BBBC038 that the benchmark does not use. Further harmonics
lower the recall by 0.003 at most (mean over thresholds: 0.006), so they are taken as known."""
_DRAWS = 2000
"""Contours drawn for each point of the table: the standard error of a probability is 0.011 at most."""
_ANGLES = 48
"""Directions of a contour: the squared radius has harmonics up to 20."""
_SNR2 = np.geomspace(1e-2, 1e6, 65)
"""Rows of the table: squared signal-to-noise ratio of a nucleus. Beyond the ends, the values at the ends hold."""
_SIZE = np.geomspace(0.05, 1e5, 20)
"""Columns of the table: squared radius over twice the squared blur, which is 54 for a nucleus 27 px across."""


def photon_limit(
    area_px: ArrayLike,
    mean_e: ArrayLike,
    background_e: ArrayLike,
    read_noise_e: float,
    dose: float,
    *,
    blur_px: float = BLUR_PX,
    thresholds: Sequence[float] = (0.5, 0.7),
) -> NDArray[np.float64]:
    """Return the probability, for each nucleus, that an ideal contour reaches an intersection over union (IoU).

    The mean over nuclei is the best recall. For the mean over thresholds pass `matching.THRESHOLDS`.

    Parameters
    ----------
    area_px : ArrayLike, shape (n,)
        Areas in pixels.
    mean_e : ArrayLike, shape (n,)
        Mean intensities above background at full light, in photo-electrons a pixel. A nucleus with 0 or less cannot be
        found: its probability is 0, as it is for an area of 0.
    background_e : ArrayLike, shape (n,) or scalar
        Background at full light above the camera's offset, in photo-electrons a pixel. Below 0 counts as 0.
    read_noise_e : float
        Read noise in electrons. It does not depend on the light.
    dose : float
        Light dose relative to full light.
    blur_px : float
        Standard deviation of the blur, in pixels.
    thresholds : sequence of float
        IoU thresholds, between 0 and 1.

    Returns
    -------
    NDArray, shape (n_thresholds, n)
        Probabilities.

    Raises
    ------
    ValueError
        If a value is not finite or out of range.

    Notes
    -----
    The contour is ``r(t) = R (1 + a_0 + sum_k a_k cos kt + b_k sin kt)`` around a disc of radius R with A electrons a
    pixel. Under a Gaussian blur s the derivative of the image by ``a_k``, in polar coordinates (p, t), is
    ``A R^2 cos(kt) exp(-(p^2 + R^2) / 2s^2) I_k(p R / s^2) / s^2``. Pixels with mean m and read noise r carry the Fisher
    information ``sum (dm/da)(dm/db) / (m + r^2)``, the Gaussian approximation (Chao, Ward and Ober 2016; too small by 1 %
    at 6 e- of read noise and 1 e- a pixel, by 7 % at 1.4 e-). For a disc this matrix is diagonal, and the radial integral
    is known in closed form (DLMF 10.43.28)::

        J_k = S z exp(-z) I_k(z),  twice that for k = 0
        S   = pi R^2 A^2 <1 / (m + r^2)>      squared signal-to-noise ratio, averaged across the edge
        z   = R^2 / 2 s^2

    Sizes and shapes of a population are prior knowledge, which adds 1 / `SHAPE_SD`² to the information (the Bayesian
    bound of Van Trees). The IoU with the true contour is that of contours drawn with these variances, with a fixed seed. The
    bound limits the variances only: that errors are Gaussian is an assumption.

    At low light even the best method may stay below the bound: the information describes small shifts of a contour, and
    errors larger than the blur are more frequent than it predicts. In a trial at 0.05 % of the light, a maximum-posterior
    fit at known positions reached 0.90 and 0.48 at IoU 0.5 and 0.7, where the bound is 0.94 and 0.77
    (`benchmarks/photon_limit.py`).

    References
    ----------
    - J. Chao, E. S. Ward, R. J. Ober, J. Opt. Soc. Am. A 33:B36 (2016): Fisher information of camera images.
    - J. C. Ye, Y. Bresler, P. Moulin, IEEE Trans. Image Process. 12:71 (2003): Cramer-Rao bounds on contours.
    - R. Piramuthu, A. O. Hero, Fundamental limits on parametric shape estimation performance, manuscript (2000).
    - H. L. Van Trees, Detection, Estimation and Modulation Theory I (1968), section 2.4.

    Examples
    --------
    >>> bright, dim = photon_limit([560, 560], [4000, 400], 200, read_noise_e=6, dose=0.002, thresholds=[0.7])[0]
    >>> bool(bright > 0.95), bool(dim < 0.5)
    (True, True)
    """
    _check(read_noise_e, dose, blur_px, thresholds)
    values = (np.atleast_1d(np.asarray(value, float)) for value in (area_px, mean_e, background_e))
    area, mean, background = np.broadcast_arrays(*values)
    for name, value in (("area_px", area), ("mean_e", mean), ("background_e", background)):
        if not np.isfinite(value).all():
            raise ValueError(f"{name} must be finite for each nucleus: leave out nuclei that could not be measured")
    chance = np.zeros((len(thresholds), area.size))
    there = (area > 0) & (mean > 0)
    if not there.any():
        return chance
    snr2 = _snr2(area[there], mean[there] * dose, np.maximum(background[there], 0) * dose, read_noise_e)
    size = area[there] / (2 * np.pi * blur_px**2)
    where = np.array([_position(snr2, _SNR2), _position(size, _SIZE)])
    for row, threshold in zip(chance, thresholds, strict=True):
        row[there] = map_coordinates(_table(threshold), where, order=1, mode="nearest")
    return chance


def _check(read_noise_e: float, dose: float, blur_px: float, thresholds: Sequence[float]) -> None:
    if not 0 < dose < np.inf:
        raise ValueError(f"dose must be a positive number (1 is full light), not {dose!r}")
    if not 0 <= read_noise_e < np.inf:
        raise ValueError(f"read_noise_e must be 0 or more electrons, not {read_noise_e!r}")
    if not 0 < blur_px < np.inf:
        raise ValueError(f"blur_px must be a positive number of pixels, not {blur_px!r}")
    wrong = [threshold for threshold in thresholds if not 0 < threshold < 1]
    if wrong:
        raise ValueError(f"IoU thresholds must lie between 0 and 1, not {wrong[0]!r}")


def _snr2(
    area_px: NDArray[np.float64], signal_e: NDArray[np.float64], background_e: NDArray[np.float64], read_noise_e: float
) -> NDArray[np.float64]:
    """Return the squared signal-to-noise ratio of each nucleus, with the noise of its edge (S of `photon_limit`)."""
    # The squared slope of a Gaussian edge of width s is a Gaussian of width s / sqrt(2): 1/noise is averaged with it.
    place, weight = np.polynomial.hermite_e.hermegauss(9)
    inside = ndtr(place / np.sqrt(2))
    noise = background_e[:, None] + read_noise_e**2 + signal_e[:, None] * inside
    return np.asarray(area_px * signal_e**2 * ((weight / weight.sum()) / noise).sum(axis=1))


def _information(snr2: ArrayLike, size: ArrayLike) -> NDArray[np.float64]:
    """Return the Fisher information on each harmonic relative to the radius, shape (..., harmonics)."""
    z = np.asarray(size, float)[..., None]
    harmonic = np.arange(len(SHAPE_SD))
    return np.asarray(np.asarray(snr2, float)[..., None] * z * ive(harmonic, z) * np.where(harmonic == 0, 2, 1))


def _position(value: NDArray[np.float64], grid: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return where values lie on a logarithmic grid, in steps; beyond its ends, at the ends."""
    return np.interp(np.log(value), np.log(grid), np.arange(grid.size))


@lru_cache(maxsize=64)
def _table(threshold: float) -> NDArray[np.float64]:
    """Return the share of drawn contours that reach a threshold, shape (`_SNR2`, `_SIZE`)."""
    return np.asarray((_iou_of_draws() >= threshold).mean(axis=2))


@lru_cache(maxsize=1)
def _iou_of_draws() -> NDArray[np.float32]:
    """Return the IoU of drawn contours with the true one, shape (`_SNR2`, `_SIZE`, `_DRAWS`); takes half a second."""
    angle = np.arange(_ANGLES) * (2 * np.pi / _ANGLES)
    waves = [np.ones(_ANGLES)]
    for harmonic in range(1, len(SHAPE_SD)):
        waves += [np.cos(harmonic * angle), np.sin(harmonic * angle)]
    # The same draws at each point of the table: differences between light levels are not differences between draws.
    draws = np.random.default_rng(1).standard_normal((_DRAWS, len(waves)), dtype=np.float32)
    owner = (np.arange(len(waves)) + 1) // 2
    iou = np.empty((_SNR2.size, _SIZE.size, _DRAWS), np.float32)
    for column, size in enumerate(_SIZE):
        information = _information(_SNR2, size) + np.asarray(SHAPE_SD) ** -2.0
        sd = (information**-0.5)[:, owner].astype(np.float32)
        for row in range(_SNR2.size):
            radius = 1 + draws @ (sd[row][:, None] * np.array(waves, np.float32))
            sector = np.maximum(radius, 0) ** 2
            both = np.minimum(sector, 1).sum(axis=1)
            iou[row, column] = both / (sector.sum(axis=1) + _ANGLES - both)
    return iou
