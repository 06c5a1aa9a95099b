from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from wakepy import keep

from scotopic.microscope.core import close_microscope, open_microscope
from scotopic.microscope.engine import AcquisitionEngine, SiteVisit, StoppedError
from scotopic.microscope.light_guard import LightGuard
from scotopic.protocol import Problem, ProblemsError
from scotopic.store import RunFolder, checksum, differing_keys, finished_sites

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile
    from scotopic.store import FrameRecord, PlateStore

logger = logging.getLogger(__name__)

EndReason = Literal["completed", "completed_with_errors", "cancelled", "failed"]
SITES_CHECKED_BEFORE_RESUME = 2
DISK_RESERVE_BYTES = 500_000_000


@dataclass(frozen=True)
class Progress:
    """How far an acquisition is."""

    sites_done: int
    sites_planned: int
    frames_written: int
    frames_skipped: int
    sample_dose_ms: float
    last_site: str
    seconds_left: float | None


@dataclass(frozen=True)
class AcquireResult:
    """How an acquisition ended."""

    end_reason: EndReason
    message: str
    progress: Progress


def acquire(
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
    profile_path: Path,
    run: RunFolder,
    *,
    core: CMMCorePlus | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> AcquireResult:
    """Acquire a protocol into a run folder, or go on where an earlier acquisition into it stopped.

    Finished sites are never exposed again; one that was interrupted is taken anew, as its next attempt. The light is
    off before anything moves, between exposures, and on every way out.

    Parameters
    ----------
    run : RunFolder
        Locked by the caller, with the protocol's and profile's copies in it (`RunFolder.begin`).
    core : CMMCorePlus, optional
        A core that is open already; without it the hardware is loaded, and unloaded at the end.
    on_progress : callable
        Called after each site.

    Returns
    -------
    AcquireResult
        Also when it failed: the reason is in it, and in `status/acquire.json`.

    Raises
    ------
    ProblemsError
        If the run's data on disk are not what its ledger says; nothing was loaded then.
    """
    run.light_checks.cut_torn_line()
    cut = run.ledger.cut_torn_line()
    if cut:
        logger.warning("cut off %s bytes of a torn line from %s", cut, run.path)
    plate = run.plate(protocol, profile)
    records = run.ledger.read()
    _check_last_sites(run, plate, records, protocol.frames_per_site)
    job = _Acquisition(protocol, profile, run, plate, records, on_progress)
    job.write_status("running", "")
    opened = None
    try:
        if core is None:
            core = opened = open_microscope(profile, profile_path, protocol)
        end, message = job.acquire(core)
    except (RuntimeError, OSError, ValueError) as error:
        logger.debug("the acquisition failed", exc_info=True)
        end, message = "failed", str(error)
    except BaseException as error:
        job.write_status("failed", f"{type(error).__name__}: {error}")  # never "running" after the end
        raise
    finally:
        if opened is not None:
            close_microscope(opened)
    job.write_status(end, message)
    return AcquireResult(end, message, job.progress())


class _Acquisition:
    """One call of `acquire`: the engine's surroundings."""

    def __init__(
        self,
        protocol: ImagingProtocol,
        profile: MicroscopeProfile,
        run: RunFolder,
        plate: PlateStore,
        records: list[FrameRecord],
        on_progress: Callable[[Progress], None],
    ) -> None:
        self._protocol, self._profile, self._run, self._plate = protocol, profile, run, plate
        self._on_progress = on_progress
        self._finished = finished_sites(records, protocol.frames_per_site)
        self._attempts: dict[tuple[str, int, int], int] = {}
        for record in records:
            self._attempts[record.site_key] = max(record.attempt, self._attempts.get(record.site_key, 0))
        current = [r for r in records if self._finished.get(r.site_key) == r.attempt]
        self._written = sum(r.state == "written" for r in current)
        self._skipped = len(current) - self._written
        self._dose_ms = sum(r.sample_dose_ms for r in records)
        self._wrong_light = sum(
            check.verdict == "wrong" and self._finished.get((check.well, check.site, check.t)) == check.attempt
            for check in run.light_checks.read()
        )
        self._planned = protocol.n_sites * (protocol.time_lapse.count if protocol.time_lapse else 1)
        self._begun = time.monotonic()
        self._done_before = len(self._finished)
        self._last_site = ""
        self._engine: AcquisitionEngine | None = None
        self._started = datetime.now(UTC).isoformat(timespec="seconds")

    def acquire(self, core: CMMCorePlus) -> tuple[EndReason, str]:
        """Run the sequence on a core and return how it ended."""
        self._engine = AcquisitionEngine(
            core,
            self._protocol,
            self._profile,
            self._plate,
            self._run.ledger,
            self._run.light_checks,
            finished=self._finished,
            attempts=self._attempts,
            sample_dose_ms=self._dose_ms,
            on_site=self._site_done,
        )
        before = core.mda.set_engine(self._engine)
        try:
            # Where the system does not let a program keep it awake, the run goes on without a word: it resumes anyway.
            with keep.running(on_fail="pass"), LightGuard(core, self._profile, self._asked_to_end):
                core.mda.run(self._protocol.to_sequence(self._profile))
        except StoppedError as stop:
            return "cancelled", str(stop)
        finally:
            if before is not None:
                core.mda.set_engine(before)
        if len(self._finished) < self._planned:
            return "cancelled", "cancelled; the same command goes on from here"
        errors = []
        if self._skipped:
            errors.append(f"{self._skipped} frames were skipped, the ledger says why")
        if self._wrong_light:
            errors.append(f"{self._wrong_light} frames have the wrong light by the images' proof, see light.jsonl")
        if errors:
            return "completed_with_errors", "; ".join(errors)
        return "completed", ""

    def _asked_to_end(self, name: str) -> None:
        """First Ctrl-C: finish the site; a second one, or any other signal: stop before the next exposure."""
        if self._engine is None:
            return
        if name != "SIGINT" or self._engine.finish_after_site:
            self._engine.stop_now = True
        self._engine.finish_after_site = True
        if self._engine.stop_now or self._engine.is_between_sites:
            self._engine.mmcore.mda.cancel()  # also ends the wait for the next time point

    def _site_done(self, visit: SiteVisit) -> None:
        self._last_site = f"{visit.key[0]}_{visit.key[1]}"
        for check in visit.light:
            if check.verdict == "wrong":
                self._wrong_light += 1
                logger.warning(
                    "%s of %s: the images show %.2g of the reference's light, %.2g was asked for",
                    check.level,
                    self._last_site,
                    check.ratio,
                    check.expected,
                )
        self._written += sum(r.state == "written" for r in visit.records)
        self._skipped += sum(r.state == "skipped" for r in visit.records)
        self._dose_ms += sum(r.sample_dose_ms for r in visit.records)
        self.write_status("running", "")
        self._on_progress(self.progress())
        if self._run.free_bytes() < DISK_RESERVE_BYTES:
            raise OSError(f"less than {DISK_RESERVE_BYTES / 1e9:g} GB are free on the disk of {self._run.path}")

    def progress(self) -> Progress:
        """Return how far it is."""
        done = len(self._finished)
        now = done - self._done_before
        left = (self._planned - done) * (time.monotonic() - self._begun) / now if now else None
        return Progress(done, self._planned, self._written, self._skipped, self._dose_ms, self._last_site, left)

    def write_status(self, state: str, message: str) -> None:
        """Write `status/acquire.json`."""
        progress = self.progress()
        self._run.write_status(
            "acquire",
            state=state,
            message=message,
            started=self._started,
            sites={"planned": progress.sites_planned, "finished": progress.sites_done},
            frames={"planned": self._protocol.n_frames, "written": self._written, "skipped": self._skipped},
            wrong_light=self._wrong_light,
            sample_dose_ms=round(self._dose_ms, 3),
            versions=_versions(),
        )


@cache
def _versions() -> dict[str, str]:
    names = ("scotopic", "pymmcore-plus", "pymmcore", "zarr", "useq-schema")
    return {name: version(name) for name in names} | {"python": sys.version.split()[0]}


def prepare_run(
    protocol_path: Path, profile_path: Path, protocol: ImagingProtocol, profile: MicroscopeProfile, out: Path
) -> RunFolder:
    """Return the locked run folder of a job: a new one, or one that was begun with the same protocol and profile.

    Raises
    ------
    ProblemsError
        If the folder holds another run (saying which key differs), or another process has it.
    """
    run = RunFolder(out)
    run.lock()
    try:
        if run.exists:
            _refuse_another_run(run, protocol, profile)
        else:
            run.begin(protocol, profile, protocol_path, profile_path)
    except BaseException:
        run.unlock()
        raise
    return run


def _refuse_another_run(run: RunFolder, protocol: ImagingProtocol, profile: MicroscopeProfile) -> None:
    problems = []
    for what, old, new in (("protocol", run.read_protocol(), protocol), ("profile", run.read_profile(), profile)):
        for key, was, now in differing_keys(old.model_dump(mode="json"), new.model_dump(mode="json"), what):
            problems.append(
                Problem(
                    f"= {was!r} in the run that was begun here, {now!r} now; choose another --out",
                    str(run.path),
                    key=key,
                )
            )
    if problems:
        raise ProblemsError(problems)


def _check_last_sites(run: RunFolder, plate: PlateStore, records: list[FrameRecord], frames_per_site: int) -> None:
    """Compare the last finished sites with their checksums before anything is added after them."""
    finished = finished_sites(records, frames_per_site)
    last = list(dict.fromkeys(r.site_key for r in reversed(records) if finished.get(r.site_key) == r.attempt))
    wrong = [
        Problem(
            f"{r.level} of {r.well}_{r.site} is not what the ledger says (checksum); run `scotopic verify`",
            str(run.path),
        )
        for r in records
        if r.site_key in last[:SITES_CHECKED_BEFORE_RESUME]
        and finished.get(r.site_key) == r.attempt
        and r.state == "written"
        and checksum(plate.read(r.well, r.site, r.level, r.t, r.z)) != r.checksum
    ]
    if wrong:
        raise ProblemsError(wrong)
