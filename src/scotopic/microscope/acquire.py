from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Literal

from pymmcore_plus.mda import RunState
from wakepy import keep

from scotopic.microscope.check import DISK_RESERVE_BYTES
from scotopic.microscope.core import close_microscope, open_microscope
from scotopic.microscope.engine import AcquisitionEngine, BudgetUsedUpError, StoppedError
from scotopic.microscope.hardware_check import check_hardware
from scotopic.microscope.light_guard import LightGuard
from scotopic.microscope.lock import microscope_lock
from scotopic.microscope.resume import check_last_sites, refuse_a_ledger_that_forgets
from scotopic.protocol import ProblemsError, RandomSites
from scotopic.store import FrameRecord, Recorder, RunFolder, finished_sites, light_verdicts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pymmcore_plus import CMMCorePlus

    from scotopic.microscope.director import Director
    from scotopic.microscope.watchdog import Watchdog
    from scotopic.protocol import ImagingProtocol, MicroscopeProfile
    from scotopic.store import PlateStore, SiteRecord

logger = logging.getLogger(__name__)

EndReason = Literal["completed", "completed_with_errors", "budget_used_up", "cancelled", "failed"]
BEAT_S = 0.1
_BEATS_PER_REQUEST = 5
_BEATS_PER_STATUS = 50
_WAITING = (RunState.WAITING, RunState.PAUSED)
_LOADS_S = 300.0
"""Longest time in which hardware is loaded (stages home), or unloaded."""
_GUARD_COMES_S = 300.0
"""Longest time in which a guard is loaded, on a computer that has much else to do."""
_ANSWERS_S = 15.0
"""What the main thread does longer than it may is said after this time."""


