"""The acquisition: acquire, verify, ask, and light off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.protocol import (
    MicroscopeProfile,
    Problem,
    ProblemsError,
    read_model,
)
from scotopic.workflow.job import checked_job

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.microscope import AcquireResult, Progress
    from scotopic.store.run_folder import Request


def acquire(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    say: Callable[[str], None],
    *,
    specimen: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> AcquireResult:
    """Check a job, acquire it into a run folder (or go on with it), and verify what is on the disk.

    Parameters
    ----------
    say : callable
        Takes each line that the user is told.
    on_progress : callable, optional
        Called after each site; without it, one line a site is said.

    Raises
    ------
    ProblemsError
        If the check fails, or the folder holds another run; nothing was loaded, moved or lit then.
    """
    from scotopic import microscope

    protocol, profile, report = checked_job(protocol_path, profile_path, out, say, specimen)
    for what, which in report.facts:
        if what == "specimen":
            say(f"specimen: {which}")
    held_out = ", ".join(protocol.held_out_wells) or "none"
    say(f"check passed: {protocol.n_frames:,} frames planned, held-out wells: {held_out}")
    run_folder = microscope.prepare_run(protocol_path, profile_path, protocol, profile, out)
    try:
        result = microscope.acquire(
            protocol, profile, profile_path, run_folder, on_progress=on_progress or (lambda p: say(progress_line(p)))
        )
    finally:
        run_folder.unlock()
    say(f"acquisition {result.end_reason.replace('_', ' ')}" + (f": {result.message}" if result.message else ""))
    if result.end_reason.startswith("completed"):
        problems = verify(out)
        if problems:
            raise ProblemsError(problems)
        say(f"verified: {result.progress.frames_written:,} frames written, {result.progress.frames_skipped} skipped")
    return result


def progress_line(progress: Progress) -> str:
    """Return one line on how far an acquisition is."""
    if progress.paused:
        return f"paused: {progress.paused}"
    left = "" if progress.seconds_left is None else f", {progress.seconds_left / 60:.0f} min left"
    skipped = f", {progress.frames_skipped} frames skipped" if progress.frames_skipped else ""
    return f"{progress.last_site}: {progress.sites_done} of {progress.sites_planned} sites{skipped}{left}"


def verify(run_path: Path) -> list[Problem]:
    """Read a run again, every pixel, and return what is wrong with it (nothing, if it is sound and complete).

    Raises
    ------
    ProblemsError
        If there is no run in the folder.
    """
    from scotopic.store import RunFolder
    from scotopic.store import verify as verify_run

    run_folder = RunFolder(run_path)
    if not run_folder.exists:
        raise ProblemsError([Problem("holds no run: there is no job.json in it", str(run_path))])
    return verify_run(run_folder)


def ask(run_path: Path, request: Request) -> None:
    """Ask the acquisition that is running into a folder to pause, resume, finish or cancel.

    Raises
    ------
    ProblemsError
        If no acquisition is running there.
    """
    from scotopic.store import RunFolder

    run_folder = RunFolder(run_path)
    if not run_folder.exists or not run_folder.is_locked():
        raise ProblemsError([Problem("no acquisition is running into this folder", str(run_path))])
    run_folder.ask(request)


def light_off(profile_path: Path) -> None:
    """Load a microscope and switch every light off, and do nothing else.

    Raises
    ------
    ProblemsError
        If the profile has mistakes.
    RuntimeError
        If the hardware cannot be loaded, or some light stays on.
    """
    from scotopic.microscope import close_microscope, open_microscope

    profile = read_model(profile_path, MicroscopeProfile)
    close_microscope(open_microscope(profile, profile_path))
