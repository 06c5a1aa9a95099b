from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import psutil
from pymmcore_plus.mda import MDAEngine, SkipEvent
from pymmcore_plus.mda._engine import ImagePayload

from scotopic.microscope.core import LightOnError, lights_on, switch_light_off
from scotopic.microscope.director import AsPlanned, Place, SiteKey
from scotopic.microscope.exposure import (
    ExposureFailedError,
    NotAsAskedError,
    OutOfFocusError,
    autofocus,
    check_position,
    expose,
    go_to,
    lit_limit_s,
    set_filters,
    set_level,
)
from scotopic.microscope.watchdog import HungError
from scotopic.protocol import HardwareFocus, rounded
from scotopic.store import FrameRecord, VisitRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from pymmcore_plus import CMMCorePlus
    from pymmcore_plus.mda._protocol import PImagePayload
    from pymmcore_plus.metadata import SummaryMetaV1
    from useq import MDAEvent, MDASequence

    from scotopic.microscope.director import Director
    from scotopic.microscope.watchdog import Watchdog
    from scotopic.protocol import ImagingProtocol, LightLevel, LightSource, MicroscopeProfile
    from scotopic.store import Recorder

logger = logging.getLogger(__name__)

_PAUSE_S = 1.0
"""What takes longer between two sites was a pause."""
_AUTOFOCUS_S = 60.0
"""Longest time of one attempt of an autofocus."""


class StoppedError(Exception):
    """The run ends before its plan is done, because someone asked for it."""


class MovedError(RuntimeError):
    """Something has moved stage or Z drive since the site was begun: its images would not show the same place."""


class FocusLostError(RuntimeError):
    """The focus is lost, and the protocol says to stop then."""


class BudgetUsedUpError(StoppedError):
    """The run ends before its plan is done, because more light than the budget would be given."""


@dataclass
class SiteVisit:
    """What has become of the site that is being imaged."""

    place: Place
    xy_um: tuple[float, float]
    z_um: float | None
    reached: bool = False
    skip_reason: str = ""
    """Set once nothing more of this site is to be exposed."""
    flag: str = ""
    """What is odd about every frame of this visit."""
    focus: Literal["not asked", "ok", "failed"] = "not asked"
    frames_done: int = 0
    """Frames taken or skipped."""
    failed: bool = False
    """Whether a frame was skipped."""
    focused_at_um: float | None = None
    """Where the Z drive stood when the site was reached and focused; nothing where nobody knows where it should be."""
    moved: str = ""
    """Set once the site is to be taken anew from its first level: something has moved it under the objective, or a rule asks."""
    left_out: str = ""
    """Set where nothing of the site is wanted."""

    @property
    def key(self) -> SiteKey:
        """Well, site and time point."""
        return self.place.key

    @property
    def attempt(self) -> int:
        """Which visit of the site this is."""
        return self.place.attempt


