from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

logger = logging.getLogger(__name__)


class Watchdog:
    """Does something, once, from a thread of its own, when a block takes longer than it may.

    A camera that never answers holds its thread for ever; LED and shutter can still be reached from another.
    """

    def __init__(self, limit_s: float, action: Callable[[], None]) -> None:
        self._action = action
        self._timer = threading.Timer(limit_s, self._bite)
        self._timer.daemon = True
        self.limit_s = limit_s
        self.has_bitten = False

    def _bite(self) -> None:
        self.has_bitten = True
        try:
            self._action()
        except Exception:
            logger.exception("after %.3g s without an answer, what was to be done then failed", self.limit_s)

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._timer.cancel()
        self._timer.join()  # what it does must not reach into the time after
