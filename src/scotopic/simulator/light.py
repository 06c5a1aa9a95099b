from __future__ import annotations

from collections import deque

_KEPT_CHANGES = 256
"""Changes remembered: more than can happen during one exposure."""


class LightRecord:
    """Light on the sample over time: when it changed to what power, and its integral.

    Power is relative to the full power of the LED; times are in seconds.
    """

    def __init__(self) -> None:
        self._changes: deque[tuple[float, float]] = deque([(float("-inf"), 0.0)])
        self._counted_until: float | None = None
        self.delivered_ms = 0.0
        """Light since the beginning, in milliseconds at full power."""

    def set_power(self, moment: float, power: float) -> None:
        """Note the power from a moment on; what was noted for later is void."""
        while len(self._changes) > 1 and self._changes[-1][0] > moment:
            self._changes.pop()
        self._changes.append((moment, power))

    def power_at(self, moment: float) -> float:
        """Return the power at a moment."""
        return next(power for start, power in reversed(self._changes) if start <= moment)

    def integral_ms(self, start: float, end: float) -> float:
        """Return the light between two moments, in milliseconds at full power."""
        total, until = 0.0, end
        for begun, power in reversed(self._changes):
            if begun < until:
                total += power * (until - max(begun, start)) if power else 0.0
                until = max(begun, start)
            if begun <= start:
                break
        return total * 1000

    def count_until(self, moment: float) -> float:
        """Return the light since the last count, add it up, and forget the oldest changes."""
        start = self._counted_until if self._counted_until is not None else moment
        light = self.integral_ms(start, moment) if moment > start else 0.0
        self._counted_until = max(start, moment)
        self.delivered_ms += light
        while len(self._changes) > _KEPT_CHANGES:
            self._changes.popleft()
        return light
