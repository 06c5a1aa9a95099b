from __future__ import annotations

import logging
import math
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scotopic.protocol import ImageSpecimenSettings, SlideSettings
from scotopic.simulator import optics
from scotopic.simulator.bleaching import BleachingMap
from scotopic.simulator.cameras import make_sensor
from scotopic.simulator.clock import Clock
from scotopic.simulator.faults import Faults, fill_disk
from scotopic.simulator.light import LightRecord
from scotopic.simulator.replay import ImageSpecimen
from scotopic.simulator.slide import Slide
from scotopic.simulator.specimen import Field, Scene, Specimen
from scotopic.simulator.synthetic import SyntheticSpecimen

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.protocol import Fault
    from scotopic.protocol.simulator_setup import SimulatorSetup

logger = logging.getLogger(__name__)

MAX_HANG_S = 60.0


def make_specimen(setup: SimulatorSetup) -> Specimen:
    """Return what lies on the stage. Needs no hardware: truth can be had without a microscope."""
    settings = setup.settings.specimen
    if isinstance(settings, SlideSettings):
        return Slide(settings)
    if isinstance(settings, ImageSpecimenSettings):
        return ImageSpecimen(settings, setup.sites, (setup.height_px, setup.width_px), setup.pixel_size_um)
    return SyntheticSpecimen(settings, setup.plate)


