"""One thread over a whole run, which knows how far the main thread is, and lets no light outlive a hang.

The main thread says before the first command that may let light on how long it may be on (`expect_light`), names each
device that it asks (`asks`), and says when dark was read back (`dark`). If that takes too long, whatever hangs, the
watchdog switches the light off from its own thread, again and again while the hang lasts. What it cannot reach, because
the very device hangs or its driver lets one thread in at a time, only the end of this process can help: then it gives up.
"""

from __future__ import annotations

import logging
import threading
import time
from contextvars import ContextVar
from typing import TYPE_CHECKING

from scotopic.protocol import rounded

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

logger = logging.getLogger(__name__)

SWITCH_OFF_S = 2.0
"""Time in which light can be switched off where a device hangs: the attempts of `switch_light_off` take 1.6 s."""
DARKENS_S = 3.0
"""Time that the main thread has to switch light off, and to read that back."""
HELPS_ITSELF_S = SWITCH_OFF_S + 0.8
"""After a limit a process gets light off, or has ended, within this time; one that has not is stopped or held."""
OUT_OF_REACH = "the light cannot be reached: LOOK WHETHER IT IS ON"
_TICK_S = 0.05
_AGAIN_S = 1.0
"""While a hang lasts, light is switched off so often: a command that hangs may light the sample late."""


_watching: ContextVar[Watchdog | None] = ContextVar("watching", default=None)
"""The watchdog over what runs here."""


class HungError(RuntimeError):
    """A device did not answer in time while light might be on."""