@dataclass
class WellProgress:
    """How far a well is, and where it lies on the plate (both counted from 0)."""

    row: int
    column: int
    sites_planned: int
    sites_done: int = 0
    frames_skipped: int = 0


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
    bytes_left: int
    """Disk space that the rest will take at most."""
    wells: dict[str, WellProgress]
    frames_flagged: int = 0
    """Frames that were written although something was odd; their ledger lines say what."""
    frames_saturated: int = 0
    """Frames of which at least a thousandth of the pixels are saturated."""
    paused: str = ""
    """Why the run is paused, if it is."""
    waiting: str = ""
    """Which time point is waited for, and until when, if one is."""
    frames_left_out: int = 0
    """Frames that a rule, or the plan, did not want."""
    saved_dose_ms: float = 0
    """Light that was planned, but not given because of a rule, milliseconds at full power."""


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
    director: Director | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    keep_guarded: Callable[[], bool] = lambda: True,
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
    director : Director, optional
        Decides which images are taken; as the protocol plans without one.
    on_progress : callable
        Called after each site.
    keep_guarded : callable
        Called before each site, every few seconds, and where the process has to end at once: makes sure that a guard watches
        over it, and returns whether it does so already. No site is lit before.

    Returns
    -------
    AcquireResult
        Also when it failed: the reason is in it, and in `status/acquire.json`.

    Raises
    ------
    ProblemsError
        If the run's data on disk are not what its ledger says, another process drives the microscope, or the hardware is
        not what the profile says; no light was given then.
    """
    run.light_checks.cut_torn_line()
    cut = run.ledger.cut_torn_line()
    run.settle_visits()
    if cut:
        logger.warning("cut off %s bytes of a torn line from %s", cut, run.path)
    plate = run.plate(protocol, profile)
    records = run.ledger.read()
    refuse_a_ledger_that_forgets(run, plate, records, protocol.frames_per_site)
    check_last_sites(run, plate, records, protocol.frames_per_site)
    job = _Acquisition(protocol, profile, run, plate, records, on_progress, director, keep_guarded)
    job.write_status("running")
    try:
        with (
            microscope_lock(profile, profile_path),
            job.light_guard(core) as guard,
            job.pulse(),
        ):
            end, message = _acquired(job, core, profile_path, guard)
    except ProblemsError as error:
        job.write_status("failed", str(error.problems[0]))
        raise
    except (RuntimeError, OSError, ValueError) as error:
        logger.debug("the acquisition failed", exc_info=True)
        end, message = "failed", str(error)
    except BaseException as error:
        job.write_status("failed", f"{type(error).__name__}: {error}")  # never "running" after the end
        raise
    try:
        job.write_status(end, message)
    except OSError as error:  # a full disk: the reason of the end must not get lost over it
        logger.warning("the status could not be written: %s", error)
    return AcquireResult(end, message, job.progress())


def _acquired(
    job: _Acquisition, core: CMMCorePlus | None, profile_path: Path, guard: LightGuard
) -> tuple[EndReason, str]:
    """Acquire with the core that is given, or with one that is loaded for it and unloaded again."""
    if core is not None:
        return job.acquire(core, profile_path, guard)
    guard.watchdog.step("loading the hardware", _LOADS_S)
    opened = open_microscope(job.profile, profile_path, job.protocol)
    try:
        guard.take(opened)
        return job.acquire(opened, profile_path, guard)
    finally:
        try:
            guard.give_back()
        finally:
            guard.watchdog.step("unloading the hardware", _LOADS_S)
            close_microscope(opened)


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
        director: Director | None,
        keep_guarded: Callable[[], bool],
    ) -> None:
        self._director, self._keep_guarded = director, keep_guarded
        self.protocol, self.profile = protocol, profile
        self._run, self._plate = run, plate
        self._on_progress = on_progress
        self._finished = finished_sites(records, protocol.frames_per_site)
        self._attempts: dict[tuple[str, int, int], int] = {}
        for record in records:
            self._attempts[record.site_key] = max(record.attempt, self._attempts.get(record.site_key, 0))
        for visit in run.visits.read():  # a kill may have left no line of it in the ledger
            site = visit.well, visit.site, visit.t
            self._attempts[site] = max(visit.attempt, self._attempts.get(site, 0))
        current = [r for r in records if self._finished.get(r.site_key) == r.attempt]
        per_well = protocol.sites.count * protocol.time_points
        places = {well: protocol.plate.wells[well] for well in protocol.well_names}
        self._wells = {well: WellProgress(*place, per_well) for well, place in places.items()}
        for well, _, _ in self._finished:
            self._wells[well].sites_done += 1
        for record in current:
            self._wells[record.well].frames_skipped += record.state == "skipped"
        self._written = sum(r.state == "written" for r in current)
        self._skipped = sum(r.state == "skipped" for r in current)
        self._left_out, self._saved_ms = 0, 0.0
        self._count_left_out(current)
        self._flagged = self._saturated = 0
        self._saturated_levels: set[str] = set()
        self._count_odd(current)
        self._begun_at: dict[int, float] = {}
        for record in records:
            taken = datetime.fromisoformat(record.time).timestamp()
            self._begun_at[record.t] = min(taken, self._begun_at.get(record.t, taken))
        self._is_to_finish = self._is_to_stop = self._answered = False
        self._ended_by: Literal["", "request", "signal"] = ""
        self._dose_ms = run.sample_dose_ms()
        self._wrong_light = self._count_wrong_light()
        self._dark_in_a_row: list[FrameRecord] = []
        self._planned = per_well * len(places)
        self._begun = time.monotonic()
        self._paused_s = 0.0
        self._waiting, self._due = "", 0.0
        self._done_before = len(self._finished)
        self._last_site = ""
        self._engine: AcquisitionEngine | None = None
        self._watchdog: Watchdog | None = None
        self._make_dark: Callable[[], None] = lambda: None
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._status_lock = threading.Lock()
        self._state, self._message = "running", ""

    @contextmanager
    def light_guard(self, core: CMMCorePlus | None) -> Iterator[LightGuard]:
        """Own the light, and let the run folder say whether it may be on."""
        mark = self._run.light_mark
        guard = LightGuard(core, self.profile, self.asked_to_end, self.last_words, mark.write)
        self._watchdog, self._make_dark = guard.watchdog, guard.off
        self._watchdog.on_hang = self._device_is_silent
        mark.write(0)
        try:
            with guard:
                yield guard
        finally:
            mark.close()

    def acquire(self, core: CMMCorePlus, profile_path: Path, guard: LightGuard) -> tuple[EndReason, str]:
        """Compare the hardware with the profile, run the sequence on it, and return how it ended.

        Raises
        ------
        ProblemsError
            If the hardware is not what the profile says, or was opened with another protocol.
        """
        watchdog = guard.watchdog
        watchdog.step("comparing the hardware with the profile", _LOADS_S)
        found = check_hardware(core, self.protocol, self.profile, profile_path)
        if found.problems:
            raise ProblemsError(found.problems)
        for warning in found.warnings:
            logger.warning("%s", warning)
        recorder = Recorder(
            self._run,
            self._plate,
            compared=[level.name for level in self.protocol.levels_of(self.protocol.channel)],
            camera=self.profile.camera if self.profile.verification.light_check else None,
            on_site=self._site_done,
            on_wait=lambda: watchdog.step("waiting for the disk"),
        )
        self._engine = AcquisitionEngine(
            core,
            self.protocol,
            self.profile,
            recorder,
            watchdog,
            finished=frozenset(self._finished),
            attempts=self._attempts,
            sample_dose_ms=self._dose_ms,
            begun_at=self._begun_at,
            director=self._director,
            before_site=self._before_site,
            on_silence=self._device_is_silent,
            on_wait=self._wait_for_time_point,
        )
        self._tell_the_engine_to_end()  # a signal may have come before there was one
        if self._run.request() == "pause":
            logger.warning("it was paused, and still is: `scotopic ask %s resume` goes on", self._run.path)
        before = core.mda.set_engine(self._engine)
        try:
            # Where the system does not let a program keep it awake, the run goes on without a word: it resumes anyway.
            with keep.running(on_fail="pass"):
                try:
                    core.mda.run(self.protocol.to_sequence(self.profile))
                finally:
                    try:
                        guard.off()  # at once: the disk may keep us waiting
                    finally:
                        recorder.close()
                        if (left := self._engine.visit_left()) is not None:
                            self._run.visits.append([left])
        except BudgetUsedUpError as stop:
            return "budget_used_up", str(stop)
        except StoppedError as stop:
            if not self._engine.is_all_dark:
                return "cancelled", str(stop)
        finally:
            if before is not None:
                core.mda.set_engine(before)
        if self._engine.is_all_dark:  # it may have ended while it waited for the next time point
            return "failed", self._dark_told()
        self._wrong_light = self._count_wrong_light()
        if len(self._finished) < self._planned:
            return "cancelled", "the same command goes on from here"
        errors = []
        if self._skipped:
            errors.append(f"{self._skipped} frames were skipped, the ledger says why")
        if self._flagged:
            errors.append(f"{self._flagged} frames are flagged, the ledger says why")
        if self._wrong_light:
            errors.append(f"{self._wrong_light} frames have the wrong light by the images' proof, see light.jsonl")
        if lit := self._engine.times_found_lit:
            errors.append(
                f"{lit} times light was on before an exposure that nobody had asked for; it is not in the dose"
            )
        if errors:
            return "completed_with_errors", "; ".join(errors)
        return "completed", ""

    def asked_to_end(self, name: str) -> None:
        """First Ctrl-C: finish the site; a second one, or any other signal: stop before the next exposure.

        May be called by a signal handler: it only sets flags, which the engine and the pulse heed.
        """
        self._ended_by = self._ended_by or "signal"
        self._is_to_stop = self._is_to_stop or name != "SIGINT" or self._is_to_finish
        self._is_to_finish = True
        self._tell_the_engine_to_end()

    def _tell_the_engine_to_end(self) -> None:
        if self._engine is not None:
            self._engine.stop_now = self._engine.stop_now or self._is_to_stop
            self._engine.finish_after_site = self._engine.finish_after_site or self._is_to_finish

    def last_words(self, message: str, is_dark: bool) -> None:
        """Note how it ended, from another thread, where the process has to end at once.

        Where light may be on, it does not say that it has ended: a guard has to see to it.
        """
        if not is_dark:
            self._keep_guarded()
        self.write_status("failed" if is_dark else "interrupted", message)

    @contextmanager
    def pulse(self) -> Iterator[None]:
        """Beside the run: heed what others ask of it through the run folder, and keep the status's heart beating."""
        ended = threading.Event()

        def beat() -> None:
            for number in itertools.count():
                try:
                    self._answer_to_a_signal()
                    self._end_the_wait()
                    if number % _BEATS_PER_REQUEST == 0:
                        self._heed_requests()
                    self._count_waiting_as_life()
                    if number % _BEATS_PER_STATUS == 0:
                        self._keep_guarded()
                        self.write_status()
                except Exception:
                    logger.exception("the run goes on, but")  # whatever it is, a later beat may fare better
                if ended.wait(BEAT_S):
                    return

        thread = threading.Thread(target=beat, name="pulse", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _answer_to_a_signal(self) -> None:
        """Say at once what a signal has led to: the handler itself may touch no stream."""
        if self._is_to_finish and not self._answered:
            self._answered = True
            what = (
                "stopping before the next exposure"
                if self._is_to_stop
                else "finishing this site; Ctrl-C again stops at once"
            )
            logger.warning("asked to end: %s", what)

    def _count_waiting_as_life(self) -> None:
        """While the runner of pymmcore-plus waits, or was paused, its thread says nothing, and does not hang."""
        engine, watchdog = self._engine, self._watchdog
        if engine is None or watchdog is None:
            return
        phase = engine.mmcore.mda.status.phase
        if phase == RunState.PAUSED or (phase == RunState.WAITING and self._waiting):
            watchdog.step("waiting")

    def _end_the_wait(self) -> None:
        """Where the run is to end, end the wait for the next time point as well."""
        engine = self._engine
        if engine is None or not (engine.finish_after_site or engine.is_all_dark):
            return
        runner = engine.mmcore.mda
        if runner.status.phase in _WAITING and (engine.stop_now or engine.is_between_sites):
            runner.cancel()

    def _heed_requests(self) -> None:
        match self._run.request():
            case "finish":
                self._ended_by = "request"
                self._is_to_finish = True
                self._tell_the_engine_to_end()
            case "cancel":
                self._ended_by = "request"
                self._is_to_finish = self._is_to_stop = True
                self._tell_the_engine_to_end()
            case "resume":
                pass
            case _:
                return
        self._run.forget_request()

    def _before_site(self, t: int) -> None:
        self._wait_for_the_guard()
        self._wait_while_paused()
        if (
            self.profile.simulator and self.protocol.time_lapse and self._engine
        ):  # its nuclei live by the protocol's clock
            hours = t * self.protocol.time_lapse.interval_s / 3600
            self._engine.mmcore.setProperty(self.profile.simulator.hub, "Time_h", hours)

    def _wait_for_the_guard(self) -> None:
        """Wait in the dark until a guard watches: it takes seconds to load, after which it can help within one.

        Raises
        ------
        RuntimeError
            If none comes.
        """
        until = time.monotonic() + _GUARD_COMES_S
        while not self._keep_guarded():
            if time.monotonic() > until:
                raise RuntimeError(
                    f"no guard watches over the light, {_GUARD_COMES_S:g} s after it was begun: see run.log"
                )
            if self._watchdog is not None:
                self._watchdog.step("waiting for the guard")
            time.sleep(5 * BEAT_S)

    def _wait_while_paused(self) -> None:
        """Wait between two sites, in the dark, for as long as there is a reason to."""
        self._waiting = ""
        paused, since = "", time.monotonic()
        while (reason := self._reason_to_pause()) and self._engine and not self._engine.finish_after_site:
            if reason != paused:
                self._make_dark()
                paused = reason
                self._state, self._message = "paused", reason
                self._tell()
            if self._watchdog is not None:
                self._watchdog.step("paused")
            time.sleep(5 * BEAT_S)
        if paused:
            self._paused_s += time.monotonic() - since
            self._state, self._message = "running", ""
            self._tell()

    def _wait_for_time_point(self, t: int, due: float) -> None:
        lapse = self.protocol.time_lapse
        count, self._due = lapse.count if lapse else 1, due
        self._waiting = f"waiting for time point {t + 1} of {count}, at {_clock(due)}"
        self._tell()

    def _waiting_told(self) -> str:
        """Return what is waited for; when all is done is known once the first site is."""
        left = self._seconds_left() if self._waiting else None
        return self._waiting + ("" if left is None else f"; done at about {_clock(time.time() + left)}")

    def _device_is_silent(self, what: str) -> None:
        self._message = what
        self._tell()

    def _reason_to_pause(self) -> str:
        if self._run.free_bytes() < DISK_RESERVE_BYTES:
            return (
                f"less than {DISK_RESERVE_BYTES / 1e9:g} GB are free on the disk of {self._run.path}; the light is off"
            )
        return "as asked; the light is off" if self._run.request() == "pause" else ""

    def _count_wrong_light(self) -> int:
        verdicts = light_verdicts(self._run.light_checks.read(), self._finished)
        return sum(verdict == "wrong" for verdict in verdicts.values())

    def _site_done(self, site: SiteRecord) -> None:
        """Count what has become of a site, in the recorder's thread."""
        last = site.records[-1]
        self._finished[last.site_key] = last.attempt
        self._last_site = f"{last.well}_{last.site}"
        well = self._wells[last.well]
        well.sites_done += 1
        well.frames_skipped += sum(r.state == "skipped" for r in site.records)
        for check in site.light:
            if check.verdict == "wrong":
                self._wrong_light += 1
                logger.warning("%s of %s: %s", check.level, self._last_site, check.told())
        self._heed_darkness(site)
        self._count_odd(site.records)
        self._written += sum(r.state == "written" for r in site.records)
        self._skipped += sum(r.state == "skipped" for r in site.records)
        self._count_left_out(site.records)
        if self._state == "running":
            self._message = ""  # a camera that was silent has answered
        self._tell()

    def _heed_darkness(self, site: SiteRecord) -> None:
        """End a run whose bright images are all dark: if the light reaches the sample and not the camera, it is lit for nothing."""
        reference = self.protocol.reference.name
        if any(check.level == reference and check.verdict == "wrong" for check in site.light):
            self._dark_in_a_row.append(site.records[-1])
        elif any(r.level == reference and r.state == "written" for r in site.records):
            self._dark_in_a_row.clear()
        if self._engine is not None and len(self._dark_in_a_row) >= self.profile.verification.stop_after_failures:
            self._engine.is_all_dark = True

    def _dark_told(self) -> str:
        points: dict[int, list[str]] = {}
        for last in self._dark_in_a_row:
            points.setdefault(last.t, []).append(f"{last.well}_{last.site}")
        commands = [
            f'scotopic retake "{self._run.path}" {" ".join(names)}' + (f" --time-point {t}" if t else "")
            for t, names in points.items()
        ]
        return (
            f"stopped after the bright images of {len(self._dark_in_a_row)} sites in a row were dark: lamp, shutter or light path? "
            f"When it is mended: {'; '.join(commands)}; then the same command goes on"
        )

    def _count_left_out(self, records: Iterable[FrameRecord]) -> None:
        """Count frames that were left out, and the light that rules have saved by it."""
        levels = {level.name: level for level in self.protocol.light_levels}
        for record in records:
            if record.state != "left_out":
                continue
            self._left_out += 1
            level, per_site = levels[record.level], self.protocol.frames_per_site
            place = record.index // per_site % self.protocol.n_sites
            if self.protocol.is_planned(level, record.well, place, record.t):
                lit_ms = level.exposure_ms + self.profile.gating.overhead_ms
                source = self.profile.light_source(self.protocol.channel_of(level))
                self._saved_ms += lit_ms * source.relative_power(level.led_percent)

    def _count_odd(self, records: Iterable[FrameRecord]) -> None:
        """Count frames that are flagged or saturated, and say the latter while it can still be mended: once a level."""
        full = self.profile.camera.saturation_counts
        for record in records:
            self._flagged += record.state == "written" and bool(record.reason)
            if record.percentiles and record.percentiles[-1] >= full:
                self._saturated += 1
                if record.level not in self._saturated_levels:
                    self._saturated_levels.add(record.level)
                    logger.warning(
                        "%s of %s_%s is saturated: a thousandth of its pixels or more are at %s counts, what is brighter "
                        "cannot be measured; less exposure or LED power would help",
                        record.level,
                        record.well,
                        record.site,
                        full,
                    )

    def _tell(self) -> None:
        """Tell status and display how far it is; what goes wrong with that must not end the run."""
        try:
            self.write_status()
            self._on_progress(self.progress())
        except Exception:
            logger.exception("the run goes on, but its state could not be told")

    def _dose_so_far(self) -> float:
        return self._engine.sample_dose_ms if self._engine else self._dose_ms

    def _seconds_left(self) -> float | None:
        """Return how long the rest will take: its imaging as long as that of the sites before, and no time point early."""
        now, left = len(self._finished) - self._done_before, self._planned - len(self._finished)
        if not now:
            return None
        engine = self._engine
        waited_s = engine.waited_s if engine else 0.0  # what is still to be waited for is in it
        waited_s -= max(0.0, self._due - time.time())
        a_site_s = max(0.0, time.monotonic() - self._begun - self._paused_s - waited_s) / now
        due = engine.last_point_due if engine else None
        if due is None:
            return left * a_site_s
        of_the_last_point = min(left, self._planned // self.protocol.time_points)
        return max(left * a_site_s, due - time.time() + of_the_last_point * a_site_s)

    def progress(self) -> Progress:
        """Return how far it is."""
        done = len(self._finished)
        camera = self.profile.camera
        frames_left = self.protocol.n_frames - self._written - self._skipped - self._left_out
        return Progress(
            sites_done=done,
            sites_planned=self._planned,
            frames_written=self._written,
            frames_skipped=self._skipped,
            sample_dose_ms=self._dose_so_far(),
            last_site=self._last_site,
            seconds_left=self._seconds_left(),
            bytes_left=frames_left * camera.width_px * camera.height_px * 2,
            wells=self._wells,
            frames_flagged=self._flagged,
            frames_saturated=self._saturated,
            paused=self._message if self._state == "paused" else "",
            waiting=self._waiting_told(),
            frames_left_out=self._left_out,
            saved_dose_ms=self._saved_ms,
        )

    def _silence(self) -> tuple[float, str]:
        """Return when the main thread was last known not to hang (seconds since the epoch), and what it does since then."""
        now, watchdog = time.time(), self._watchdog
        if watchdog is None or self._state not in {"running", "paused"}:
            return now, ""
        silent_s = now - watchdog.alive_at
        told = f"no answer for {silent_s:.0f} s: {watchdog.step_name}" if silent_s > _ANSWERS_S else ""
        return watchdog.alive_at, told

    def write_status(self, state: str | None = None, message: str = "") -> None:
        """Write `status/acquire.json`: with another state, or only what has changed meanwhile."""
        with self._status_lock:
            if state is not None:
                self._state, self._message = state, message
                self._waiting = ""
            progress = self.progress()
            alive_at, silence = self._silence()
            self._run.write_status(
                "acquire",
                state=self._state,
                message=self._message or silence,
                heartbeat=datetime.fromtimestamp(alive_at, UTC).isoformat(timespec="milliseconds"),
                ended_by=self._ended_by,
                started=self._started,
                sites={"planned": progress.sites_planned, "finished": progress.sites_done},
                frames={
                    "planned": self.protocol.n_frames,
                    "written": self._written,
                    "skipped": self._skipped,
                    "left_out": self._left_out,
                    "flagged": self._flagged,
                    "saturated": self._saturated,
                },
                wrong_light=self._wrong_light,
                times_found_lit=self._engine.times_found_lit if self._engine else 0,
                sample_dose_ms=round(progress.sample_dose_ms, 3),
                seconds_left=None if progress.seconds_left is None else round(progress.seconds_left),
                waiting=progress.waiting,
                bytes_left=progress.bytes_left,
                seeds=_seeds(self.protocol, self.profile),
                versions=_versions(),
            )


def _clock(moment: float) -> str:
    """Return a moment (seconds since the epoch) as a local time; with the day, if that is another one."""
    there, now = datetime.fromtimestamp(moment).astimezone(), datetime.now().astimezone()
    return f"{there:%H:%M:%S}" if there.date() == now.date() else f"{there:%a %d %b, %H:%M}"


def _seeds(protocol: ImagingProtocol, profile: MicroscopeProfile) -> dict[str, int]:
    """Return every seed that the data follow from."""
    seeds = profile.simulator.seeds if profile.simulator else {}
    return seeds | ({"sites": protocol.sites.seed} if isinstance(protocol.sites, RandomSites) else {})


@cache
def _versions() -> dict[str, str]:
    names = ("scotopic", "pymmcore-plus", "pymmcore", "zarr", "useq-schema")
    return {name: version(name) for name in names} | {"python": sys.version.split()[0]}
