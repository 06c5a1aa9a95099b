from __future__ import annotations

import time


class Clock:
    """Time of the simulated microscope, in seconds: the real one, or one that runs only when something waits."""

    def __init__(self, *, fast: bool) -> None:
        self._fast = fast
        self._now = 0.0

    def now(self) -> float:
        """Return the time."""
        return self._now if self._fast else time.perf_counter()

    def wait_until(self, moment: float) -> None:
        """Let time pass until a moment (no time if it is over)."""
        if self._fast:
            self._now = max(self._now, moment)
        elif (left := moment - time.perf_counter()) > 0:
            time.sleep(left)

    def is_pending(self, moment: float) -> bool:
        """Return whether a moment is still to come. A fast clock jumps there instead: asking is waiting."""
        if self._fast:
            self.wait_until(moment)
        return self.now() < moment
