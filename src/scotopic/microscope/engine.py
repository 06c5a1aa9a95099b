from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pymmcore_plus.mda import MDAEngine, SkipEvent
from pymmcore_plus.mda._engine import ImagePayload

from scotopic.microscope.core import switch_light_off
from scotopic.microscope.exposure import (
    NotAsAskedError,
    OutOfFocusError,
    autofocus,
    check_position,
    expose,
    go_to,
    set_level,
)
from scotopic.photons import dose_ratio
from scotopic.protocol import HardwareFocus
from scotopic.store import FrameRecord, LightCheck, checksum
from scotopic.store.ledger import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus
    from pymmcore_plus.mda._protocol import PImagePayload
    from pymmcore_plus.metadata import SummaryMetaV1
    from useq import MDAEvent, MDASequence

    from scotopic.protocol import ImagingProtocol, LightLevel, MicroscopeProfile
    from scotopic.store import JsonLines, Ledger, PlateStore

logger = logging.getLogger(__name__)

SiteKey = tuple[str, int, int]
"""Well, site and time point."""


class StoppedError(Exception):
    """The run ends before its plan is done, because someone asked for it."""


@dataclass
class SiteVisit:
    """What has become of the site that is being imaged."""

    key: SiteKey
    attempt: int
    xy_um: tuple[float, float]
    z_um: float | None
    reached: bool = False
    skip_reason: str = ""
    """Set once nothing more of this site is to be exposed."""
    flag: str = ""
    """What is odd about every frame of this visit."""
    focus: Literal["not asked", "ok", "failed"] = "not asked"
    records: list[FrameRecord] = field(default_factory=list)
    images: dict[str, tuple[NDArray[Any], float]] = field(default_factory=dict)
    """Image of the first plane and its dose, by light level: for the light check."""
    light: list[LightCheck] = field(default_factory=list)


