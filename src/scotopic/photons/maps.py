"""The pixels of a camera one by one, where they differ: offset, response, noise, and which are hot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.photons.camera import CameraNoise

_SMOOTH_PX = 16.0
"""What is wider than this in the image of an even slide is the light's, what is finer the pixels'."""
_LEAST_EXCESS = 3.0
"""Variance between pixels beyond what noise leaves of it, in standard errors of that variance, at which maps matter."""
_MATTERS_COUNTS, _MATTERS_RESPONSE = 0.3, 0.003


@dataclass(frozen=True)
class CameraMaps:
    """What each pixel is, arrays of shape (Y, X)."""

    offset_counts: NDArray[np.float32]
    """Counts without light."""
    response: NDArray[np.float32]
    """Counts for the same light, relative to the mean of the pixels around: inverse of a pixel's own gain, as far as all collect alike."""
    read_noise_e: NDArray[np.float32]
    """Standard deviation of the read noise, photo-electrons."""
    hot: NDArray[np.bool_]
    """Hot pixels."""

    def corrected(self, image: NDArray[np.uint16], camera: CameraNoise) -> NDArray[np.uint16]:
        """Return an image, shape (Y, X), as a camera of equal pixels would have given it.

        Hot pixels become the median of those around; what is saturated stays so.
        """
        even = (image - self.offset_counts) / self.response + np.float32(camera.offset_counts)
        counts: NDArray[np.uint16] = np.clip(np.rint(even), 0, camera.saturation_counts).astype(np.uint16)
        counts[image >= camera.saturation_counts] = camera.saturation_counts
        y, x = np.nonzero(self.hot)
        if y.size:
            around = np.pad(counts, 1, mode="symmetric")
            counts[y, x] = np.median([around[y + dy, x + dx] for dy in range(3) for dx in range(3)], axis=0)
        return counts

    def save(self, path: Path) -> None:
        """Write the maps as one NumPy archive."""
        np.savez_compressed(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read maps.

        Raises
        ------
        OSError, ValueError, KeyError
            If it is no archive of them.
        """
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return cls(**{name: archive[name] for name in cls.__dataclass_fields__})


def camera_maps(
    darks: Iterable[NDArray[Any]], flats: Iterable[NDArray[Any]], hot: NDArray[np.bool_], gain_e_per_count: float
) -> CameraMaps | None:
    """Return the maps of a camera, or nothing where its pixels do not differ by more than noise.

    Parameters
    ----------
    darks : iterable of NDArray, shape (Y, X)
        Dark images of one exposure, some fifty; read one after the other.
    flats : iterable of NDArray, shape (Y, X)
        Images of something even, some twenty, well above darkness and below saturation.
    hot : NDArray[bool], shape (Y, X)
        Hot pixels.
    """
    from scipy import ndimage  # not before: the process that shows a run's status has no need of it

    offset, dark_variance, n_darks = _mean_and_variance(darks)
    flat, flat_variance, n_flats = _mean_and_variance(flats)
    signal = np.where(hot, np.nan, flat - offset)
    known = np.nan_to_num(signal, nan=float(np.nanmean(signal)))
    response = known / ndimage.gaussian_filter(known, _SMOOTH_PX, mode="nearest")
    good = ~hot
    differ = max(
        _excess(offset[good], dark_variance[good] / n_darks) / _MATTERS_COUNTS,
        _excess(response[good], flat_variance[good] / n_flats / known[good] ** 2) / _MATTERS_RESPONSE,
    )
    if differ < 1:
        return None
    noise = np.sqrt(np.maximum(dark_variance - 1 / 12, 0)) * gain_e_per_count
    return CameraMaps(offset.astype(np.float32), response.astype(np.float32), noise.astype(np.float32), hot)


def _mean_and_variance(images: Iterable[NDArray[Any]]) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return mean and variance of each pixel, by Welford's recurrence: one image in memory at a time."""
    count, mean, squares = 0, np.zeros(()), np.zeros(())
    for image in images:
        count += 1
        off = image - mean
        mean = mean + off / count
        squares = squares + off * (image - mean)
    return mean, squares / max(count - 1, 1), count


def _excess(values: NDArray[np.float64], error_variance: NDArray[np.float64]) -> float:
    """Return the standard deviation of values beyond their errors; 0 where it is not sure that there is any."""
    spread, by_noise = float(values.var()), float(error_variance.mean())
    sure = _LEAST_EXCESS * by_noise * np.sqrt(2 / values.size)
    return float(np.sqrt(spread - by_noise)) if spread - by_noise > sure else 0.0
