"""A command of scotopic in a process of its own, which ends with the one that began it."""

from __future__ import annotations

import _thread
import logging
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

logger = logging.getLogger(__name__)
ENDS_WITH_STDIN = "SCOTOPIC_ENDS_WITH_STDIN"
"""Environment variable: a process that finds it set ends when its standard input does."""
_INTERRUPTED = 130
_LONGEST_END_S = 10.0


class Command:
    """A command on a run in a process of its own, which ends when this one does. What it says is passed on."""

    def __init__(self, command: str, run: Path, say: Callable[[str], None], *options: str) -> None:
        surroundings = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", ENDS_WITH_STDIN: "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "scotopic", command, str(run), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=surroundings,
            encoding="utf-8",
            errors="replace",
        )
        self._say = say
        self._reader = threading.Thread(target=self._pass_on, daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End it, if it has not ended by itself: it does so when its standard input ends."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self.wait()

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself, or was killed."""
        return self._process.poll() is not None

    def wait(self) -> int:
        """Wait for its end, and return its exit code."""
        code = self._process.wait()
        self._reader.join(_LONGEST_END_S)  # processes that it has begun may hold its output open for minutes
        return code

    def _pass_on(self) -> None:
        for line in self._process.stdout or ():
            try:
                self._say(line.rstrip())
            except Exception:  # read on all the same: a process that nobody reads from would wait for ever
                logger.exception("a line could not be passed on: %s", line.rstrip())


def end_with_the_process_that_began_this_one() -> None:
    """Interrupt the main thread when standard input ends: a killed `scotopic run` must not leave a training behind.

    A pipe's end is the one sign of a killed parent that all operating systems give.
    """

    def wait() -> None:
        while os.read(0, 1024):  # not `sys.stdin`, whose lock a thread must not hold when Python ends
            pass
        _thread.interrupt_main()
        time.sleep(_LONGEST_END_S)
        os._exit(_INTERRUPTED)

    threading.Thread(target=wait, daemon=True).start()


def begin_apart(words: Sequence[str], output: Path | None = None) -> subprocess.Popen[bytes]:
    """Begin a command of scotopic in a process of its own that outlives this one, also where its whole group is killed.

    Parameters
    ----------
    output : Path, optional
        File that what it says is added to; it is said to nobody without it.
    """
    surroundings = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1"}
    surroundings.pop(ENDS_WITH_STDIN, None)
    # Detached, in a group of its own (DETACHED_PROCESS and CREATE_NEW_PROCESS_GROUP on Windows).
    apart: dict[str, Any] = {"creationflags": 0x00000208} if sys.platform == "win32" else {"start_new_session": True}
    command, nowhere = [sys.executable, "-m", "scotopic", *words], subprocess.DEVNULL
    if output is None:
        return subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere, env=surroundings, **apart)  # noqa: S603 - our own command
    with output.open("ab") as file:
        return subprocess.Popen(  # noqa: S603 - our own command
            command, stdin=nowhere, stdout=file, stderr=subprocess.STDOUT, env=surroundings, **apart
        )