class AcquisitionEngine(MDAEngine):
    """Runs a protocol's sequence: verify, expose, read back, store; or skip with a reason.

    Storing is part of executing an event, so that a write error stops the run (the runner swallows what an output
    handler raises). Frames are addressed by well, site, level, time and plane, never by order. The last ledger line
    of a site is written when all its pixels are on the disk: it is the mark that the site is finished.
    """

    def __init__(
        self,
        core: CMMCorePlus,
        protocol: ImagingProtocol,
        profile: MicroscopeProfile,
        plate: PlateStore,
        ledger: Ledger,
        light_checks: JsonLines[LightCheck],
        *,
        finished: dict[SiteKey, int],
        attempts: dict[SiteKey, int],
        sample_dose_ms: float = 0,
        on_site: Callable[[SiteVisit], None] = lambda _: None,
    ) -> None:
        """Prepare a run.

        Parameters
        ----------
        finished : dict of (well, site, t) to attempt
            Sites that are never exposed again.
        attempts : dict of (well, site, t) to int
            Visits that the ledger knows of already.
        sample_dose_ms : float
            Light that the sample has got so far.
        on_site : callable
            Called after each site, when it is on the disk.
        """
        super().__init__(core, use_hardware_sequencing=False, restore_initial_state=False)
        self._protocol = protocol
        self._profile = profile
        self._source = profile.light_source(protocol.channel)
        self._levels = {level.name: level for level in protocol.light_levels}
        self._plate = plate
        self._ledger = ledger
        self._light_checks = light_checks
        self._finished = finished
        self._attempts = attempts
        self._sample_dose_ms = sample_dose_ms
        self._on_site = on_site
        self._visit: SiteVisit | None = None
        self._read_back = (0.0, 0.0)
        self._failures_in_a_row = 0
        self._autoshutter_before = core.getAutoShutter()
        self.finish_after_site = False
        """Set it to end the run when the present site is done."""
        self.stop_now = False
        """Set it to end the run before the next exposure."""

    # ------------------------------------------------------------------ pymmcore-plus' protocol of an engine

    def setup_sequence(self, sequence: MDASequence) -> SummaryMetaV1 | None:
        """Take the light into our own hands for the run."""
        summary = super().setup_sequence(sequence)
        self._autoshutter_before = self.mmcore.getAutoShutter()
        self.mmcore.setAutoShutter(False)
        return summary

    def event_iterator(self, events: Iterable[MDAEvent]) -> Iterator[MDAEvent]:
        """Yield the events of the sites that are not finished, and end between sites when asked to."""
        current: SiteKey | None = None
        for event in events:
            key = self._key(event)
            if key != current and self.finish_after_site:
                raise StoppedError("finished after the site, as asked; the same command goes on from here")
            if key != current and key not in self._finished:
                self._stay_within_the_budget()
            current = key
            if key not in self._finished:
                yield event

    def setup_event(self, event: MDAEvent) -> None:
        """Bring the hardware into the state that an event asks for, and read it back.

        Raises
        ------
        SkipEvent
            If it is not in that state after all retries; the frame's ledger line says why.
        """
        if self.stop_now:
            raise StoppedError("stopped at once, as asked; the same command goes on from here")
        visit = self._visit_of(event)
        if event.action is not None and event.action.type == "hardware_autofocus":
            self._reach(visit)
            return
        self._reach(visit)
        if not visit.skip_reason:
            try:
                self._retried(lambda: self._verify(visit, event))
                return
            except RuntimeError as error:
                self._skip(visit, event, str(error))
                raise SkipEvent(reason=str(error)) from error
        self._skip(visit, event, visit.skip_reason)
        raise SkipEvent(reason=visit.skip_reason)

    def exec_event(self, event: MDAEvent) -> Iterator[PImagePayload]:
        """Autofocus; or expose, store and note one frame."""
        visit = self._visit_of(event)
        if event.action is not None and event.action.type == "hardware_autofocus":
            self._focus(visit)
            return
        level = self._level(event)
        try:
            exposure = expose(self.mmcore, self._profile)
        except NotAsAskedError as error:
            self._skip(visit, event, str(error))
            return
        except RuntimeError as error:
            # The light was on, and may still be: a camera that failed, a shutter that does not close.
            switch_light_off(self.mmcore, self._profile)
            self._skip(visit, event, str(error), sample_dose_ms=self._planned_dose_ms(level))
            return
        well, site, t = visit.key
        z = event.index.get("z", 0)
        image = np.asarray(exposure.image, np.uint16) if exposure.image.dtype == np.uint8 else exposure.image
        self._plate.open_field(well, site, visit.xy_um)
        self._plate.write(well, site, level.name, t, z, image)
        led_read, exposure_read = self._read_back
        power = self._source.relative_power(led_read)
        record = FrameRecord(
            **self._asked(visit, event),
            state="written",
            reason=visit.flag,
            exposure_read_ms=exposure_read,
            led_read_percent=round(led_read, 4),
            xy_read_um=self._rounded_xy(),
            z_read_um=round(self.mmcore.getZPosition(), 3),
            signal_dose_ms=round(exposure_read * power, 6),
            sample_dose_ms=round(exposure.lit_ms * power, 6),
            mean=round(float(image.mean()), 3),
            percentiles=tuple(float(p) for p in np.percentile(image[::2, ::2], PERCENTILES)),
            checksum=checksum(image),
        )
        self._failures_in_a_row = 0
        if z == 0:
            visit.images[level.name] = image, record.signal_dose_ms
        self._note(visit, record)
        meta = self.get_frame_metadata(event, runner_time_ms=time.perf_counter() * 1000)
        yield ImagePayload(image, event, meta)  # type: ignore[misc] # a MutableMapping, says pymmcore-plus

    def teardown_event(self, event: MDAEvent) -> None:
        """Do nothing: the light went off with the exposure, and autoshutter stays ours until the end."""

    def teardown_sequence(self, sequence: MDASequence) -> None:
        """Give autoshutter back."""
        self.mmcore.setAutoShutter(self._autoshutter_before)
        super().teardown_sequence(sequence)

    @property
    def is_between_sites(self) -> bool:
        """Whether no site is under way, for example in the pause between two time points."""
        return self._visit is None or len(self._visit.records) == self._protocol.frames_per_site

    def _stay_within_the_budget(self) -> None:
        budget_s = self._protocol.light_budget_s
        planes = self._protocol.z_stack.planes if self._protocol.z_stack else 1
        site_ms = planes * sum(self._planned_dose_ms(level) for level in self._protocol.light_levels)
        if budget_s is not None and self._sample_dose_ms + site_ms > budget_s * 1000:
            raise StoppedError(
                f"the next site would exceed the light budget of {budget_s:g} s; "
                f"{self._sample_dose_ms / 1000:.3g} s at full power have been given"
            )

    def _planned_dose_ms(self, level: LightLevel) -> float:
        lit_ms = level.exposure_ms + self._profile.gating.overhead_ms
        return round(lit_ms * self._source.relative_power(level.led_percent), 6)

    # ------------------------------------------------------------------ a site

    def _key(self, event: MDAEvent) -> SiteKey:
        well, _, site = (event.pos_name or "").rpartition("_")
        return well, int(site), event.index.get("t", 0)

    def _visit_of(self, event: MDAEvent) -> SiteVisit:
        """Return the visit that an event belongs to: a new one where the site changes."""
        key = self._key(event)
        if self._visit is None or self._visit.key != key:
            attempt = self._attempts.get(key, 0) + 1
            xy_um = (event.x_pos or 0.0, event.y_pos or 0.0)
            z_um = event.z_pos if event.action is None else None
            self._visit = SiteVisit(key, attempt, xy_um, z_um)
        return self._visit

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
            autofocus(self.mmcore, self._profile, focus.retries)
            visit.focus = "ok"
        except RuntimeError as error:
            visit.focus = "failed"
            self._apply_focus_policy(visit, f"autofocus failed: {error}")

    def _apply_focus_policy(self, visit: SiteVisit, what: str) -> None:
        policy = getattr(self._protocol.focus, "on_failure", "skip_site")
        if policy == "stop":
            raise RuntimeError(what)
        if policy == "skip_site":
            visit.skip_reason = what
        else:
            visit.flag = what

    def _verify(self, visit: SiteVisit, event: MDAEvent) -> None:
        if event.z_pos is not None and event.z_pos != visit.z_um:
            self.mmcore.setZPosition(event.z_pos)
            self.mmcore.waitForDevice(self._profile.stage.z_device)
        z_um = None if visit.flag else event.z_pos
        check_position(self.mmcore, self._profile, visit.xy_um, z_um)
        self._read_back = set_level(self.mmcore, self._profile, self._source, self._level(event))

    def _retried(self, action: Callable[[], None]) -> None:
        verification = self._profile.verification
        for attempt in range(verification.retries + 1):
            try:
                action()
                return
            except RuntimeError:
                if attempt == verification.retries:
                    raise
                time.sleep(verification.retry_delay_ms / 1000)

    # ------------------------------------------------------------------ the ledger

    def _level(self, event: MDAEvent) -> LightLevel:
        if event.channel is None:
            raise ValueError("an event without a light level: the sequence is not one of ImagingProtocol.to_sequence")
        return self._levels[event.channel.config]

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
        planes = self._protocol.z_stack.planes if self._protocol.z_stack else 1
        per_time = self._protocol.n_sites * self._protocol.frames_per_site
        t, p, c, z = (event.index.get(axis, 0) for axis in "tpcz")
        return t * per_time + p * self._protocol.frames_per_site + c * planes + z

    def _rounded_xy(self) -> tuple[float, float]:
        x, y = self.mmcore.getXYPosition()
        return round(x, 2), round(y, 2)

    def _skip(self, visit: SiteVisit, event: MDAEvent, reason: str, *, sample_dose_ms: float = 0) -> None:
        """Note a frame that is not taken, and stop the run after too many in a row."""
        logger.warning("%s of %s_%s skipped: %s", event.channel and event.channel.config, *visit.key[:2], reason)
        self._note(
            visit,
            FrameRecord(**self._asked(visit, event), state="skipped", reason=reason, sample_dose_ms=sample_dose_ms),
        )
        self._failures_in_a_row += 1
        if self._failures_in_a_row >= self._profile.verification.stop_after_failures:
            raise RuntimeError(
                f"stopped after {self._failures_in_a_row} frames skipped in a row, the last because {reason}"
            )

    def _note(self, visit: SiteVisit, record: FrameRecord) -> None:
        """Write a ledger line; the site's last one only when every pixel is on the disk."""
        visit.records.append(record)
        self._sample_dose_ms += record.sample_dose_ms
        last = len(visit.records) == self._protocol.frames_per_site
        if last:
            written = [(r.level, r.t, r.z) for r in visit.records if r.state == "written"]
            self._plate.sync(*visit.key[:2], written)
            self._check_light(visit)  # before the commit mark: no finished site is without its verdict
            self._light_checks.append(visit.light)
        self._ledger.append([record], sync=last)
        if last:
            self._finished[visit.key] = visit.attempt
            self._on_site(visit)

    def _check_light(self, visit: SiteVisit) -> None:
        """Let the images prove the light: a LED that only echoes what it is asked is found out here."""
        reference = self._protocol.reference.name
        if reference in visit.images and self._profile.verification.light_check:
            full, full_dose = visit.images[reference]
            well, site, t = visit.key
            for name, (image, dose) in visit.images.items():
                if name != reference:
                    found = dose_ratio(image, full, self._profile.camera)
                    seen = np.isfinite(found.error)
                    visit.light.append(
                        LightCheck(
                            well=well,
                            site=site,
                            t=t,
                            attempt=visit.attempt,
                            level=name,
                            expected=dose / full_dose,
                            ratio=found.ratio if seen else None,
                            error=found.error if seen else None,
                            verdict=found.verdict(dose / full_dose),
                        )
                    )
        visit.images.clear()
