from __future__ import annotations

import atexit
import logging
import signal
import threading
from typing import TYPE_CHECKING

from scotopic.microscope.core import switch_light_off

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Self

    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import MicroscopeProfile

logger = logging.getLogger(__name__)

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")


class LightGuard:
    """The one owner of "light off": at the start, and on every way out.

    Leaving its `with` block, by whatever way, makes the light dark; so does the end of the interpreter. Signals that
    would end the process (Ctrl-C, a polite kill, a closed terminal or console) are handed to `on_signal` instead,
    which asks the work to end: a handler that touched a device itself could wait for a lock that the very code it
    interrupted is holding.
    """

    def __init__(self, core: CMMCorePlus, profile: MicroscopeProfile, on_signal: Callable[[str], None]) -> None:
        self._core = core
        self._profile = profile
        self._on_signal = on_signal
        self._before: dict[int, object] = {}

    def off(self) -> None:
        """Make it dark. May be called at any time, as often as one likes.

        Raises
        ------
        RuntimeError
            If some light could not be switched off; everything else is off nevertheless.
        """
        switch_light_off(self._core, self._profile)

    def __enter__(self) -> Self:
        self.off()
        atexit.register(self._last_resort)
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                if (number := getattr(signal, name, None)) is not None:
                    self._before[number] = signal.signal(number, self._signalled)
        return self

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._on_signal(signal.Signals(number).name)

    def _last_resort(self) -> None:
        try:
            self.off()
        except RuntimeError:
            logger.exception("at the end of the program the light could not be switched off")

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        atexit.unregister(self._last_resort)
        self.off()
