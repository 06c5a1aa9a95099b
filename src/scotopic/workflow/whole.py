"""The whole job in one go: acquire and learn, judge. Each stage goes on where a kill has stopped it."""

from __future__ import annotations

import _thread
import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from scotopic.store import RunFolder
from scotopic.workflow.acquisition import acquire
from scotopic.workflow.learning import NOTHING_TO_LEARN

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

    from scotopic.microscope import Progress
    from scotopic.protocol import ImagingProtocol

logger = logging.getLogger(__name__)
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
    say: Callable[[str], None] = print,
    specimen: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> int:
    """Check, acquire the plate with the training beside it, end the training, validate, and write the report.

    Training and validation are processes of their own: torch never comes into the one that drives the microscope. A
    training whose budget is a number of steps begins when the plate is complete: it is to be repeatable, and what is
    learned from a growing plate depends on when its sites came.

    Returns
    -------
    int
        Exit code: 0 for a whole report, 1 if something is missing or was skipped, 130 if it was interrupted.

    Raises
    ------
    ProblemsError
        If the check or the verification fails.
    """
    with ExitStack() as stack:

        def begin_to_learn(protocol: ImagingProtocol) -> None:
            if protocol.training.steps is None:
                beside.append(stack.enter_context(_Stage("train", out, say, "--follow")))

        beside: list[_Stage] = []
        result = acquire(
            protocol_path,
            profile_path,
            out,
            say,
            specimen=specimen,
            on_progress=on_progress,
            on_begin=begin_to_learn,
        )
        acquired = exit_code(result.end_reason)
        if not result.end_reason.startswith("completed"):
            return acquired
        trained = beside[0].wait() if beside else _done("train", out, say)
        nothing = RunFolder(out).read_status("train").get("state") == NOTHING_TO_LEARN
        if beside and trained not in {0, _INTERRUPTED} and not nothing:
            say(f"the training beside the acquisition has ended with exit code {trained}: it goes on now")
            trained = _done("train", out, say)
    if trained not in {0, _MISTAKE}:  # a mistake: nothing can be learned, which the report says too
        say("the training did not end; the same command goes on with it")
        return trained if trained == _INTERRUPTED else 1
    judged = _done("validate", out, say)
    return judged if judged == _INTERRUPTED else int(any((acquired, trained, judged)))


def _done(command: str, out: Path, say: Callable[[str], None]) -> int:
    with _Stage(command, out, say) as stage:
        return stage.wait()


class _Stage:
    """A command on the run in a process of its own, which ends when this one does. What it says is passed on."""

    def __init__(self, command: str, out: Path, say: Callable[[str], None], *options: str) -> None:
        surroundings = os.environ | {"PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": "1", ENDS_WITH_STDIN: "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own command
            [sys.executable, "-m", "scotopic", command, str(out), *options],
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
