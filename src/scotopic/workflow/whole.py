"""The whole job in one go: acquire and learn, judge. Each stage goes on where a kill has stopped it."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from scotopic.protocol import ProblemsError
from scotopic.store import RunFolder
from scotopic.workflow.acquisition import acquire
from scotopic.workflow.command import Command
from scotopic.workflow.learning import NOTHING_TO_LEARN
from scotopic.workflow.run_log import run_log

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.microscope import Progress
    from scotopic.protocol import ImagingProtocol
    from scotopic.workflow.run_log import RunLog

_INTERRUPTED = 130
_LAST_TRAINER_S = 120.0
"""A training whose run was killed ends by itself, but not at once."""
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
    with run_log(say) as log:
        return _run(protocol_path, profile_path, out, log, specimen, on_progress)


def _run(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    log: RunLog,
    specimen: Path | None,
    on_progress: Callable[[Progress], None] | None,
) -> int:
    say = log.say
    _refuse_beside_a_training(RunFolder(out), say)
    with ExitStack() as stack:

        def begin_to_learn(protocol: ImagingProtocol) -> None:
            log.open(out)
            if protocol.training.steps is None:
                beside.append(stack.enter_context(Command("train", out, say, "--follow")))

        beside: list[Command] = []
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
        if beside and trained not in {0, _INTERRUPTED} and not _has_an_outcome(out):
            say(f"the training beside the acquisition has ended with exit code {trained}: it goes on now")
            trained = _done("train", out, say)
    if trained != 0 and not _has_an_outcome(out):
        say("the training did not end; the same command goes on with it")
        return trained if trained == _INTERRUPTED else 1
    judged = _done("validate", out, say)
    return judged if judged == _INTERRUPTED else int(any((acquired, trained, judged)))


def _has_an_outcome(out: Path) -> bool:
    """Return whether the training has ended without a model for a reason that the report states."""
    status = RunFolder(out).read_status("train")
    return status.get("state") == NOTHING_TO_LEARN or not status.get("learned", True)


def _refuse_beside_a_training(run: RunFolder, say: Callable[[str], None]) -> None:
    """Refuse to go on with a run that another process trains on: both would write its model and its report.

    Raises
    ------
    ProblemsError
        If one does, and does not end in a while.
    """
    until, is_told = time.monotonic() + _LAST_TRAINER_S, False
    while run.exists and not run.is_locked():  # else the acquisition itself says who has it
        try:
            with run.training_lock():
                return
        except ProblemsError:  # the lock itself has waited a few seconds
            if not is_told:
                is_told = True
                say("waiting for another process to end its training on this run")
            if time.monotonic() > until:
                raise


def _done(command: str, out: Path, say: Callable[[str], None]) -> int:
    with Command(command, out, say) as stage:
        return stage.wait()
