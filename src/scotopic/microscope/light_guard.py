from __future__ import annotations

import atexit
import logging
import signal
import sys
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

_SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGTSTP")
"""All that ends or stops a process and can be caught; a stopped one would leave lit what is lit."""
_CONSOLE_ENDS = {2: "CTRL_CLOSE_EVENT", 5: "CTRL_LOGOFF_EVENT", 6: "CTRL_SHUTDOWN_EVENT"}
"""Events of the Windows console (wincon.h) after which Windows ends the process; Python turns none into a signal."""
_WINDOWS_WAITS_S = 4.5
"""Windows gives a process 5 s after such an event."""


class LightGuard:
    """The one owner of "light off": at the start, and on every way out.

    Leaving its `with` block, by whatever way, makes the light dark; so does the end of the interpreter. Signals that
    would end the process (Ctrl-C, a polite kill, a closed terminal or console) are handed to `on_signal` instead,
    which notes that the work is to end, and nothing else: a handler that touched a device or took a lock could wait
    for what the very code it interrupted is holding.
    """

    def __init__(self, core: CMMCorePlus, profile: MicroscopeProfile, on_signal: Callable[[str], None]) -> None:
        self._core = core
        self._profile = profile
        self._on_signal = on_signal
        self._before: dict[int, object] = {}
        self._dark_again = threading.Event()
        self._console_handler: object = None

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
        self._dark_again.clear()
        self._watch_the_console(add=True)
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                # What is ignored already stays so: `nohup` means that a closed terminal is not to end the run.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
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
        try:
            self.off()  # first of all: another Ctrl-C must not get between
        finally:
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            atexit.unregister(self._last_resort)
            self._watch_the_console(add=False)
            self._dark_again.set()

    def _watch_the_console(self, *, add: bool) -> None:
        """On Windows, be told when the console closes, or the user logs off: the process ends when that returns."""
        if sys.platform == "win32":  # pragma: no cover
            import ctypes
            from ctypes import wintypes

            if add:
                self._console_handler = ctypes.WINFUNCTYPE(wintypes.BOOL, wintypes.DWORD)(self._console_event)
            ctypes.windll.kernel32.SetConsoleCtrlHandler(self._console_handler, add)

    def _console_event(self, number: int) -> bool:
        """Ask the work to end, make it dark, and hold Windows back until the run is closed, if it closes in time."""
        if number not in _CONSOLE_ENDS:
            return False
        self._on_signal(_CONSOLE_ENDS[number])
        self._last_resort()
        self._dark_again.wait(_WINDOWS_WAITS_S)
        return True
