from __future__ import annotations

import math

import numpy as np


class BleachingMap:
    """Light that each place of the plate has received, and what is left of its fluorescence.

    Fluorescence decays exponentially with the light received, by `rate_per_ms` a millisecond at full power.
    One record for each place that was lit, a rectangle of the size of the field of view, in buckets of that
    size: memory grows with the number of places, not with the number of exposures. Beyond 200,000 places (some
    50 MB) the oldest are forgotten.
    """

    _SAME_PLACE_UM = 5.0
    _MOST_BUCKETS = 200_000

    def __init__(self, fov_um: tuple[float, float], rate_per_ms: float) -> None:
        self._fov_um = fov_um
        self._rate_per_ms = rate_per_ms
        self._places: dict[tuple[int, int], list[list[float]]] = {}

    def add(self, x_um: float, y_um: float, light_ms: float) -> None:
        """Note light (milliseconds at full power) on the field around a point of the plate."""
        if light_ms <= 0 or self._rate_per_ms <= 0:
            return
        bucket = self._places.setdefault(self._bucket(x_um, y_um), [])
        for place in bucket:
            if abs(place[0] - x_um) < self._SAME_PLACE_UM and abs(place[1] - y_um) < self._SAME_PLACE_UM:
                place[2] += light_ms
                return
        bucket.append([x_um, y_um, light_ms])
        if len(self._places) > self._MOST_BUCKETS:
            del self._places[next(iter(self._places))]

    def left(self, x_um: float, y_um: float, shape: tuple[int, int]) -> np.ndarray | np.float32:
        """Return the fluorescence left in the field around a point: one number, or shape (Y, X), float32."""
        light: np.ndarray | float = 0.0
        width, height = self._fov_um
        bx, by = self._bucket(x_um, y_um)
        for key in ((bx + i, by + j) for j in (-1, 0, 1) for i in (-1, 0, 1)):
            for x, y, light_ms in self._places.get(key, ()):
                dx, dy = x - x_um, y - y_um
                if abs(dx) < self._SAME_PLACE_UM and abs(dy) < self._SAME_PLACE_UM:
                    light = light + light_ms
                elif abs(dx) < width and abs(dy) < height:
                    if not isinstance(light, np.ndarray):
                        light = np.full(shape, light, np.float32)
                    light[_overlap(dy / height, shape[0]), _overlap(dx / width, shape[1])] += light_ms
        remaining: np.ndarray | np.float32 = np.exp(np.multiply(light, -self._rate_per_ms, dtype=np.float32))
        return remaining

    def _bucket(self, x_um: float, y_um: float) -> tuple[int, int]:
        return math.floor(x_um / self._fov_um[0]), math.floor(y_um / self._fov_um[1])


def _overlap(shift: float, size: int) -> slice:
    """Return the pixels of a field that another one, shifted by this fraction of its size, covers as well."""
    pixels = round(shift * size)
    return slice(max(pixels, 0), size + min(pixels, 0))
