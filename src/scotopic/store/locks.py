"""Locks between processes that say who has them."""

from __future__ import annotations

import json
import platform
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from scotopic.store.files import is_remote

_SAME_START_S = 1.0
"""Two processes of one number and start are the same."""


class LockedError(Exception):
    """Another process has it; the message says which."""


class OwnedLock:
    """A lock of one process at a time: the system's own, which a dead process does not hold, and a file that says who.

    The second file is what others read: looking does not lock. In an object store there are no locks.
    """

    def __init__(self, path: Path, timeout_s: float = 0.0) -> None:
        self._lock = None if is_remote(path) else FileLock(path, timeout=timeout_s, mode=0o666)
        self._owner_path = path.with_name(path.name + ".owner")

    def acquire(self) -> None:
        """Take it.

        Raises
        ------
        LockedError
            If another process has it.
        OSError
            If its file cannot be written.
        """
        if self._lock is None:
            return
        try:
            self._lock.acquire()
        except Timeout as error:
            raise LockedError(self.owner() or "a process that does not say its name") from error
        me = psutil.Process()
        owner = {
            "process": me.pid,
            "started": me.create_time(),
            "computer": platform.node(),
            "since": f"{datetime.now().astimezone():%Y-%m-%d %H:%M}",
            "command": " ".join([_program(), *sys.argv[1:]])[:200],
        }
        with suppress(OSError):  # what others are told must not stop who has it
            self._owner_path.write_text(json.dumps(owner), encoding="utf-8")

    def release(self) -> None:
        """Give it back. May be called twice."""
        if self._lock is not None and self._lock.is_locked:
            with suppress(OSError):
                self._owner_path.unlink(missing_ok=True)
            self._lock.release()

    def owner(self) -> str:
        """Return who has it, for a message, or nothing if nobody has."""
        try:
            owner = json.loads(self._owner_path.read_text(encoding="utf-8"))
            process, started, computer = owner["process"], owner["started"], owner["computer"]
        except (OSError, ValueError, KeyError, TypeError):
            return ""
        told = f"process {process} (`{owner.get('command')}`) since {owner.get('since')}"
        if computer != platform.node():  # nobody here can tell whether it still lives
            return f"{told} on {computer}"
        try:
            return told if abs(psutil.Process(process).create_time() - started) < _SAME_START_S else ""
        except psutil.Error:
            return ""


def _program() -> str:
    name = Path(sys.argv[0]).name
    return "scotopic" if name == "__main__.py" else name
