"""What can be said of a job when it is added: a mistake told in the evening costs no night."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scotopic.overnight.jobs import DATE, RunWork, SegmentWork, TrainWork, ValidateWork
from scotopic.protocol import Problem, ProblemsError
from scotopic.store import RunFolder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PLACEHOLDER = re.compile(r"\{[^}]*\}?")


def check_work(work: RunWork | TrainWork | ValidateWork | SegmentWork) -> list[str]:
    """Check the work of a job as far as it can be checked before it begins, and return what is to be kept in mind.

    Raises
    ------
    ProblemsError
        If it could only fail.
    """
    problems = list(_mistakes(work))
    warnings: list[str] = []
    if isinstance(work, RunWork):
        from scotopic import workflow

        report = workflow.check(work.protocol, work.microscope, specimen=work.specimen, out=work.out)
        problems += report.problems
        warnings += map(str, report.warnings)
    if problems:
        raise ProblemsError(problems)
    return warnings + [f"{path} is not there yet" for path in _needed(work) if not path.exists()]


def _mistakes(work: RunWork | TrainWork | ValidateWork | SegmentWork) -> Iterator[Problem]:
    if isinstance(work, RunWork | SegmentWork):
        for found in _PLACEHOLDER.findall(str(work.out)):
            if found != DATE:
                yield Problem(f"= {str(work.out)!r}: {found} means nothing; allowed: {DATE}", key="--out")
    model = work.model if isinstance(work, ValidateWork | SegmentWork) else None
    if model is not None and not model.is_file():
        yield Problem("is not there", str(model), key="--model")
    if not isinstance(work, SegmentWork):
        return
    if work.light is not None and model is None:
        yield Problem("is for dark images, which need --model", key="--light")
    if work.microscope is not None and not work.microscope.is_file():
        yield Problem("is not there", str(work.microscope), key="--microscope")
    plain = [path for path in work.images if path.exists() and not RunFolder(path).exists]
    if model is not None and work.microscope is None and plain:
        told = "must be given: a network needs the camera's offset, gain and read noise"
        yield Problem(told, str(plain[0]), key="--microscope")


def _needed(work: RunWork | TrainWork | ValidateWork | SegmentWork) -> tuple[Path, ...]:
    """Return what an earlier job may make until this one begins."""
    match work:
        case TrainWork():
            return (work.run, *work.also)
        case ValidateWork():
            return (work.run,)
        case SegmentWork():
            return work.images
    return ()
