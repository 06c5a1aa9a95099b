"""A guard over an acquisition: a small process that switches the light off when the one that acquires died or hangs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psutil

from scotopic.protocol import MicroscopeProfile, ProblemsError, read_model
from scotopic.store import RunFolder
from scotopic.workflow.run_log import run_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_LOOK_S = 1.0
_HANGS_S = 60.0
"""A heart that has not beaten for so long, by the guard's own count, does not beat any more: it beats every five seconds."""
_PORT_FREE_S = 30.0
"""A port is free some time after its process has died."""
_UNDER_WAY = {"running", "paused"}


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
    profile = read_model(profile_path, MicroscopeProfile)
    run, watched = RunFolder(run_path), _Watched(process)
    silent_s, heard, looked = 0.0, "", time.monotonic()
    while True:
        time.sleep(_LOOK_S)
        status = run.read_status("acquire")
        watched.learn(status.get("process"))
        if (
            status
            and status.get("state") not in {*_UNDER_WAY, "interrupted"}
            and status.get("process") == watched.number
        ):
            return True
        if not watched.lives():
            break
        now = time.monotonic()
        # In its own steps: a computer that has slept has not let anybody's heart beat.
        silent_s += min(now - looked, 2 * _LOOK_S)
        looked = now
        if (beat := str(status.get("heartbeat", ""))) != heard:
            silent_s, heard = 0.0, beat
        if silent_s > hangs_s and heard:
            with run_log(say, run_path) as log:
                log.say(f"guard: process {watched.number} has not answered for {hangs_s:g} s; it is ended")
            watched.kill()
            break
    with run_log(say, run_path) as log:
        _make_dark(profile, profile_path, log.say, watched.number)
    run.write_status("guard", state="light switched off", message=f"process {watched.number} had not ended by itself")
    return False


class _Watched:
    """The process that acquires, known by its number and start: another one may get the number."""

    def __init__(self, number: int | None) -> None:
        self.number = number
        self._process: psutil.Process | None = None
        self.learn(number)

    def learn(self, number: int | None) -> None:
        """Take the process that a status names, if it lives; a run that goes on has another one."""
        if number is None or (self._process is not None and number == self.number):
            return
        try:
            self._process = psutil.Process(number)
            self.number = number
        except psutil.NoSuchProcess:
            self.number = self.number or number

    def lives(self) -> bool:
        """Return whether it is there and no zombie."""
        try:
            return (
                self._process is not None
                and self._process.is_running()
                and self._process.status() != psutil.STATUS_ZOMBIE
            )
        except psutil.NoSuchProcess:
            return False

    def kill(self) -> None:
        """End it, whatever it is doing."""
        try:
            if self._process is not None:
                self._process.kill()
                self._process.wait(_PORT_FREE_S)
        except (psutil.NoSuchProcess, psutil.TimeoutExpired):
            pass


def _make_dark(profile: MicroscopeProfile, profile_path: Path, say: Callable[[str], None], number: int | None) -> None:
    """Switch the light off as soon as the devices can be had; leave it to whoever has the microscope by then."""
    from scotopic.microscope import microscope_lock
    from scotopic.microscope.light_alone import light_off_alone

    say(f"guard: process {number} is gone and had not ended its run; the light is being switched off")
    until = time.monotonic() + _PORT_FREE_S
    while True:
        try:
            with microscope_lock(profile, profile_path):
                light_off_alone(profile, profile_path)
        except ProblemsError as error:  # another process has the microscope: it has made it dark at its beginning
            say(f"guard: {error.problems[0]}; the light is that process's")
            return
        except RuntimeError as error:
            if time.monotonic() > until:
                say(f"guard: the light could not be switched off: {error}: LOOK WHETHER IT IS ON")
                raise
            time.sleep(_LOOK_S)
        else:
            say(f"guard: the light is off ({datetime.now(UTC):%H:%M:%S} UTC)")
            return


def begin_guard(run_path: Path, profile_path: Path) -> None:
    """Begin a guard over this process, in a process of its own that outlives it, also where its whole group is killed."""
    words = [
        sys.executable,
        "-m",
        "scotopic",
        "guard",
        str(run_path),
        "--microscope",
        str(profile_path),
        "--process",
        str(os.getpid()),
    ]
    apart = (
        {"creationflags": 0x00000208} if sys.platform == "win32" else {"start_new_session": True}
    )  # detached, a group of its own
    nowhere = subprocess.DEVNULL
    subprocess.Popen(words, stdin=nowhere, stdout=nowhere, stderr=nowhere, **apart)  # noqa: S603 - our own command