class Watchdog:
    """Switches light off when the main thread hangs while it may be on."""

    def __init__(
        self,
        off: Callable[[], object],
        *,
        publish: Callable[[float, float], None] = lambda *_: None,
        give_up: Callable[[str], None] | None = None,
    ) -> None:
        """Prepare; `with` starts the thread.

        Parameters
        ----------
        off : callable
            Switches all light off and reads that back; raises if it is not.
        publish : callable
            Called with the seconds that light may be on from now on (0: it is dark) and its relative power, before it
            goes on and after it is off. May raise OSError: then no light is given.
        give_up : callable, optional
            Called, in the watchdog's thread, with what happened, when dark cannot be confirmed: ends the process. Without
            it the attempts go on.
        """
        self._off, self._publish, self._give_up = off, publish, give_up
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._phase = 0
        self._deadline: float | None = None
        self._limit_s = 0.0
        self._asked, self._is_published, self._power = "", False, 0.0
        self.shines_since: float | None = None
        """Since when light may be on the sample (`time.perf_counter`), while it is expected."""
        self.on_hang: Callable[[str], None] = lambda _: None
        """Told what hangs where no exposure is under way."""
        self._on_hang: Callable[[str], None] = self.on_hang
        self.has_bitten = False
        """Whether, since light was expected last, it had to be switched off."""
        self.dark_at: float | None = None
        """When it was dark then (`time.perf_counter`)."""
        self._step_at, self._may_take_s = time.time(), 0.0
        self.step_name = ""
        """What the main thread does."""

    # ------------------------------------------------------------------ how far the main thread is

    def step(self, name: str = "", may_take_s: float = 0.0) -> None:
        """Note that the main thread has got here; what it does next may take so long, in the dark."""
        self._step_at, self._may_take_s, self.step_name = time.time(), may_take_s, name

    @property
    def alive_at(self) -> float:
        """Last moment at which the main thread was known not to hang, in seconds since the epoch."""
        return min(time.time(), self._step_at + self._may_take_s)

    # ------------------------------------------------------------------ light

    def expect_light(
        self,
        limit_s: float,
        on_hang: Callable[[str], None] = lambda _: None,
        *,
        power: float = 0.0,
        reaches_sample: bool = True,
    ) -> None:
        """Note that the next command may let light on, and that it must be dark again within so long.

        Parameters
        ----------
        on_hang : callable
            Told, from another thread, what hangs, and again how the light is then.
        power : float
            Relative power of the light, for the account of what a hang gives.
        reaches_sample : bool
            Whether it is on the sample at once, or only when it `shines`.

        Raises
        ------
        OSError
            If that cannot be published: no light may be given then.
        """
        self.step("light is on")
        with self._lock:
            self._is_published = True
            self._publish(limit_s, power if reaches_sample else 0.0)
            self._begin_phase(on_hang)
            self._asked, self._limit_s, self._power = "a device", limit_s, power
            now = time.perf_counter()
            self._deadline = now + limit_s
            self.shines_since = now if reaches_sample else None

    def shines(self) -> None:
        """Note that the next command lets the light onto the sample: a shutter opens.

        Raises
        ------
        OSError
            If that cannot be published.
        """
        with self._lock:
            now = time.perf_counter()
            if self._deadline is not None and self._deadline > now:
                self._publish(self._deadline - now, self._power)
            self.shines_since = now

    def asks(self, device: str) -> None:
        """Note which device is asked next.

        Raises
        ------
        HungError
            If the one before has taken too long: the light is being switched off, and must not be let on again.
        """
        deadline, self.step_name = self._deadline, device
        if self.has_bitten or (deadline is not None and time.perf_counter() > deadline):
            dark = "was switched off meanwhile" if self.dark_at else "could not be switched off until it answered"
            raise HungError(f"{self._asked} gave no answer for {rounded(self._limit_s)} s; the light {dark}")
        self._asked = device

    def darkens(self) -> None:
        """Note that light is being switched off now, or is looked for, which has a time limit of its own."""
        with self._lock:
            if self._deadline is None:
                self._begin_phase(self.on_hang)
            self._asked, self._limit_s = "the light", DARKENS_S
            self._deadline = time.perf_counter() + DARKENS_S

    def dark(self) -> None:
        """Note that dark was read back."""
        with self._lock:
            self._deadline = None
            self._publish_dark()

    def _begin_phase(self, on_hang: Callable[[str], None]) -> None:
        self._phase += 1
        self.has_bitten, self.dark_at, self.shines_since, self._on_hang = False, None, None, on_hang

    def _publish_dark(self) -> None:
        if not self._is_published:
            return
        try:
            self._publish(0.0, 0.0)
            self._is_published = False
        except OSError:  # the guard will take it for lit, and the next light is refused
            logger.exception("that it is dark could not be written")

    # ------------------------------------------------------------------ the thread

    def __enter__(self) -> Self:
        self._ended.clear()
        self._others = _watching.set(self)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._ended.set()
        _watching.reset(self._others)
        if self._thread is not None:
            self._thread.join(SWITCH_OFF_S + 1)  # what it does must not reach into the time after

    def _watch(self) -> None:
        while not self._ended.wait(_TICK_S):
            with self._lock:
                is_overdue = self._deadline is not None and time.perf_counter() > self._deadline
                is_new, phase, asked = not self.has_bitten, self._phase, self._asked
                self.has_bitten = self.has_bitten or is_overdue
            if is_overdue:
                self._bite(phase, asked, is_new=is_new)
                self._ended.wait(_AGAIN_S)

    def _bite(self, phase: int, asked: str, *, is_new: bool) -> None:
        """Switch the light off, first of all; tell meanwhile; give up if dark cannot be confirmed."""
        what = f"{asked} has not answered for {rounded(self._limit_s)} s"
        outcome: list[str] = []
        attempt = _begun(lambda: self._darken(outcome))
        telling = _begun(lambda: self._tell(f"{what}; the light is being switched off")) if is_new else None
        attempt.join(SWITCH_OFF_S)
        is_dark = outcome == [""]
        with self._lock:
            if phase != self._phase:  # the main thread goes on, and has other light on
                return
            if self._deadline is None:  # it has read back itself that it is dark
                is_dark = True
            elif is_dark:
                self.dark_at = self.dark_at or time.perf_counter()
                self._publish_dark()
        if is_dark and telling is None:
            return
        what += "; the light is off" if is_dark else f"; {outcome[0] if outcome else OUT_OF_REACH}"
        if telling is not None:
            telling.join(_AGAIN_S)
            _begun(lambda: self._tell(what))
        if not is_dark and self._give_up is not None:
            self._give_up(what)

    def _darken(self, outcome: list[str]) -> None:
        try:
            self._off()
        except Exception as error:  # whatever it is: it may be on
            outcome.append(str(error) or type(error).__name__)
        else:
            outcome.append("")

    def _tell(self, what: str) -> None:
        logger.error("%s", what)
        try:
            self._on_hang(what)
        except Exception:
            logger.exception("what hangs could not be told")


def asks(device: str) -> None:
    """Note which device is asked next, where a watchdog watches (`Watchdog.asks`).

    Raises
    ------
    HungError
        If the one before has taken too long.
    """
    if (watchdog := _watching.get()) is not None:
        watchdog.asks(device)


def _begun(action: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread
