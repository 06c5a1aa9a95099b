"""A guard over an acquisition: a small process that switches the light off when the one that acquires died or hangs."""

from __future__ import annotations

import logging
import os
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from scotopic.protocol import MicroscopeProfile, Problem, ProblemsError, read_model
from scotopic.store import RunFolder
from scotopic.workflow.command import begin_apart
from scotopic.workflow.run_log import run_log

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.store import LightMark

logger = logging.getLogger(__name__)
_LOOK_S = 0.25
_STATUS_S = 1.0
_HANGS_S = 60.0
"""A main loop that has not gone on for so long, by the guard's own count and beyond what it has announced, hangs."""
_PORT_FREE_S = 30.0
"""A port is free some time after its process has died."""
_DARKENS_S = 30.0
"""Longest time in which the light's devices are loaded and switched off; then they hang as well."""
_UNDER_WAY = {"running", "paused", "interrupted"}


def guard(
    run_path: Path,
    profile_path: Path,
    say: Callable[[str], None] = print,
    *,
    process: int | None = None,
    hangs_s: float = _HANGS_S,
) -> bool:
    """Watch over an acquisition until it ends; if its process dies or hangs, end it and switch the light off.

    Parameters
    ----------
    run_path, profile_path : Path
        Run that is acquired, and the profile of its microscope.
    process : int, optional
        Number of the process that acquires, where the run's status does not say it yet.
    hangs_s : float
        Time without a heartbeat after which a process is taken to hang.

    Returns
    -------
    bool
        Whether the acquisition ended by itself. If not, the light is off.

    Raises
    ------
    RuntimeError
        If the light could not be switched off: somebody must look.
    ProblemsError
        If the profile has mistakes.
    """
    import scotopic.microscope.light_alone  # noqa: F401 - now: a burning LED must not wait for it

    profile, run = read_model(profile_path, MicroscopeProfile), RunFolder(run_path)
    number = process or run.read_status("acquire").get("process")
    if number is None:
        raise ProblemsError([Problem("has no acquisition to watch over", str(run_path))])
    watched = _process(number)
    run.write_status("guard", state="watching", watches=number, message="")
    if watched is not None and (told := _watched(watched, run, number, hangs_s)):
        with run_log(say, run_path) as log:
            log.say(f"guard: process {number} {told}; it is ended")
        with suppress(psutil.NoSuchProcess):
            watched.kill()
    mark = _mark(run, number)
    if _has_ended(run, number) and mark is None:
        return True
    with run_log(say, run_path) as log:
        log.say(f"guard: process {number} is gone and had not ended its run; the light is being switched off")
        try:
            _make_dark(profile, profile_path, log.say, watched)
        except (RuntimeError, ProblemsError) as error:
            run.write_status("guard", state="the light may be on", message=str(error))
            raise
    if mark is not None and profile.gating.how != "camera_ttl":  # a camera's wire goes low when its exposure ends
        run.note_light_until_now(mark)
    run.write_status("guard", state="light switched off", message=f"process {number} had not ended by itself")
    return False


def _watched(watched: psutil.Process, run: RunFolder, number: int, hangs_s: float) -> str:
    """Watch until the process or its run ends; return why the process has to be ended, if it has to."""
    from scotopic.microscope.watchdog import HELPS_ITSELF_S

    silent_s, lit_s, heard, seen = 0.0, 0.0, "", 0
    looked = status_at = time.monotonic()
    while _lives(watched):
        time.sleep(_LOOK_S)
        now = time.monotonic()
        # In its own steps: a computer that has slept has let nobody go on.
        passed, looked = min(now - looked, 2 * _LOOK_S), now
        silent_s, lit_s = silent_s + passed, lit_s + passed
        mark = _mark(run, number)
        if mark is None or mark.number != seen:
            lit_s, seen = 0.0, mark.number if mark else 0
        elif lit_s > mark.may_take_s + HELPS_ITSELF_S:
            return f"has had light on for {lit_s:.1f} s, and may have for {mark.may_take_s:.1f} s"
        if now - status_at < _STATUS_S:
            continue
        status_at, status = now, run.read_status("acquire")
        if status.get("process") != number:
            silent_s = 0.0
            continue
        if status.get("state") not in _UNDER_WAY and mark is None:
            return ""
        if (beat := str(status.get("heartbeat", ""))) != heard:
            silent_s, heard = 0.0, beat
        if silent_s > hangs_s:
            return f"has not answered for {hangs_s:g} s"
    return ""


