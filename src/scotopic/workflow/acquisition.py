"""The acquisition: acquire, verify, ask, and light off."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from scotopic.protocol import (
    MicroscopeProfile,
    Problem,
    ProblemsError,
    read_model,
    rounded,
)
from scotopic.workflow.guarding import Guarded
from scotopic.workflow.job import checked_job
from scotopic.workflow.run_log import run_log
from scotopic.workflow.segmentation import no_run
from scotopic.workflow.stages import duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scotopic.microscope import AcquireResult, Progress
    from scotopic.microscope.director import Director
    from scotopic.protocol import ImagingProtocol
    from scotopic.store import RunFolder
    from scotopic.store.run_folder import Request
    from scotopic.workflow.run_log import RunLog


def acquire(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    say: Callable[[str], None] = print,
    *,
    specimen: Path | None = None,
    model: Path | None = None,
    view: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    on_begin: Callable[[ImagingProtocol], None] = lambda _: None,
) -> AcquireResult:
    """Check a job, acquire it into a run folder (or go on with it), and verify what is on the disk.

    Parameters
    ----------
    say : callable
        Takes each line that the user is told.
    model : Path, optional
        Model file for the live segmentation of a protocol with `live`; without it the run's latest, as soon as there is one.
    view : bool
        Show the newest image in a window, from a process of its own.
    on_progress : callable, optional
        Called after each site; without it, one line a site is said.
    on_begin : callable
        Called with the protocol as it is run once the run folder is there, before anything moves.

    Raises
    ------
    ProblemsError
        If the check fails, or the folder holds another run; nothing was loaded, moved or lit then.
    """
    with run_log(say) as log:
        return _acquire(protocol_path, profile_path, out, log, specimen, model, on_progress, on_begin, view=view)


def _acquire(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    log: RunLog,
    specimen: Path | None,
    model: Path | None,
    on_progress: Callable[[Progress], None] | None,
    on_begin: Callable[[ImagingProtocol], None],
    *,
    view: bool,
) -> AcquireResult:
    from scotopic import microscope

    say = log.say
    protocol, profile, report = checked_job(protocol_path, profile_path, out, say, specimen)
    for what, which in report.facts:
        if what == "specimen":
            say(f"specimen: {which}")
    if model is None and protocol.live is not None and protocol.live.model is not None:
        model = Path(protocol.live.model)
    if model is not None:
        fits_live(model, protocol, profile)
    if view and find_spec("ndv") is None:
        raise ProblemsError([Problem("needs the viewer ndv: pip install 'scotopic[view]'", key="--view")])
    held_out = ", ".join(protocol.held_out_wells) or "none"
    say(f"check passed: {protocol.n_frames:,} frames planned, held-out wells: {held_out}")
    run_folder = microscope.prepare_run(protocol_path, profile_path, protocol, profile, out)
    try:
        log.open(out)
        if view:
            _open_window(out)
        if protocol.live is not None and model is None and run_folder.latest_model() is None:
            say(
                "warning: the protocol has `live`, and there is no model yet: until one is there (--model, or a training beside) no image is "
                "looked at, and of levels that a rule must ask for none is taken"
            )
        guarded = Guarded(out, profile_path) if profile.simulator is None else None
        if guarded is not None:
            guarded.keep()
        on_begin(protocol)
        with _live(run_folder, protocol, profile, model, say) as director:
            result = microscope.acquire(
                protocol,
                profile,
                profile_path,
                run_folder,
                director=director,
                on_progress=on_progress or (lambda p: say(progress_line(p))),
                keep_guarded=guarded.keep if guarded is not None else (lambda: True),
            )
    finally:
        run_folder.unlock()
    say(f"acquisition {result.end_reason.replace('_', ' ')}" + (f": {result.message}" if result.message else ""))
    if result.end_reason.startswith("completed"):
        from scotopic.store import verify as verify_run

        if problems := verify_run(run_folder):  # of a wrong light the end has told already
            raise ProblemsError(problems)
        progress = result.progress
        left_out = f", {progress.frames_left_out:,} left out" if progress.frames_left_out else ""
        say(f"verified: {progress.frames_written:,} frames written, {progress.frames_skipped} skipped{left_out}")
        if progress.saved_dose_ms:
            given, saved = progress.sample_dose_ms / 1000, progress.saved_dose_ms / 1000
            say(f"light saved by rules: {rounded(saved)} s at full power; {rounded(given)} s were given")
    return result


def watch(run_path: Path) -> None:
    """Show the newest image of a run in a window, until that is closed.

    Raises
    ------
    ProblemsError
        If there is no run in the folder, or no viewer is installed.
    """
    from scotopic.live.view import watch as watch_run
    from scotopic.store import RunFolder

    run_folder = RunFolder(run_path)
    if not run_folder.exists:
        raise ProblemsError([Problem(no_run(run_path), str(run_path))])
    watch_run(run_folder)


def _open_window(run_path: Path) -> None:
    """Begin a window with the newest image."""
    import subprocess
    import sys

    words = [sys.executable, "-m", "scotopic", "watch", str(run_path)]
    subprocess.Popen(words, stdin=subprocess.DEVNULL)  # noqa: S603 - our own command; it stays when the run has ended


@contextmanager
def _live(
    run: RunFolder,
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
    model: Path | None,
    say: Callable[[str], None],
) -> Iterator[Director | None]:
    """Begin the live segmentation, if the protocol wants one, and say at its end what it did."""
    if protocol.live is None:
        yield None
        return
    from scotopic.live import LiveHook

    hook = LiveHook(run, protocol, profile, model)
    with hook:
        yield hook
    told = hook.summary()
    images = ", ".join(f"{count} {state}" for state, count in told["images"].items() if count)
    late = told["latency_ms"]["percentile_95"]
    say(
        f"live: {images or 'no image'}"
        + (f", 95 % of them within {late:.0f} ms" if late else "")
        + (f"; {told['sentinels_compared']} sentinels" if protocol.live.sentinels else "")
        + (f"; the worker was begun anew {told['restarts']} times" if told["restarts"] else "")
    )
    for alarm in told["alarms"]:
        say(f"live: {alarm}")


def fits_live(model: Path, protocol: ImagingProtocol, profile: MicroscopeProfile) -> None:
    """Refuse a model that cannot be used on this microscope; it is read in a process of its own, for it takes torch.

    Raises
    ------
    ProblemsError
        If the protocol has no live segmentation, or the model does not fit.
    """
    if protocol.live is None:
        told = "is given, but the protocol has no section `live`"
        raise ProblemsError([Problem(told, key="--model")])
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    from scotopic.workflow.validating import fits

    camera, channel = profile.camera, protocol.channel_of(protocol.inputs()[0])
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        least_f1 = protocol.training.least_f1
        where = camera.pixel_size_um, channel
        pool.submit(fits, model.absolute(), *where, camera=camera.noise, least_f1=least_f1).result()


def progress_line(progress: Progress) -> str:
    """Return one line on how far an acquisition is."""
    if progress.paused:
        return f"paused: {progress.paused}"
    if progress.waiting:
        return f"{progress.sites_done} of {progress.sites_planned} sites; {progress.waiting}"
    left = "" if progress.seconds_left is None else f", {duration(progress.seconds_left)} left"
    odd = "".join(
        f", {count} frames {what}"
        for what, count in (
            ("left out", progress.frames_left_out),
            ("skipped", progress.frames_skipped),
            ("flagged", progress.frames_flagged),
            ("saturated", progress.frames_saturated),
        )
        if count
    )
    site = f"{progress.last_site}: " if progress.last_site else ""
    return f"{site}{progress.sites_done} of {progress.sites_planned} sites{odd}{left}"


def verify(run_path: Path) -> list[Problem]:
    """Read a run again, every pixel and every file that a report rests on, and return what is wrong (nothing, if it is sound and complete).

    Raises
    ------
    ProblemsError
        If there is no run in the folder.
    """
    from scotopic.store import RunFolder, damaged_files, wrong_light
    from scotopic.store import verify as verify_run

    run_folder = RunFolder(run_path)
    if not run_folder.exists:
        raise ProblemsError([Problem(no_run(run_path), str(run_path))])
    problems = verify_run(run_folder)
    if run_folder.is_locked():
        told = "is being acquired: what is not finished yet is missing; verify it again at its end"
        problems.insert(0, Problem(told, str(run_path)))
    if maker := run_folder.maker_of_masks():
        problems.insert(0, Problem(f"its masks are being made by {maker}; verify it again after that", str(run_path)))
    problems += damaged_files(run_folder)
    try:
        problems += wrong_light(run_folder)
    except ProblemsError as error:
        problems += error.problems
    return list(dict.fromkeys(problems))


def ask(run_path: Path, request: Request) -> None:
    """Ask the acquisition that is running into a folder to pause, resume, finish or cancel. A pause may be ended before it goes on.

    Raises
    ------
    ProblemsError
        If no acquisition is running there.
    """
    from scotopic.store import RunFolder

    run_folder = RunFolder(run_path)
    if request == "resume" and run_folder.exists and run_folder.request() == "pause":
        run_folder.ask(request)  # also where the run was cut short: it is not to begin again in a pause
        return
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
        raise ProblemsError([Problem(no_run(run_path), str(run_path))])
    well, _, site = name.rpartition("_")
    if not site.isdecimal():
        raise ProblemsError([Problem("is no site; allowed: a well and a number, for example B2_0", key=name)])
    give_up_site(run_folder, well.upper(), int(site), t)


def light_off(profile_path: Path, *, force: bool = False) -> None:
    """Load the devices of a microscope's light, switch every light off, and do nothing else: no stage homes.

    Parameters
    ----------
    force : bool
        Also while another process drives it.

    Raises
    ------
    ProblemsError
        If the profile has mistakes, or another process drives the microscope.
    RuntimeError
        If the devices cannot be loaded, or some light stays on.
    """
    from scotopic.microscope import microscope_lock
    from scotopic.microscope.light_alone import light_off_alone

    profile = read_model(profile_path, MicroscopeProfile)
    with nullcontext() if force else microscope_lock(profile, profile_path):
        light_off_alone(profile, profile_path)
