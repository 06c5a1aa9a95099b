"""`run.log`: what was said and warned of in a run, with times, for people."""

from __future__ import annotations

import logging
import os
from contextlib import contextmanager
from logging.handlers import MemoryHandler, RotatingFileHandler
from typing import TYPE_CHECKING

from scotopic.store.files import is_remote
from scotopic.workflow.command import ENDS_WITH_STDIN

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

NAME = "run.log"
_LARGEST_BYTES, _KEPT = 5_000_000, 3
_EARLY_LINES = 10_000
_ours = logging.getLogger("scotopic")
_told = logging.getLogger("scotopic.told")


class RunLog:
    """Passes on what is said, and writes it down together with all warnings, once the run has a folder."""

    def __init__(self, say: Callable[[str], None], memory: MemoryHandler | None) -> None:
        self._say, self._memory = say, memory
        self._file: RotatingFileHandler | None = None

    def say(self, line: str) -> None:
        """Say a line, and write it down."""
        if self._memory is not None:
            _told.info("%s", line)
        self._say(line)

    def open(self, run_path: Path) -> None:
        """Write into the folder of a run from now on, what came before it first."""
        if self._memory is None or self._file is not None or is_remote(run_path):
            return
        self._file = RotatingFileHandler(
            run_path / NAME, maxBytes=_LARGEST_BYTES, backupCount=_KEPT, encoding="utf-8", delay=True
        )
        self._file.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%d %H:%M:%S%z"))
        self._memory.setTarget(self._file)
        self._memory.flush()
        self._memory.flushLevel = logging.NOTSET  # each line at once: what a kill leaves is what was said

    def close(self) -> None:
        """End it; lines that had no run to be written into are forgotten."""
        if self._memory is not None:
            self._memory.close()
        if self._file is not None:
            self._file.close()


@contextmanager
def run_log(say: Callable[[str], None], run_path: Path | None = None) -> Iterator[RunLog]:
    """Write down what is said inside, in one process of those that work on a run: the one that the user has begun.

    Parameters
    ----------
    run_path : Path, optional
        Folder of the run, if it is there already; else `open` is told it later.
    """
    is_written_already = any(isinstance(handler, MemoryHandler) for handler in _ours.handlers)
    if is_written_already or ENDS_WITH_STDIN in os.environ:
        yield RunLog(say, None)
        return
    memory = MemoryHandler(_EARLY_LINES, flushLevel=logging.CRITICAL + 1)
    log, level = RunLog(say, memory), _told.level
    # Warnings go on to be seen: with a handler Python shows none itself.
    handlers = [memory, *filter(None, [logging.lastResort])]
    for handler in handlers:
        _ours.addHandler(handler)
    _told.setLevel(logging.INFO)
    try:
        if run_path is not None:
            log.open(run_path)
        yield log
    except Exception as error:  # whatever ends it stands in the log too; who has called tells the user
        for handler in handlers[1:]:
            _ours.removeHandler(handler)
        _told.error("ended by %s: %s", type(error).__name__, error)
        raise
    finally:
        for handler in handlers:
            _ours.removeHandler(handler)
        _told.setLevel(level)
        log.close()