def _mark(run: RunFolder, number: int) -> LightMark | None:
    """Return what a process says of light that may be on, or nothing if it says that it is dark."""
    mark = run.light_mark.read()
    return mark if mark is not None and mark.process == number and mark.is_lit else None


def _has_ended(run: RunFolder, number: int) -> bool:
    """Return whether an acquisition says itself that it has ended."""
    status = run.read_status("acquire")
    return status.get("process") == number and status.get("state") not in _UNDER_WAY


def _process(number: int) -> psutil.Process | None:
    """Return a process by its number; it is known by its start too, for another one may get the number."""
    try:
        return psutil.Process(number)
    except psutil.NoSuchProcess:
        return None


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _make_dark(
    profile: MicroscopeProfile, profile_path: Path, say: Callable[[str], None], watched: psutil.Process | None
) -> None:
    """Switch the light off as soon as the devices can be had; leave it to whoever has the microscope by then.

    Raises
    ------
    RuntimeError, ProblemsError
        If it cannot be switched off; that was said.
    """
    from scotopic.microscope import MicroscopeTakenError, microscope_lock

    until = time.monotonic() + _PORT_FREE_S
    while True:
        try:
            with microscope_lock(profile, profile_path):
                _light_off_in_time(profile, profile_path)
        except (RuntimeError, ProblemsError) as error:
            # A process that was killed may hold the microscope for a while yet, or for ever if its driver does.
            if time.monotonic() > until:
                is_gone = watched is None or not _lives(watched)
                if is_gone and isinstance(error, MicroscopeTakenError):
                    say(f"guard: {error.problems[0]}; the light is that process's")  # it made it dark at its beginning
                    return
                say(f"guard: the light could not be switched off: {error}: LOOK WHETHER IT IS ON")
                raise
        else:
            say(f"guard: the light is off ({datetime.now(UTC):%H:%M:%S} UTC)")
            return
        time.sleep(_LOOK_S)


def _light_off_in_time(profile: MicroscopeProfile, profile_path: Path) -> None:
    """Switch the light off; devices that hang are waited for no longer than they may take.

    Raises
    ------
    RuntimeError, ProblemsError
        If it cannot be switched off.
    """
    from scotopic.microscope.light_alone import light_off_alone

    outcome: Future[None] = Future()

    def off() -> None:
        try:
            light_off_alone(profile, profile_path)
        except BaseException as error:  # handed over to who waits
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=off, daemon=True).start()
    try:
        outcome.result(_DARKENS_S)
    except TimeoutError:
        raise RuntimeError(f"the light's devices have not answered for {_DARKENS_S:g} s") from None


class Guarded:
    """Keeps a guard over this process, in a process of its own that outlives it."""

    def __init__(self, run_path: Path, profile_path: Path) -> None:
        self._words = ["guard", str(run_path), "--microscope", str(profile_path), "--process", str(os.getpid())]
        self._run = RunFolder(run_path)
        self._guard: subprocess.Popen[bytes] | None = None
        self._begun = datetime.now(UTC)

    def keep(self) -> bool:
        """Begin a guard where there is none, or somebody has killed or stopped it; return whether it watches already."""
        if self._guard is not None and self._guard.poll() is None and not _is_stopped(self._guard.pid):
            status = self._run.read_status("guard")
            is_mine = status.get("state") == "watching" and status.get("watches") == os.getpid()
            return is_mine and datetime.fromisoformat(status["heartbeat"]) >= self._begun
        if self._guard is not None:
            logger.warning("the guard over this acquisition is gone; another one begins")
        self._begun = datetime.now(UTC).replace(microsecond=0)
        self._guard = begin_apart(self._words)
        return False


def _is_stopped(number: int) -> bool:
    try:
        return psutil.Process(number).status() == psutil.STATUS_STOPPED
    except psutil.NoSuchProcess:
        return True
