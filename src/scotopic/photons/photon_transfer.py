"""What a camera is, from its images: offset, gain, read noise, dark current, linearity, saturation, hot pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BLOCK_PX = 32
_USABLE = 0.85
"""Of the way to saturation: beyond it the noise of the brightest pixels is cut off."""
_ROUNDING = 1 / 12
"""Variance of rounding to whole counts."""
_HOT_SIGMAS, _HOT_COUNTS = 8.0, 5.0
_LEAST_SIGNAL_COUNTS = 20.0
_LEAST_RISE = 5.0
"""The variance must rise with the signal by so many standard errors, or there is no photon noise in it."""
_SATURATED_SHARE = 1e-3
_FAINT = 0.02
"""Signals below this share of the largest say little of a line."""
_MOST_CHI = 3.0
"""Median squared deviation of the variance of a block from the line, in standard errors; 0.45 by chance."""


class CannotTellError(ValueError):
    """The images do not determine what is asked; the message says what is wrong with them."""


@dataclass(frozen=True)
class Pair:
    """Two images of the same thing at the same settings."""

    exposure_ms: float
    a: NDArray[Any]
    """Counts, shape (Y, X)."""
    b: NDArray[Any]


@dataclass(frozen=True)
class CameraFigures:
    """What was found of a camera; `error` has the standard error of each by its name."""

    offset_counts: float
    gain_e_per_count: float
    read_noise_e: float
    dark_current_e_per_s: float
    """Of a pixel that is not hot."""
    nonlinearity_percent: float
    """Largest deviation of the signal from a straight line over exposure, up to 85 % of saturation."""
    saturation_counts: int | None
    """Largest value of a pixel; nothing where no image was saturated."""
    hot: NDArray[np.bool_]
    """Hot pixels, shape (Y, X)."""
    curve: NDArray[np.float64]
    """Signal above the offset (counts), variance of a pixel (counts²) and exposure (ms) of each bright pair, shape (n, 3)."""
    error: dict[str, float] = field(default_factory=dict)


def camera_figures(darks: Sequence[Pair], brights: Sequence[Pair]) -> CameraFigures:
    """Find a camera's figures from dark pairs at several exposures and bright pairs from little light to saturation.

    The variance of the difference of two images is free of what is fixed (shading, unequal pixels, the sample): it grows
    with the signal by 1 / gain (Janesick, *Photon Transfer*, SPIE 2007, ch. 5; EMVA 1288 release 4, ch. 6). What is bright need not be even.

    Parameters
    ----------
    darks : sequence of Pair
        At two exposures or more, the shortest first.
    brights : sequence of Pair
        From little light to saturation, at one LED power, in the order of time.

    Raises
    ------
    CannotTellError
        If there is no light, no photon noise, or the images differ in shape.
    """
    if len(darks) < 2 or len(brights) < 3:
        raise CannotTellError(f"{len(darks)} dark and {len(brights)} bright pairs; two and three are needed")
    hot = _hot_pixels(darks)
    good = ~hot
    exposures = np.array([pair.exposure_ms for pair in darks])
    means = np.array([float((pair.a[good].mean(dtype=float) + pair.b[good].mean(dtype=float)) / 2) for pair in darks])
    slope, offset = np.polyfit(exposures, means, 1) if np.ptp(exposures) > 0 else (0.0, float(means.mean()))
    dark_variances = np.array([_half_variance(pair.a, pair.b, good) for pair in darks])
    dark_variance = float(dark_variances[0])
    n_good = int(good.sum())
    curve, blocks = [], []
    full = max(int(max(pair.a.max(), pair.b.max())) for pair in brights)
    # Many pixels of one largest value, in an image of light: that is where the camera ends.
    saturated = any((pair.a >= full).mean() > _SATURATED_SHARE for pair in brights)
    limit = offset + _USABLE * (full - offset) if saturated else np.inf
    for pair in brights:
        level = offset + slope * pair.exposure_ms
        signal, variance, top = _blocks(pair, level, good)
        usable = top < limit
        if usable.any():
            blocks.append(np.column_stack([signal[usable], variance[usable]]))
            curve.append((float(signal[usable].mean()), float(variance[usable].mean()), pair.exposure_ms, usable.all()))
    if not curve or max(each[0] for each in curve) < _LEAST_SIGNAL_COUNTS:
        raise CannotTellError(
            "there is no light in the bright images: is the light path open, and something fluorescent under the objective?"
            if not saturated
            else "every bright image is saturated"
        )
    rise, rise_error = _rise(np.concatenate(blocks), dark_variance)
    if rise < _LEAST_RISE * rise_error or rise <= 0:
        raise CannotTellError(
            "the variance does not grow with the light: these images have no photon noise, so gain and read noise cannot be told"
        )
    gain = 1 / rise
    read = float(np.sqrt(max(dark_variance - _ROUNDING, 0.0)))
    whole = np.array([each[:3] for each in curve if each[3]]).reshape(-1, 3)
    return CameraFigures(
        offset_counts=float(offset),
        gain_e_per_count=gain,
        read_noise_e=read * gain,
        dark_current_e_per_s=float(slope) * 1000 * gain,
        nonlinearity_percent=_nonlinearity(whole),
        saturation_counts=full if saturated else None,
        hot=hot,
        curve=np.array([each[:3] for each in curve]),
        error={
            "offset_counts": float(
                np.sqrt(dark_variance / (2 * n_good)) + np.std(means - np.polyval((slope, offset), exposures))
            ),
            "gain_e_per_count": rise_error * gain**2,
            # Relative: of a variance of n values sqrt(2 / n), of its root half of that.
            "read_noise_e": read * gain * float(np.hypot(1 / np.sqrt(2 * n_good), rise_error * gain)),
        },
    )


def _hot_pixels(darks: Sequence[Pair]) -> NDArray[np.bool_]:
    """Return pixels that are brighter in the longest dark exposure than noise makes them."""
    longest = max(darks, key=lambda pair: pair.exposure_ms)
    mean = (longest.a.astype(float) + longest.b) / 2
    low, middle, high = np.percentile(mean, [15.865, 50, 84.135])
    hot: NDArray[np.bool_] = mean - middle > max(_HOT_SIGMAS * (high - low) / 2, _HOT_COUNTS)
    return hot


def _half_variance(a: NDArray[Any], b: NDArray[Any], good: NDArray[np.bool_]) -> float:
    return float((a[good].astype(float) - b[good]).var() / 2)


def _blocks(
    pair: Pair, dark: float, good: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return signal, variance of a pixel and brightest pixel of each block, with the second image as bright as the first."""
    a, b = pair.a.astype(float) - dark, pair.b.astype(float) - dark
    total_b = float(b[good].sum())
    ratio = float(a[good].sum()) / total_b if total_b > 0 else 1.0
    # The variance of a - k b is v_a + k² v_b: with the same gain 1 + k times that of a, where photons rule.
    off = np.where(good, a - ratio * b, np.nan)
    rows, columns = (n // _BLOCK_PX for n in a.shape)
    if not rows or not columns:
        raise CannotTellError(
            f"images of {a.shape[1]} x {a.shape[0]} pixels are too small; {_BLOCK_PX} x {_BLOCK_PX} are needed"
        )

    def in_blocks(image: NDArray[Any]) -> NDArray[Any]:
        cut = image[: rows * _BLOCK_PX, : columns * _BLOCK_PX]
        return cut.reshape(rows, _BLOCK_PX, columns, _BLOCK_PX).swapaxes(1, 2).reshape(rows * columns, -1)

    signal = np.nanmean(in_blocks(np.where(good, (a + ratio * b) / 2, np.nan)), axis=1)
    variance = np.nanvar(in_blocks(off), axis=1) / (1 + ratio)
    return signal, variance, in_blocks(np.maximum(pair.a, pair.b)).max(axis=1).astype(float)


def _rise(blocks: NDArray[np.float64], dark_variance: float) -> tuple[float, float]:
    """Return how the variance rises with the signal, through the dark variance, and its standard error."""
    signal, variance = blocks.T
    rise = float((variance - dark_variance).sum() / max(signal.sum(), 1e-9))
    for _ in range(5):  # the error of a variance is in proportion to it: weights by the line found before
        expected = np.maximum(dark_variance + max(rise, 0) * signal, dark_variance * 0.5 + _ROUNDING)
        weight = (_BLOCK_PX**2 / 2) / expected**2
        rise = float((weight * signal * (variance - dark_variance)).sum() / (weight * signal**2).sum())
    chi = weight * (variance - dark_variance - rise * signal) ** 2
    if np.median(chi) > _MOST_CHI:
        raise CannotTellError(
            "the two images of a pair differ by more than photon noise: what is under the objective moves or flickers, or is not even enough"
        )
    return rise, float(np.sqrt(max(chi.mean(), 1.0) / (weight * signal**2).sum()))


def _nonlinearity(curve: NDArray[np.float64]) -> float:
    """Return the largest relative deviation of the signal from a straight line over exposure, in percent.

    The line need not go through zero: shutters and lights take their time.
    """
    if len(curve) < 3 or np.ptp(curve[:, 2]) == 0:
        return float("nan")
    signal, _, exposure = curve.T
    # What is under the objective bleaches: the slope falls by what was taken before.
    terms = np.column_stack([exposure, np.ones_like(exposure), exposure * np.linspace(0, 1, len(curve))])
    bright = signal > _FAINT * signal.max()
    terms, signal = terms[bright], signal[bright]
    if len(signal) < 5:
        return float("nan")
    line = np.linalg.lstsq(terms / signal[:, None], np.ones_like(signal), rcond=None)[0]
    return float(100 * np.abs(terms @ line / signal - 1).max())
