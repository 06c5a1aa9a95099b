"""The whole job in one go: acquire, learn, judge. Each stage goes on where a kill has stopped it."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from scotopic.workflow.acquisition import acquire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.microscope import Progress

ENDS_WITH_STDIN = "SCOTOPIC_ENDS_WITH_STDIN"
"""Environment variable: a process that finds it set ends when its standard input does."""
_MISTAKE, _INTERRUPTED = 2, 130
_LONGEST_END_S = 10.0
_EXIT_CODES = {"completed": 0, "completed_with_errors": 1, "budget_used_up": 1, "failed": 1, "cancelled": _INTERRUPTED}


def exit_code(end_reason: str) -> int:
    """Return the exit code that says how an acquisition ended."""
    return _EXIT_CODES[end_reason]


def run(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    say: Callable[[str], None],
    specimen: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> int:
    """Check, acquire the plate, train on it, validate, and write the report.

    Training and validation are processes of their own: torch never comes into the one that drives the microscope.

    Returns
    -------
    int
        Exit code: 0 for a whole report, 1 if something is missing or was skipped, 130 if it was interrupted.

    Raises
    ------
    ProblemsError
        If the check or the verification fails.
    """
    result = acquire(protocol_path, profile_path, out, say, specimen=specimen, on_progress=on_progress)
    acquired = exit_code(result.end_reason)
    if not result.end_reason.startswith("completed"):
        return acquired
    trained = _in_a_process_of_its_own("train", out, say)
    if trained not in {0, _MISTAKE}:  # a mistake: nothing can be learned, which the report says too
        say("the training did not end; the same command goes on with it")
        return trained if trained == _INTERRUPTED else 1
    judged = _in_a_process_of_its_own("validate", out, say)
    return judged if judged == _INTERRUPTED else int(any((acquired, trained, judged)))


def _in_a_process_of_its_own(command: str, out: Path, say: Callable[[str], None]) -> int:
    """Run a command on the run, pass on what it says, and return its exit code; it ends when this process does."""
    words = [sys.executable, "-m", "scotopic", command, str(out)]
    surroundings = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", ENDS_WITH_STDIN: "1"}
    with subprocess.Popen(  # noqa: S603 - our own command
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=surroundings,
        encoding="utf-8",
        errors="replace",
    ) as process:
        for line in process.stdout or ():
            say(line.rstrip())
    return process.returncode


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