class AcquisitionEngine(MDAEngine):
    """Runs a protocol's sequence: verify, expose, read back, store; or skip with a reason.

    Storing is part of executing an event, so that a write error stops the run (the runner swallows what an output
    handler raises): a frame goes to the recorder, and the light of the next one waits until its pixels are written.
    Frames are addressed by well, site, level, time and plane, never by order.
    """

    def __init__(
        self,
        core: CMMCorePlus,
        protocol: ImagingProtocol,
        profile: MicroscopeProfile,
        recorder: Recorder,
        watchdog: Watchdog,
        *,
        finished: Collection[SiteKey],
        attempts: dict[SiteKey, int],
        sample_dose_ms: float = 0,
        begun_at: dict[int, float] | None = None,
        director: Director | None = None,
        before_site: Callable[[int], None] = lambda _: None,
        on_silence: Callable[[str], None] = lambda _: None,
        on_wait: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        """Prepare a run.

        Parameters
        ----------
        recorder : Recorder
            Takes the frames. It stays the caller's to close, after the run.
        watchdog : Watchdog
            Hears of each step, and of each light before it goes on. Begun and ended by the caller.
        finished : collection of (well, site, t)
            Sites that are never exposed again.
        attempts : dict of (well, site, t) to int
            Visits that the ledger knows of already.
        sample_dose_ms : float
            Light that the sample has got so far.
        begun_at : dict of t to float, optional
            When an earlier acquisition into this run has begun its time points, in seconds since the epoch.
        director : Director, optional
            Decides which images are taken; as the protocol plans without one.
        before_site : callable
            Called with the time point before the stage moves to a site. It may wait, for as long as the run is to pause, or raise.
        on_silence : callable
            Told, from another thread, when a device does not answer while light may be on.
        on_wait : callable
            Told the time point that is waited for, and when it is due (seconds since the epoch).
        """
        super().__init__(core, use_hardware_sequencing=False, restore_initial_state=False)
        self._protocol = protocol
        self._profile = profile
        self._sources = {
            level.name: profile.light_source(protocol.channel_of(level)) for level in protocol.light_levels
        }
        self._levels = {level.name: level for level in protocol.light_levels}
        self._recorder = recorder
        self._watchdog = watchdog
        self._finished = finished
        self._attempts = attempts
        self._sample_dose_ms = sample_dose_ms
        self._begun_at = dict(begun_at or {})
        self._director = director or AsPlanned(protocol)
        self._decision = ""
        self._before_site = before_site
        self._fresh_point: int | None = None
        self._on_silence = on_silence
        self._on_wait = on_wait
        self._visit: SiteVisit | None = None
        self._times_moved: dict[SiteKey, int] = {}
        self._read_back = (0.0, 0.0)
        self._lit_before_ms = self._lit_after_ms = 0.0
        self._lit_since: float | None = None
        self._position = (0.0, 0.0, 0.0)
        self._sites_failed_in_a_row = 0
        self._autoshutter_before = core.getAutoShutter()
        self.finish_after_site = False
        """Set it to end the run when the present site is done."""
        self.times_found_lit = 0
        """How often light was on that nobody had asked for; how much of it the sample got nobody knows."""
        self.stop_now = False
        """Set it to end the run before the next exposure."""
        self.is_all_dark = False
        """Set it to end the run before the next exposure because its images are dark."""
        self.waited_s = 0.0
        """Time that was, or is to be, waited for time points until now."""

    # ------------------------------------------------------------------ pymmcore-plus' protocol of an engine

    def setup_sequence(self, sequence: MDASequence) -> SummaryMetaV1 | None:
        """Take the light into our own hands for the run."""
        summary = super().setup_sequence(sequence)
        self._autoshutter_before = self.mmcore.getAutoShutter()
        self.mmcore.setAutoShutter(False)
        return summary

    def event_iterator(self, events: Iterable[MDAEvent]) -> Iterator[MDAEvent]:
        """Yield the events of the sites that are not finished, and those of a site again that is to be taken anew."""
        for key, group in groupby(events, self._key):
            if key in self._finished:
                continue
            site = tuple(group)
            anew = True
            while anew:
                yield from self._timed(site)
                anew = self._leave_if_moved()
        self._recorder.wait_for_pixels()

    def _timed(self, site: tuple[MDAEvent, ...]) -> Iterator[MDAEvent]:
        """Yield the events of a site; the first one of a time point waits until it is due.

        The clock is that of the whole run, whoever was interrupted meanwhile. What is late is taken at once, and the next
        time point comes a full interval later: no burst.
        """
        lapse = self._protocol.time_lapse
        if lapse is None:
            yield from site
            return
        t = site[0].index.get("t", 0)
        wait_s = 0.0
        if t not in self._begun_at:
            now = time.time()
            due = [first + (t - earlier) * lapse.interval_s for earlier, first in self._begun_at.items()]
            self._begun_at[t] = max(due, default=now)
            wait_s = max(0.0, self._begun_at[t] - now)
            self._begun_at[t] = now + wait_s
            self._fresh_point = t
            if wait_s:
                self.waited_s += wait_s
                self._on_wait(t, now + wait_s)
        for number, event in enumerate(site):
            start = self.mmcore.mda.event_seconds_elapsed() + wait_s if wait_s and number == 0 else None
            yield event.model_copy(update={"min_start_time": start, "reset_event_timer": False})

    def _leave_if_moved(self) -> bool:
        """End a visit that something has moved; return whether the site is to be taken anew."""
        visit = self._visit
        if visit is None or not visit.moved:
            return False
        self._recorder.leave_visit(self._planned(visit).model_copy(update={"left": True}))
        self._attempts[visit.key] = visit.attempt
        self._times_moved[visit.key] = self._times_moved.get(visit.key, 0) + 1
        self._visit = None
        return True

    def setup_event(self, event: MDAEvent) -> None:
        """Bring the hardware into the state that an event asks for, and read it back.

        Raises
        ------
        SkipEvent
            If it is not in that state after all retries; the frame's ledger line says why.
        StoppedError
            If someone has asked the run to end, or the next site would exceed the light budget.
        """
        self._watchdog.step("a new frame")
        if self._visit is None or self._visit.key != self._key(event):
            self._visit = self._new_visit(event)
        self._stop_if_asked()
        visit = self._visit
        if visit.left_out:
            if event.action is None or event.action.type != "hardware_autofocus":
                self._leave_out(visit, event, visit.left_out)
            raise SkipEvent(reason=visit.left_out)
        self._reach(visit)
        if event.action is not None and event.action.type == "hardware_autofocus":
            return
        if visit.moved:
            raise SkipEvent(reason=visit.moved)
        if not visit.skip_reason:
            self._decide(visit, event)
            try:
                self._verify_or_flag(visit, event)
                return
            except FocusLostError:
                raise
            except MovedError as error:
                visit.moved = str(error)
                logger.warning("%s_%s is taken anew: %s", *visit.key[:2], error)
                raise SkipEvent(reason=str(error)) from error
            except RuntimeError as error:
                self._skip(visit, event, str(error), still_on=error if isinstance(error, LightOnError) else None)
                raise SkipEvent(reason=str(error)) from error
        self._skip(visit, event, visit.skip_reason)
        raise SkipEvent(reason=visit.skip_reason)

    def _decide(self, visit: SiteVisit, event: MDAEvent) -> None:
        """Ask whether an image is to be taken at all.

        Raises
        ------
        SkipEvent
            If it is not.
        """
        self._await_decision()
        decision = self._director.level(visit.place, self._level(event))
        self._stop_if_asked()  # it may have waited
        if decision.anew:
            visit.moved = decision.reason
            logger.warning("%s_%s is taken anew: %s", *visit.key[:2], decision.reason)
        elif not decision.taken:
            self._leave_out(visit, event, decision.reason)
        else:
            self._decision = decision.reason
            return
        raise SkipEvent(reason=decision.reason)

    def exec_event(self, event: MDAEvent) -> Iterator[PImagePayload]:
        """Autofocus; or expose, store and note one frame."""
        visit = self._visit
        if visit is None:
            raise RuntimeError("an event was executed that had not been set up")
        if event.action is not None and event.action.type == "hardware_autofocus":
            self._focus(visit)
            return
        self._recorder.wait_for_pixels()
        self._stop_if_asked()  # to get here may have taken seconds
        # Before the site there was light enough for all of it; hangs and retries may have cost some since.
        self._keep_to_the_budget(self._planned_dose_ms(self._level(event)), "exposure")
        self._lit_before_ms, self._lit_since, self._lit_after_ms = 0.0, None, 0.0
        try:
            self._recorder.exposing(self._exposing(visit, event))
            self._retried(lambda: self._light(visit, event))
            exposure = expose(self.mmcore, self._profile, self._watchdog)
        except Exception as error:  # whatever it is: first of all it is dark again, then the light is noted
            failed_at = time.perf_counter()
            still_on = self._dark_again()
            is_stopped = isinstance(error, StoppedError)
            if is_stopped and not self._lit_before_ms:
                raise
            lit_ms = self._lit_before_ms + self._lit_after_ms
            if isinstance(error, ExposureFailedError):
                lit_ms += error.lit_ms + self._lit_until_ms(error.begun_at)
            else:
                lit_ms += self._lit_until_ms(failed_at)
            power = self._source(event).relative_power(self._level(event).led_percent)
            self._skip(visit, event, str(error), sample_dose_ms=round(lit_ms * power, 6), still_on=still_on)
            if is_stopped:
                raise
            return
        lit_ms = exposure.lit_ms + self._lit_until_ms(exposure.begun_at)
        still_on = self._dark_again()
        # Nothing that a device says from here on may lose the frame.
        led_read, exposure_read = self._read_back
        power = self._source(event).relative_power(led_read)
        channel = self._protocol.channel_of(self._level(event))
        record = FrameRecord(
            **self._asked(visit, event),
            state="written",
            reason=visit.flag,
            decision=self._decision,
            exposure_read_ms=exposure_read,
            led_read_percent=round(led_read, 4),
            xy_read_um=(round(self._position[0], 2), round(self._position[1], 2)),
            z_read_um=round(self._position[2], 3),
            signal_dose_ms=round(self._profile.signal_ms(channel, exposure_read, led_read), 6),
            sample_dose_ms=round((self._lit_before_ms + lit_ms + self._lit_after_ms) * power, 6),
        )
        image = exposure.image.astype(np.uint16, copy=False)
        image.flags.writeable = False  # listeners get the same array while it is being written
        self._count(visit, record)
        if self._is_done(visit) and not visit.failed:
            self._sites_failed_in_a_row = 0
        self._recorder.frame(record, image, last=self._is_done(visit))
        self._director.frame(visit.place, record, image)
        if still_on is not None:
            raise still_on
        try:
            meta = self.get_frame_metadata(event, runner_time_ms=time.perf_counter() * 1000)
        except RuntimeError:
            logger.exception("no metadata for those who listen; the frame is recorded")
            return
        yield ImagePayload(image, event, meta)  # type: ignore[misc] # a MutableMapping, says pymmcore-plus

    def teardown_event(self, event: MDAEvent) -> None:
        """Do nothing: the light went off with the exposure, and autoshutter stays ours until the end."""

    def teardown_sequence(self, sequence: MDASequence) -> None:
        """Give autoshutter back."""
        self.mmcore.setAutoShutter(self._autoshutter_before)
        super().teardown_sequence(sequence)

    def _stop_if_asked(self) -> None:
        if self.is_all_dark:
            raise StoppedError("the bright images are dark")
        if self.stop_now:
            raise StoppedError("stopped at once, as asked; the same command goes on from here")

    @property
    def is_between_sites(self) -> bool:
        """Whether no site is under way, for example in the pause between two time points."""
        return self._visit is None or self._is_done(self._visit)

    @property
    def last_point_due(self) -> float | None:
        """When the last time point is due as far as one knows, in seconds since the epoch; nothing without a time lapse."""
        lapse = self._protocol.time_lapse
        if lapse is None or not self._begun_at:
            return None
        latest = max(self._begun_at)
        return self._begun_at[latest] + (lapse.count - 1 - latest) * lapse.interval_s

    @property
    def sample_dose_ms(self) -> float:
        """Light that the sample has got so far, in milliseconds at full power."""
        return self._sample_dose_ms

    def _is_done(self, visit: SiteVisit) -> bool:
        return visit.frames_done == self._protocol.frames_per_site

    def _count(self, visit: SiteVisit, record: FrameRecord) -> None:
        visit.frames_done += 1
        self._sample_dose_ms += record.sample_dose_ms

    def _stay_within_the_budget(self, place: Place) -> None:
        protocol = self._protocol
        planned = [
            level for level in protocol.light_levels if protocol.is_planned(level, place.key[0], place.number, place.t)
        ]
        site_ms = protocol.planes * sum(self._planned_dose_ms(level) for level in planned)
        self._keep_to_the_budget(site_ms, "site")

    def _keep_to_the_budget(self, next_ms: float, what: str) -> None:
        budget_s = self._protocol.light_budget_s
        if budget_s is not None and self._sample_dose_ms + next_ms > budget_s * 1000:
            raise BudgetUsedUpError(
                f"the next {what} would exceed the light budget of {budget_s:g} s; "
                f"{rounded(self._sample_dose_ms / 1000)} s at full power have been given"
            )

    def _planned_dose_ms(self, level: LightLevel) -> float:
        lit_ms = level.exposure_ms + self._profile.gating.overhead_ms
        return round(lit_ms * self._sources[level.name].relative_power(level.led_percent), 6)

    # ------------------------------------------------------------------ a site

    def _key(self, event: MDAEvent) -> SiteKey:
        well, _, site = (event.pos_name or "").rpartition("_")
        return well, int(site), event.index.get("t", 0)

    def _new_visit(self, event: MDAEvent) -> SiteVisit:
        """Begin a site, if the run is to go on at all."""
        paused_at = time.time()
        t = event.index.get("t", 0)
        self._before_site(t)
        if self._fresh_point == t and time.time() - paused_at > _PAUSE_S:
            self._begun_at[t] = time.time()  # it was paused: the next time point comes a full interval from now
        self._fresh_point = None
        if self.finish_after_site:
            raise StoppedError("finished after the site, as asked; the same command goes on from here")
        key = self._key(event)
        place = Place(key, self._attempts.get(key, 0) + 1, event.index.get("p", 0))
        xy_um = (event.x_pos or 0.0, event.y_pos or 0.0)
        self._await_decision()
        visit = SiteVisit(place, xy_um, event.z_pos, left_out=self._director.site(place))
        if visit.left_out:
            return visit
        self._stay_within_the_budget(place)
        self._recorder.open_visit(self._planned(visit), xy_um, event.z_pos)  # while the stage moves
        return visit

    def _planned(self, visit: SiteVisit) -> VisitRecord:
        well, site, t = visit.key
        doses = {level.name: self._planned_dose_ms(level) for level in self._protocol.light_levels}
        return VisitRecord(
            well=well, site=site, t=t, attempt=visit.attempt, frame_dose_ms=doses, boot=psutil.boot_time()
        )

    def _exposing(self, visit: SiteVisit, event: MDAEvent) -> VisitRecord:
        well, site, t = visit.key
        level, z = self._level(event).name, event.index.get("z", 0)
        return VisitRecord(well=well, site=site, t=t, attempt=visit.attempt, level=level, z=z)

    def visit_left(self) -> VisitRecord | None:
        """Return the line that ends the visit under way, if one is: each of its frames has its line in the ledger."""
        if self._visit is None or self._is_done(self._visit):
            return None
        return self._planned(self._visit).model_copy(update={"left": True})

    def _reach(self, visit: SiteVisit) -> None:
        """Go to the site, once."""
        if visit.reached or visit.skip_reason:
            return
        try:
            self._retried(lambda: go_to(self.mmcore, self._profile, visit.xy_um, visit.z_um))
            visit.reached = True
        except OutOfFocusError as error:
            self._apply_focus_policy(visit, str(error))
            visit.reached = not visit.skip_reason
        except RuntimeError as error:
            visit.skip_reason = str(error)

    def _focus(self, visit: SiteVisit) -> None:
        focus = self._protocol.focus
        if visit.skip_reason or not isinstance(focus, HardwareFocus):
            return
        try:
            self._watchdog.step("autofocus", focus.retries * _AUTOFOCUS_S)
            autofocus(self.mmcore, self._profile, focus.retries)
            visit.focus = "ok"
            visit.focused_at_um = self.mmcore.getZPosition()
        except RuntimeError as error:
            visit.focus = "failed"
            self._apply_focus_policy(visit, f"autofocus failed: {error}")

    def _apply_focus_policy(self, visit: SiteVisit, what: str) -> None:
        policy = getattr(self._protocol.focus, "on_failure", "skip_site")
        if policy == "stop":
            raise FocusLostError(what)
        if policy == "skip_site":
            visit.skip_reason = what
        else:
            visit.flag = what

    def _verify_or_flag(self, visit: SiteVisit, event: MDAEvent) -> None:
        """Verify; a height that is lost and cannot be had again is a case for the focus policy, as on arrival."""
        try:
            self._retried(lambda: self._verify(visit, event))
        except OutOfFocusError as error:
            if visit.skip_reason:
                raise
            self._apply_focus_policy(visit, str(error))
            if not visit.flag:
                raise
            self._retried(lambda: self._verify(visit, event))

    def _verify(self, visit: SiteVisit, event: MDAEvent) -> None:
        if self._protocol.z_stack is not None and event.z_pos is not None:
            self.mmcore.setZPosition(event.z_pos)
            self.mmcore.waitForDevice(self._profile.stage.z_device)
        z_um = event.z_pos if event.z_pos is not None else visit.focused_at_um
        try:
            self._position = check_position(self.mmcore, self._profile, visit.xy_um, None if visit.flag else z_um)
        except NotAsAskedError as error:
            self._position = self._regained(visit, z_um, error)
        self._make_sure_that_it_is_dark()
        exposure_ms = set_filters(self.mmcore, self._profile, self._level(event))
        self._read_back = 0.0, exposure_ms

    def _regained(self, visit: SiteVisit, z_um: float | None, error: NotAsAskedError) -> tuple[float, float, float]:
        """Command a position again that was lost since it was reached; return it, if the site had not begun.

        Raises
        ------
        MovedError
            If it had: then it is to be taken anew.
        NotAsAskedError
            If it is lost again and again.
        """
        logger.warning("%s_%s was reached, but now %s", *visit.key[:2], error)
        if self._times_moved.get(visit.key, 0) >= self._profile.verification.retries:
            visit.skip_reason = f"moved by something again and again: {error}"
            raise NotAsAskedError(visit.skip_reason) from error
        if visit.frames_done:
            raise MovedError(str(error)) from error
        go_to(self.mmcore, self._profile, visit.xy_um, z_um)
        return check_position(self.mmcore, self._profile, visit.xy_um, z_um)

    def _make_sure_that_it_is_dark(self) -> None:
        """Before a level is set nothing may be on: a listener, a preset or a person may have switched on a light."""
        self._watchdog.darkens()
        if found := list(lights_on(self.mmcore, self._profile)):
            self.times_found_lit += 1
            logger.warning("before an exposure was light on that nobody had asked for: %s", "; ".join(found))
            switch_light_off(self.mmcore, self._profile)
        self._watchdog.dark()

    @property
    def _setting_is_lighting(self) -> bool:
        """Whether a level that is set lights the sample."""
        return self._profile.gating.how == "software"

    def _light(self, visit: SiteVisit, event: MDAEvent) -> None:
        """Set the level of an event, last of all before its exposure; if that fails, all is off again.

        From here on light may be on, until `_dark_again` has read back that it is not.
        """
        level, source = self._level(event), self._source(event)
        self._watchdog.expect_light(
            lit_limit_s(self._profile, source, level.exposure_ms),
            lambda told: self._is_silent(visit, event, told),
            power=source.relative_power(level.led_percent),
            reaches_sample=self._setting_is_lighting,
        )
        begun = time.perf_counter()
        try:
            led_percent = set_level(self.mmcore, self._profile, source, level)
        except RuntimeError:
            try:
                self._watchdog.darkens()
                switch_light_off(self.mmcore, self._profile)
            finally:
                dark_at = self._watchdog.dark_at or time.perf_counter()
                self._lit_before_ms += (dark_at - begun) * 1000 * self._setting_is_lighting
            self._watchdog.dark()
            raise
        self._read_back = led_percent, self._read_back[1]
        self._lit_since = begun if self._setting_is_lighting else None

    def _lit_until_ms(self, moment: float) -> float:
        """Return how long the sample has been lit, since its level was set, until a moment (`time.perf_counter`)."""
        return 0.0 if self._lit_since is None else (moment - self._lit_since) * 1000

    def _retried(self, action: Callable[[], None]) -> None:
        verification = self._profile.verification
        for attempt in range(verification.retries + 1):
            self._stop_if_asked()
            self._watchdog.step("setting a frame up", self._set_up_s)
            try:
                action()
                return
            except (LightOnError, MovedError, HungError):
                raise
            except RuntimeError:
                if attempt == verification.retries:
                    raise
                time.sleep(verification.retry_delay_ms / 1000)

    @property
    def _set_up_s(self) -> float:
        """How long one attempt to set something up may take in the dark: XY and Z may each take MMCore's timeout."""
        return (2 * self.mmcore.getTimeoutMs() + self._profile.verification.retry_delay_ms) / 1000

    def _await_decision(self) -> None:
        """Say that the director may wait for a result, as long as the protocol allows."""
        live = self._protocol.live
        self._watchdog.step("waiting for a live result", live.rules.wait_s if live else 0.0)

    # ------------------------------------------------------------------ the ledger

    def _level(self, event: MDAEvent) -> LightLevel:
        if event.channel is None:
            raise ValueError("an event without a light level: the sequence is not one of ImagingProtocol.to_sequence")
        return self._levels[event.channel.config]

    def _source(self, event: MDAEvent) -> LightSource:
        return self._sources[self._level(event).name]

    def _asked(self, visit: SiteVisit, event: MDAEvent) -> dict[str, Any]:
        level = self._level(event)
        well, site, t = visit.key
        z = event.index.get("z", 0)
        return {
            "index": self._index(event),
            "well": well,
            "site": site,
            "level": level.name,
            "t": t,
            "z": z,
            "attempt": visit.attempt,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "exposure_ms": level.exposure_ms,
            "led_percent": level.led_percent,
            "xy_um": visit.xy_um,
            "z_um": event.z_pos,
            "focus": visit.focus,
        }

    def _index(self, event: MDAEvent) -> int:
        planes = self._protocol.planes
        per_time = self._protocol.n_sites * self._protocol.frames_per_site
        t, p, c, z = (event.index.get(axis, 0) for axis in "tpcz")
        return t * per_time + p * self._protocol.frames_per_site + c * planes + z

    def _dark_again(self) -> LightOnError | None:
        """Switch every light off after an exposure; what stays on is raised when the frame's line is written."""
        simulator = self._profile.simulator
        still_on: LightOnError | None = None
        self._watchdog.darkens()
        try:
            late_ms = switch_light_off(self.mmcore, self._profile)
            self._watchdog.dark()
        except LightOnError as error:
            late_ms, still_on = error.lit_ms, error
        if simulator is None or simulator.clock == "real":  # a fast clock stands still while devices are waited for
            self._lit_after_ms = late_ms
        return still_on

    def _is_silent(self, visit: SiteVisit, event: MDAEvent, told: str) -> None:
        """Note the light so far of an exposure that hangs: who sees a hang may kill the program."""
        power = self._source(event).relative_power(self._level(event).led_percent)
        now = time.perf_counter()
        lit_ms = (now - (self._watchdog.shines_since or now)) * 1000 * power
        self._recorder.exposing(self._exposing(visit, event).model_copy(update={"unnoted_ms": round(lit_ms, 6)}))
        self._on_silence(told)

    def _leave_out(self, visit: SiteVisit, event: MDAEvent, reason: str) -> None:
        """Note a frame that is not wanted."""
        record = FrameRecord(**self._asked(visit, event), state="left_out", reason=reason)
        self._count(visit, record)
        if self._is_done(visit) and visit.reached and not visit.failed:
            self._sites_failed_in_a_row = 0
        self._recorder.not_taken(record, last=self._is_done(visit))

    def _skip(
        self,
        visit: SiteVisit,
        event: MDAEvent,
        reason: str,
        *,
        sample_dose_ms: float = 0,
        still_on: LightOnError | None = None,
    ) -> None:
        """Note a frame that is not taken; stop the run after too many such sites in a row, or if the light stays on."""
        logger.warning("%s of %s_%s skipped: %s", event.channel and event.channel.config, *visit.key[:2], reason)
        record = FrameRecord(**self._asked(visit, event), state="skipped", reason=reason, sample_dose_ms=sample_dose_ms)
        self._count(visit, record)
        self._recorder.not_taken(record, last=self._is_done(visit))
        if still_on is not None:
            raise still_on
        if visit.failed:
            return
        visit.failed = True
        self._sites_failed_in_a_row += 1
        if self._sites_failed_in_a_row >= self._profile.verification.stop_after_failures:
            raise RuntimeError(
                f"stopped after frames of {self._sites_failed_in_a_row} sites in a row were skipped, the last because {reason}"
            )
