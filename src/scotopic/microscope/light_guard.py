from __future__ import annotations

import atexit
import logging
import os
import signal
import socket
import sys
import threading
from typing import TYPE_CHECKING

from scotopic.microscope.core import switch_light_off
from scotopic.microscope.watchdog import OUT_OF_REACH, SWITCH_OFF_S, Watchdog

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
_HURRIED = 3
"""So many signals mean that the process is to end, whatever hangs."""
_GRACE_S = 2.0
"""Time that a run which heeds them has to end by itself."""
_EXIT_INTERRUPTED = 130
_IS_OFF = "the light is off"
_WINDOWS_WAITS_S = 4.5
"""Windows gives a process 5 s after such an event."""


class LightGuard:
    """The one owner of "light off": at the start, and on every way out.

    Leaving its `with` block, by whatever way, makes the light dark; so does the end of the interpreter. Signals that
    would end the process (Ctrl-C, a polite kill, a closed terminal or console) are handed to `on_signal` instead,
    which notes that the work is to end, and nothing else: a handler that touched a device or took a lock could wait
    for what the very code it interrupted is holding.

    Python runs handlers only between two of its own steps, and a device that hangs lets it do none. Where three signals
    have come and the work does not end, another thread switches the light off, as far as it can be reached, says what
    it read back, and ends the process. So does the watchdog where light that may be on cannot be reached: the guard
    outside the process makes it dark then.
    """

    def __init__(
        self,
        core: CMMCorePlus | None,
        profile: MicroscopeProfile,
        on_signal: Callable[[str], None],
        last_words: Callable[[str, bool], None] = lambda *_: None,
        publish: Callable[[float, float], None] = lambda *_: None,
    ) -> None:
        """Prepare.

        Parameters
        ----------
        core : CMMCorePlus, optional
            Hardware that is open already; else it is handed over when it is (`take`).
        on_signal : callable
            Told the name of each signal.
        last_words : callable
            Told, from another thread, how the process ends when it has to end at once, and whether it is dark.
        publish : callable
            As for `Watchdog`.
        """
        self._core = core
        self._profile = profile
        self._on_signal = on_signal
        self._last_words = last_words
        # A simulated microscope lights nobody: its process is not ended for it.
        give_up = self._give_up if profile.simulator is None else None
        self.watchdog = Watchdog(self._off, publish=publish, give_up=give_up)
        """Watches the main thread from the beginning of the `with` block to its end."""
        self._ended = threading.Event()
        self._mouth: socket.socket | None = None
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
        if self._core is not None:
            self.watchdog.darkens()
            self._off()
            self.watchdog.dark()

    def _off(self) -> None:
        if self._core is not None:
            switch_light_off(self._core, self._profile)

    def take(self, core: CMMCorePlus) -> None:
        """Be responsible for hardware from now on; the light goes off."""
        self._core = core
        self.off()

    def give_back(self) -> None:
        """Make it dark, and be responsible no longer: the hardware is about to be unloaded."""
        try:
            self.off()
        finally:
            self._core = None

    def __enter__(self) -> Self:
        self.watchdog.__enter__()
        self.off()
        atexit.register(self._last_resort)
        self._dark_again.clear()
        self._ended.clear()
        self._watch_the_console(add=True)
        if threading.current_thread() is threading.main_thread():
            for name in _SIGNALS:
                number = getattr(signal, name, None)
                # What is ignored already stays so: `nohup` means that a closed terminal is not to end the run.
                if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._signalled)
            self._listen()
        else:
            logger.warning("signals are left to whoever called: Python takes them in its main thread alone")
        return self

    def _listen(self) -> None:
        """Hear of each signal in a thread as well, at once, also while a device holds the main thread."""
        ear, mouth = socket.socketpair()
        mouth.setblocking(False)
        before = signal.set_wakeup_fd(mouth.fileno(), warn_on_full_buffer=False)
        if before != -1:  # somebody else listens already: an event loop, a notebook
            signal.set_wakeup_fd(before)
            mouth.close()
            ear.close()
            return
        self._mouth = mouth
        threading.Thread(target=self._hear, args=(ear,), name="signals", daemon=True).start()

    def _hear(self, ear: socket.socket) -> None:
        heard = 0
        with ear:
            while numbers := _received(ear):
                heard += sum(number in self._before for number in numbers)
                if heard >= _HURRIED and not self._ended.wait(_GRACE_S):
                    self._end_at_once()

    def _end_at_once(self) -> None:
        """Make it dark if it can be done, say how it is, and end the process."""
        outcome: list[str] = []

        def off() -> None:
            try:
                self._off()
            except Exception as error:  # whatever it is, it is to be told
                outcome.append(str(error))
            else:
                outcome.append(_IS_OFF)

        _tried_for(SWITCH_OFF_S, off)
        light = outcome[0] if outcome else OUT_OF_REACH
        told = f"ended by {_HURRIED} signals while a device did not answer; {light}"
        self._end(told, is_dark=outcome == [_IS_OFF])

    def _give_up(self, told: str) -> None:
        self._end(f"{told}; this process is ended", is_dark=False)

    def _end(self, message: str, *, is_dark: bool) -> None:
        """Say how it is, and end the process: a device holds its main thread."""

        def say() -> None:
            self._last_words(message, is_dark)
            print(f"error: {message}", file=sys.stderr, flush=True)

        _tried_for(_GRACE_S, say)  # whoever holds the status, or the terminal, may hang as well
        os._exit(_EXIT_INTERRUPTED)

    def _signalled(self, number: int, _: FrameType | None) -> None:
        self._on_signal(signal.Signals(number).name)

    def _last_resort(self) -> None:
        try:
            self._off()
        except RuntimeError:
            logger.exception("at the end of the program the light could not be switched off")

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        try:
            self.off()  # first of all: another Ctrl-C must not get between
        finally:
            self._ended.set()
            self.watchdog.__exit__()
            self._stop_listening()
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            atexit.unregister(self._last_resort)
            self._watch_the_console(add=False)
            self._dark_again.set()

    def _stop_listening(self) -> None:
        if self._mouth is not None:
            signal.set_wakeup_fd(-1)
            self._mouth.close()  # which ends the thread
            self._mouth = None

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


def _received(ear: socket.socket) -> bytes:
    """Return the numbers of the signals that have come; nothing once nobody listens any longer."""
    try:
        return ear.recv(16)
    except OSError:  # Windows: the other end was closed hard
        return b""


def _tried_for(seconds: float, action: Callable[[], None]) -> None:
    """Do something in another thread, and wait for it so long at most."""
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    thread.join(seconds)
