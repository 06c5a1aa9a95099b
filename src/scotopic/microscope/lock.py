"""One program at a time drives a microscope."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError
from scotopic.store import LockedError, OwnedLock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scotopic.protocol import MicroscopeProfile


class MicroscopeTakenError(ProblemsError):
    """Another process drives the microscope."""


@contextmanager
def microscope_lock(profile: MicroscopeProfile, profile_path: Path) -> Iterator[None]:
    """Have a microscope for this process; a dead process holds nothing.

    A microscope is known by its Micro-Manager configuration. One made of software alone is each process's own.

    Raises
    ------
    ProblemsError
        If another process has it, saying which.
    """
    if profile.simulator is not None:
        yield
        return
    with config_lock(profile.config_path(profile_path)):
        yield


def driven_by(profile: MicroscopeProfile, profile_path: Path) -> str:
    """Return which process drives a microscope, for a message, or nothing if none does. Looking does not take it."""
    return "" if profile.simulator is not None else OwnedLock(_lock_path(profile.config_path(profile_path))).owner()


@contextmanager
def config_lock(config: Path) -> Iterator[None]:
    """Have the hardware of a Micro-Manager configuration for this process.

    Raises
    ------
    ProblemsError
        If another process has it, saying which.
    """
    path = _lock_path(config)
    folder = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    _share(folder, 0o1777)
    lock = OwnedLock(path)
    try:
        lock.acquire()
        _share(path, 0o666)
    except LockedError as error:
        raise MicroscopeTakenError([Problem(f"this microscope is driven by {error}", str(config))]) from error
    except OSError as error:
        raise ProblemsError(
            [Problem(f"this microscope cannot be locked: {folder}: {error.strerror}", str(config))]
        ) from error
    try:
        yield
    finally:
        lock.release()


def _lock_path(config: Path) -> Path:
    folder = Path(os.environ.get("PROGRAMDATA") or tempfile.gettempdir()) / "scotopic"  # the same for all users
    name = hashlib.sha256(os.path.normcase(config.resolve()).encode()).hexdigest()[:16]
    return folder / f"microscope-{name}.lock"


def _share(path: Path, mode: int) -> None:
    """Let every user of the computer take a lock, whoever made its file."""
    with suppress(OSError):  # only its owner may say so, and has
        path.chmod(mode)
