"""The acquisition: acquire, verify, ask, and light off."""

from __future__ import annotations

from contextlib import nullcontext
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
        from scotopic.store import verify as verify_run

        if problems := verify_run(run_folder):  # of a wrong light the end has told already
            raise ProblemsError(problems)
        say(f"verified: {result.progress.frames_written:,} frames written, {result.progress.frames_skipped} skipped")
    return result


def progress_line(progress: Progress) -> str:
    """Return one line on how far an acquisition is."""
    if progress.paused:
        return f"paused: {progress.paused}"
    if progress.waiting:
        return f"{progress.sites_done} of {progress.sites_planned} sites; {progress.waiting}"
    left = "" if progress.seconds_left is None else f", {_duration(progress.seconds_left)} left"
    odd = "".join(
        f", {count} frames {what}"
        for what, count in (
            ("skipped", progress.frames_skipped),
            ("flagged", progress.frames_flagged),
            ("saturated", progress.frames_saturated),
        )
        if count
    )
    return f"{progress.last_site}: {progress.sites_done} of {progress.sites_planned} sites{odd}{left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def verify(run_path: Path) -> list[Problem]:
    """Read a run again, every pixel, and return what is wrong with it (nothing, if it is sound and complete).

    Raises
    ------
    ProblemsError
        If there is no run in the folder.
    """
    from scotopic.store import RunFolder, wrong_light
    from scotopic.store import verify as verify_run

    run_folder = RunFolder(run_path)
    if not run_folder.exists:
        raise ProblemsError([Problem("holds no run: there is no job.json in it", str(run_path))])
    problems = verify_run(run_folder)
    if run_folder.is_locked():
        told = "is being acquired: what is not finished yet is missing; verify it again at its end"
        problems.insert(0, Problem(told, str(run_path)))
    try:
        return problems + wrong_light(run_folder)
    except ProblemsError as error:
        return list(dict.fromkeys([*problems, *error.problems]))


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


def retake(run_path: Path, name: str, t: int = 0) -> None:
    """Give up a finished site of a run, so that the next acquisition into it takes that site anew.

    Parameters
    ----------
    name : str
        Well and number of the site, for example `B2_0`.

    Raises
    ------
    ProblemsError
        If there is no such run or finished site, or a process is acquiring into the run.
    """
    from scotopic.microscope import give_up_site
    from scotopic.store import RunFolder

    run_folder = RunFolder(run_path)
    if not run_folder.exists:
        raise ProblemsError([Problem("holds no run: there is no job.json in it", str(run_path))])
    well, _, site = name.rpartition("_")
    if not site.isdecimal():
        raise ProblemsError([Problem("is no site; allowed: a well and a number, for example B2_0", key=name)])
    give_up_site(run_folder, well.upper(), int(site), t)


def light_off(profile_path: Path, *, force: bool = False) -> None:
    """Load a microscope and switch every light off, and do nothing else.

    Parameters
    ----------
    force : bool
        Also while another process drives it.

    Raises
    ------
    ProblemsError
        If the profile has mistakes, or another process drives the microscope.
    RuntimeError
        If the hardware cannot be loaded, or some light stays on.
    """
    from scotopic.microscope import close_microscope, microscope_lock, open_microscope

    profile = read_model(profile_path, MicroscopeProfile)
    with nullcontext() if force else microscope_lock(profile, profile_path):
        close_microscope(open_microscope(profile, profile_path))
