from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scotopic.photons import CameraNoise

if TYPE_CHECKING:
    from numpy.typing import NDArray

NOISE = {
    "ccd": CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535),
    "scmos": CameraNoise(offset_counts=100, gain_e_per_count=0.46, read_noise_e=1.6, saturation_counts=65535),
}
"""The two camera presets: an interline CCD and a scientific CMOS camera with figures of usual data sheets."""

_HOT_FRACTION = 1e-4
_OFFSET_SPREAD_COUNTS = 3.0
_GAIN_SPREAD = 0.02


@dataclass(frozen=True)
class Sensor:
    """One individual camera: its noise, its hot pixels, and its maps if it is an sCMOS."""

    noise: CameraNoise
    hot_index: NDArray[np.intp]
    """Flat index of each hot pixel."""
    hot_e_per_ms: NDArray[np.float32]
    """Dark current of each hot pixel."""
    offset_counts: NDArray[np.float32] | None
    gain_e_per_count: NDArray[np.float32] | None

    def expose(self, mean_e: NDArray[np.float32], exposure_ms: float, rng: np.random.Generator) -> NDArray[np.uint16]:
        """Return counts for expected photo-electrons, shape (Y, X); `mean_e` is used up."""
        mean_e.reshape(-1)[self.hot_index] += self.hot_e_per_ms * np.float32(exposure_ms)
        return self.noise.expose(mean_e, rng, offset_counts=self.offset_counts, gain_e_per_count=self.gain_e_per_count)


def make_sensor(kind: str, shape: tuple[int, int], seed: int, saturation_counts: int = 65535) -> Sensor:
    """Return the camera of a preset (`ccd` or `scmos`) with this seed's imperfections."""
    rng = np.random.default_rng((seed, 10))
    noise = NOISE[kind].model_copy(update={"saturation_counts": saturation_counts})
    n_pixels = shape[0] * shape[1]
    hot = rng.choice(n_pixels, size=int(n_pixels * _HOT_FRACTION), replace=False)
    maps: list[NDArray[np.float32] | None] = [None, None]
    if kind == "scmos":
        offset = noise.offset_counts + _OFFSET_SPREAD_COUNTS * rng.standard_normal(shape, dtype=np.float32)
        gain = noise.gain_e_per_count * (1 + _GAIN_SPREAD * rng.standard_normal(shape, dtype=np.float32))
        maps = [offset.astype(np.float32), gain.astype(np.float32)]
    return Sensor(noise, hot, (0.2 * 100 ** rng.random(len(hot))).astype(np.float32), *maps)