class Instrument:
    """The state that all simulated devices share, and the physics between them.

    Devices write to it (LED power, shutter, stages); the camera asks it for an image. Light and shutter may be
    switched from another thread while an exposure is under way, as on a real microscope.
    """

    def __init__(self, setup: SimulatorSetup) -> None:
        self._lock = threading.RLock()
        self._xy_um = (0.0, 0.0)
        self._z_um = setup.settings.focus_z_um
        self._led_percent = self._lamp_percent = 0.0
        self._reported_percent = 0.0
        self._shutter_open = False
        self.configure(setup)

    def configure(self, setup: SimulatorSetup) -> None:
        """Take another set-up: another specimen, camera or behaviour. Light goes off, stages stay."""
        specimen = make_specimen(setup)  # may refuse: then nothing has changed
        with self._lock:
            settings = setup.settings
            self.setup = setup
            self.specimen, self.hours = specimen, 0.0
            self._shape = setup.height_px, setup.width_px
            self._placement = setup.placement
            self._clock = Clock(fast=settings.clock == "fast")
            self._faults = Faults(settings.faults)
            self._light, self._lamp_light = LightRecord(), LightRecord()
            self._sensor = make_sensor(settings.camera, self._shape, settings.seed, setup.saturation_counts)
            self._illumination = optics.illumination(self._shape, settings.illumination_falloff)
            self._bleaching = BleachingMap(
                (setup.width_px * setup.pixel_size_um, setup.height_px * setup.pixel_size_um),
                -math.log1p(-settings.bleaching_per_full_exposure) / settings.full_light_ms,
            )
            self._noise_rng = np.random.Generator(np.random.SFC64((settings.seed, 20)))
            self._motion_rng = np.random.default_rng((settings.seed, 21))
            self._arrival = self._led_settled = self._clock.now()
            self._light_ready = self._clock.now()
            self._seen: tuple[tuple[float, ...], Scene] | None = None
            self._led_percent = self._reported_percent = self._lamp_percent = 0.0
            self._shutter_open = False

    def set_time(self, hours: float) -> None:
        """Let so much time have gone by for what lies on the stage, since the beginning of the run."""
        with self._lock:
            if hours != self.hours:
                self.specimen, self.hours, self._seen = self.specimen.at(hours), hours, None

    def set_faults(self, faults: tuple[Fault, ...]) -> None:
        """Take another list of things that go wrong, counting anew."""
        self._faults = Faults(faults)

    # ------------------------------------------------------------------ light

    @property
    def led_percent(self) -> float:
        """LED power as the LED reports it."""
        return self._reported_percent

    def set_led_percent(self, percent: float) -> None:
        """Set the LED power, in its steps."""
        self._be_slow()
        with self._lock:
            step = self.setup.settings.led_step_percent
            on_step = round(percent / step) * step
            if percent > 0 and self._faults.due("led_ignores"):
                return
            if percent == 0 and self._led_percent > 0 and self._faults.due("led_stays_on"):
                return
            fault = self._faults.due("led_misreports") if percent > 0 else None
            self._reported_percent = on_step
            self._led_percent = fault.amount if fault else on_step
            self._led_settled = self._clock.now() + self.setup.settings.led_settle_ms / 1000
            self._update_light()

    @property
    def lamp_percent(self) -> float:
        """Power of the lamp that shines through the sample."""
        return self._lamp_percent

    def set_lamp_percent(self, percent: float) -> None:
        """Set the power of the lamp that shines through the sample."""
        self._be_slow()
        with self._lock:
            self._lamp_percent = percent
            self._update_light()

    @property
    def shutter_open(self) -> bool:
        """Whether the shutter is open."""
        return self._shutter_open

    def set_shutter_open(self, opened: bool) -> None:
        """Open or close the shutter."""
        self._be_slow()
        with self._lock:
            if opened != self._shutter_open and self._faults.due("shutter_sticks"):
                return
            self._shutter_open = opened
            self._update_light()

    def _update_light(self) -> None:
        """Let the light follow LED, lamp and shutter: darkness at once, light after the delay."""
        now = self._clock.now()
        self._count_light(now)
        self._light_ready = now
        lag_s = self.setup.settings.shutter_lag_ms / 1000
        for light, full in ((self._light, self._led_light()), (self._lamp_light, self._lamp_percent / 100)):
            power = full if self._shutter_open else 0.0
            ready = now + (self.setup.settings.led_delay_ms / 1000 if power else 0.0)
            if power and light.power_at(now) > power:
                light.set_power(now, power)  # less light comes at once: the delay is that of rising light
            begin = ready + (lag_s if power else 0.0)
            if power and light is self._light and self._led_settled > begin:
                light.set_power(begin, 0.9 * power)
                begin = self._led_settled
            light.set_power(begin, power)
            self._light_ready = max(self._light_ready, ready)

    def _led_light(self) -> float:
        """Return the light that the LED really gives at its present power, relative to that at full power."""
        settings = self.setup.settings
        share = max(self._led_percent - settings.led_dead_percent, 0) / (100 - settings.led_dead_percent)
        return share * (1 - 2 * settings.led_curvature * (1 - share))

    def light_is_pending(self) -> bool:
        """Return whether LED and shutter are still on their way to the light asked for."""
        return self._clock.is_pending(self._light_ready)

    @property
    def delivered_ms(self) -> float:
        """Light that the sample has received so far, in milliseconds at full power of LED or lamp."""
        with self._lock:
            self._count_light(self._clock.now())
            return self._light.delivered_ms + self._lamp_light.delivered_ms

    def _count_light(self, until: float) -> None:
        self._lamp_light.count_until(until)
        self._bleaching.add(*self._on_plate(), self._light.count_until(until))

    # ------------------------------------------------------------------ stages

    @property
    def xy_um(self) -> tuple[float, float]:
        """Position of the XY stage."""
        return self._xy_um

    def move_xy(self, x_um: float, y_um: float) -> None:
        """Start a move of the XY stage."""
        self._be_slow()
        with self._lock:
            now = self._clock.now()
            self._count_light(now)
            x0, y0 = self._xy_um
            distance = float(np.hypot(x_um - x0, y_um - y0))
            if (fault := self._faults.due("stage_stops_short")) and distance > 0:
                part = max(1 - fault.amount / distance, 0)
                x_um, y_um = x0 + part * (x_um - x0), y0 + part * (y_um - y0)
            self._xy_um = x_um, y_um
            self._arrival = now + distance / self.setup.settings.stage_um_per_s

    def stage_is_moving(self) -> bool:
        """Return whether the XY stage is still moving."""
        return self._clock.is_pending(self._arrival)

    @property
    def z_um(self) -> float:
        """Position of the Z drive."""
        return self._z_um

    def move_z(self, z_um: float) -> None:
        """Move the Z drive."""
        self._be_slow()
        self._z_um = z_um

    @property
    def focus_z_um(self) -> float:
        """Height of the focus at the present place."""
        x, y = self._on_plate()
        slope_x, slope_y = self.setup.settings.tilt_um_per_mm
        return self.setup.settings.focus_z_um + slope_x * x / 1000 + slope_y * y / 1000

    def autofocus(self) -> None:
        """Move Z to the focus.

        Raises
        ------
        RuntimeError
            If it does not find it (a fault).
        """
        self._be_slow()
        if self._faults.due("autofocus_fails"):
            raise RuntimeError("autofocus failed: no focus found")
        self._z_um = self.focus_z_um + self._motion_rng.normal(0, self.setup.settings.autofocus_error_um)

    # ------------------------------------------------------------------ camera

    @property
    def field(self) -> Field:
        """The field of view at the present stage position, without drift."""
        return Field(*self._on_plate(), self.setup.width_px, self.setup.height_px, self.setup.pixel_size_um)

    def expose(self, exposure_ms: float) -> NDArray[np.uint16]:
        """Take an image: counts, shape (Y, X).

        Raises
        ------
        RuntimeError
            If the camera fails (a fault).
        """
        self._be_slow()
        if hang := self._faults.due("camera_hangs"):
            self._clock.be_slow(min(hang.amount, MAX_HANG_S))
        fails = self._faults.due("snap_fails")
        if (full := self._faults.due("disk_fills")) and full.folder:
            fill_disk(Path(full.folder))
        start = self._clock.now()
        end = start + exposure_ms / 1000
        self._clock.wait_until(end)
        if fails:  # the light was given all the same
            raise RuntimeError("camera error: no image was read out")
        with self._lock:
            light_ms, lamp_ms = self._light.integral_ms(start, end), self._lamp_light.integral_ms(start, end)
            with self._clock.standing_still():
                image = self._image(light_ms, lamp_ms, exposure_ms)
            self._count_light(max(end, self._clock.now()))
        return image

    def _image(self, light_ms: float, lamp_ms: float, exposure_ms: float) -> NDArray[np.uint16]:
        settings = self.setup.settings
        mean_e = np.zeros(self._shape, np.float32)
        if light_ms > 0 or lamp_ms > 0:
            x, y = self._on_plate()
            mean_e = self._view(x, y)
            through = self._through(mean_e, lamp_ms) if lamp_ms > 0 else None
            mean_e *= self._illumination
            mean_e *= np.float32(settings.peak_e * light_ms / settings.full_light_ms) * self._bleaching.left(
                x, y, self._shape
            )
            if through is not None:
                mean_e += through
        return self._sensor.expose(mean_e, exposure_ms, self._noise_rng)

    def _through(self, scene: NDArray[np.float32], lamp_ms: float) -> NDArray[np.float32]:
        """Return the photo-electrons of light that comes through the sample; its field is lit from the other side."""
        bare = np.float32(self.setup.settings.lamp_e_per_ms * lamp_ms)
        return optics.transmission(scene, self.setup.pixel_size_um) * self._illumination[::-1, ::-1] * bare

    def _view(self, x_um: float, y_um: float) -> NDArray[np.float32]:
        """Return the scene behind the optics at a place, with this exposure's drift."""
        px = self.setup.pixel_size_um
        drift_x, drift_y = self._motion_rng.normal(0, self.setup.settings.drift_um, 2)
        field = Field(x_um + drift_x, y_um + drift_y, self.setup.width_px, self.setup.height_px, px)
        left, top = field.origin_px
        seen = self._blurred(x_um, y_um)
        dx, dy = left - seen.origin_px[0], top - seen.origin_px[1]
        if not (0 <= dx < 2 * optics.MARGIN_PX - 1 and 0 <= dy < 2 * optics.MARGIN_PX - 1):
            seen = self._blurred(field.x_um, field.y_um)  # drifted out of the margin
            dx, dy = left - seen.origin_px[0], top - seen.origin_px[1]
        return optics.shifted(seen.light, dx, dy, self._shape)

    def _blurred(self, x_um: float, y_um: float) -> Scene:
        """Return the blurred scene around a place, with a margin; the last one is kept."""
        settings, px = self.setup.settings, self.setup.pixel_size_um
        key = (x_um, y_um, round(abs(self._z_um - self.focus_z_um), 1))
        if self._seen is None or self._seen[0] != key:
            sigma_um = float(
                np.hypot(
                    0 if self.specimen.is_imaged else settings.psf_sigma_um, settings.defocus_blur_um_per_um * key[2]
                )
            )
            left, top = Field(x_um, y_um, self.setup.width_px, self.setup.height_px, px).origin_px
            shape = self._shape[0] + 2 * optics.MARGIN_PX, self._shape[1] + 2 * optics.MARGIN_PX
            scene = self.specimen.scene((left - optics.MARGIN_PX, top - optics.MARGIN_PX), shape, px)
            self._seen = key, Scene(optics.blur(scene.light, sigma_um / px), scene.origin_px)
        return self._seen[1]

    def _on_plate(self) -> tuple[float, float]:
        return self._placement.to_plate(*self._xy_um)

    def _be_slow(self) -> None:
        if slow := self._faults.due("device_slow"):
            self._clock.be_slow(min(slow.amount, MAX_HANG_S))
