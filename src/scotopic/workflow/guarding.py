"""A guard over an acquisition: a small process that switches the light off when the one that acquires died or hangs."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psutil

from scotopic.protocol import MicroscopeProfile, Problem, ProblemsError, read_model
from scotopic.store import RunFolder
from scotopic.workflow.command import begin_apart
from scotopic.workflow.run_log import run_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_S = 1.0
_HANGS_S = 60.0
"""A heart that has not beaten for so long, by the guard's own count, does not beat any more: it beats every five seconds."""
_PORT_FREE_S = 30.0
"""A port is free some time after its process has died."""
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
    profile, run = read_model(profile_path, MicroscopeProfile), RunFolder(run_path)
    number = process or run.read_status("acquire").get("process")
    if number is None:
        raise ProblemsError([Problem("has no acquisition to watch over", str(run_path))])
    watched = _process(number)
    silent_s, heard, looked = 0.0, "", time.monotonic()
    while watched is not None and _lives(watched):
        time.sleep(_LOOK_S)
        status = run.read_status("acquire")
        if _has_ended(status, number):
            return True
        now = time.monotonic()
        # In its own steps: a computer that has slept has not let anybody's heart beat.
        silent_s += min(now - looked, 2 * _LOOK_S)
        looked = now
        if (beat := str(status.get("heartbeat", ""))) != heard:
            silent_s, heard = 0.0, beat
        if silent_s > hangs_s and status.get("process") == number:
            with run_log(say, run_path) as log:
                log.say(f"guard: process {number} has not answered for {hangs_s:g} s; it is ended")
            with suppress(psutil.NoSuchProcess):
                watched.kill()
            break
    if _has_ended(run.read_status("acquire"), number):  # between two looks
        return True
    with run_log(say, run_path) as log:
        log.say(f"guard: process {number} is gone and had not ended its run; the light is being switched off")
        _make_dark(profile, profile_path, log.say, watched)
    run.write_status("guard", state="light switched off", message=f"process {number} had not ended by itself")
    return False


def _has_ended(status: dict[str, Any], number: int) -> bool:
    """Return whether an acquisition says itself that it has ended."""
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
    from scotopic.microscope.light_alone import light_off_alone

    until = time.monotonic() + _PORT_FREE_S
    while True:
        try:
            with microscope_lock(profile, profile_path):
                light_off_alone(profile, profile_path)
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


def begin_guard(run_path: Path, profile_path: Path) -> None:
    """Begin a guard over this process, in a process of its own that outlives it."""
    begin_apart(["guard", str(run_path), "--microscope", str(profile_path), "--process", str(os.getpid())])
