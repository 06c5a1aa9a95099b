from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


_TICK_S = 0.01


class Clock:
    """Time of the simulated microscope, in seconds: the real one, or one that runs only when something waits."""

    def __init__(self, *, fast: bool) -> None:
        self._fast = fast
        self._now = 0.0
        self._stood_still_s = 0.0

    def now(self) -> float:
        """Return the time."""
        return self._now if self._fast else time.perf_counter() - self._stood_still_s

    def wait_until(self, moment: float) -> None:
        """Let time pass until a moment (no time if it is over)."""
        if self._fast:
            self._now = max(self._now, moment)
        elif (left := moment - self.now()) > 0:
            time.sleep(left)

    def be_slow(self, seconds: float) -> None:
        """Let time pass here and in the world outside: for devices that hang."""
        begun, passed = time.perf_counter(), 0.0
        while passed < seconds:
            time.sleep(min(seconds - passed, _TICK_S))
            now = min(time.perf_counter() - begun, seconds)
            if self._fast:  # little by little: light that another thread switches off meanwhile ends at its time
                self._now += now - passed
            passed = now

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let no time pass: computing an image is not part of the simulated world, and lights no sample."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stood_still_s += time.perf_counter() - start

    def is_pending(self, moment: float) -> bool:
        """Return whether a moment is still to come. A fast clock jumps there instead: asking is waiting."""
        if self._fast:
            self.wait_until(moment)
        return self.now() < moment
