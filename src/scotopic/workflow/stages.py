"""What each process of a job says of itself while it works, in a line, and when the report is to be expected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scotopic.store import RunFolder
from scotopic.workflow.learning import NOTHING_TO_LEARN

if TYPE_CHECKING:
    from pathlib import Path

_JUDGING_S_A_SITE = 3.0
"""Validation of a held-out site of 512² at four light levels, report included, on two cores."""


def stage_lines(run_path: Path, acquisition_left_s: float | None, *, to_the_report: bool) -> list[str]:
    """Return a line for the training, the live segmentation and the report of a run, as far as they have begun.

    Parameters
    ----------
    acquisition_left_s : float, optional
        Time until the plate is complete, as far as it is known; 0 if it is.
    to_the_report : bool
        Whether training and report follow.
    """
    run = RunFolder(run_path)
    training, live = run.read_status("train"), run.read_status("live")
    lines = [_training(training)] if training else []
    if "images" in live:
        images = ", ".join(f"{count} {state}" for state, count in live["images"].items() if count)
        model = f", model {live['model']}" if live.get("model") else ""
        lines.append(f"live: {images or 'no image yet'}{model}")
    left_s = seconds_to_report(run, training, acquisition_left_s) if to_the_report else None
    return lines if left_s is None else [*lines, f"report in about {duration(left_s)}"]


def _training(training: dict[str, Any]) -> str:
    state = training.get("state")
    if state != "training":
        more = f", model {training['model']}" if state == "completed" and training.get("model") else ""
        return f"training: {state}{more}" + (f" {training['message']}" if training.get("message") else "")
    checks = training.get("checks") or [{}]
    f1 = ", ".join(f"{value:.3f} at {level}" for level, value in checks[-1].get("f1", {}).items())
    left = training.get("seconds_left")
    until = (
        "" if left is None else f", {duration(left)} left" + " once the plate is complete" * bool(training["growing"])
    )
    return f"training: step {training['step']:,}{until}" + (f"; F1 {f1}" if f1 else "")


def seconds_to_report(run: RunFolder, training: dict[str, Any], acquisition_left_s: float | None) -> float | None:
    """Return the time until the report is there, as far as it can be known by now."""
    if acquisition_left_s is None:
        return None
    protocol = run.read_protocol()
    left = training.get("seconds_left") if training.get("state") == "training" else None
    if left is None and training.get("state") not in {"completed", NOTHING_TO_LEARN}:
        left = None if protocol.training.steps else 60 * protocol.training.minutes
        if left is None:
            return None
    held_out = len(protocol.held_out_wells) * protocol.sites.count
    return acquisition_left_s + (left or 0) + _JUDGING_S_A_SITE * held_out


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
