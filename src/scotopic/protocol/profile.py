from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from scotopic.photons import CameraNoise, FrozenModel
from scotopic.protocol.calibrations import Calibrations, when
from scotopic.protocol.focus import fit_plane
from scotopic.protocol.light_source import LightSource, PropertySetting
from scotopic.protocol.names import did_you_mean
from scotopic.protocol.simulation import SimulatorSettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from scotopic.protocol.plate import Plate

LIGHT_LEVEL_GROUP = "LightLevel"
"""Micro-Manager config group whose presets are the protocol's light levels."""


class LightGating(FrozenModel):
    """What lets the light onto the sample, and for how long beyond the exposure."""

    how: Literal["camera_ttl", "core_shutter", "software"]
    """`camera_ttl`: a wire from the camera switches the light; `core_shutter`: MMCore opens and closes a shutter
    around each exposure; `software`: scotopic sets a property before and after each exposure."""
    shutter: str | None = None
    """Label of the shutter device (core_shutter)."""
    overhead_ms: float = Field(default=0, ge=0, le=10_000)
    """Time the sample is lit beyond the exposure time, at each exposure: 15 to 55 ms behind many shutters."""
    lag_ms: float = Field(default=0, ge=0, le=1000)
    """Time at the beginning of each exposure in which there is no light yet, for the image has so much less of it (`calibrate light`)."""

    @model_validator(mode="after")
    def _shutter_is_named(self) -> Self:
        if self.how == "core_shutter" and self.shutter is None:
            raise ValueError("core_shutter needs the label of the shutter device (shutter)")
        if self.how != "core_shutter" and self.shutter is not None:
            raise ValueError(f"a shutter is for core_shutter, not for {self.how}")
        return self


class Camera(CameraNoise):
    """The camera: its frame, its timing and its noise."""

    device: str
    """Label of the device in the `.cfg`."""
    width_px: int = Field(gt=0, le=20_000)
    """Width of the image as acquired (after binning and region of interest)."""
    height_px: int = Field(gt=0, le=20_000)
    """Height of the image as acquired."""
    pixel_size_um: float = Field(gt=0, le=100)
    """Size of a pixel of the image on the sample, in micrometres. There is no default: it decides where sites lie."""
    min_exposure_ms: float = Field(default=0.01, gt=0)
    """Shortest exposure."""
    readout_ms: float = Field(default=10, ge=0)
    """Time from the end of an exposure until the image can be had, for the estimate of duration."""
    maps: str | None = None
    """File of each pixel's offset, response and noise, relative to this one, where they differ (`calibrate camera` writes it).
    Stored images are as the camera gave them; masks, measurements, the network and the light check see them with equal pixels."""

    @property
    def noise(self) -> CameraNoise:
        """The camera's noise alone."""
        return CameraNoise(**{name: getattr(self, name) for name in CameraNoise.model_fields})

    @property
    def fov_um(self) -> tuple[float, float]:
        """Width and height of the field of view in micrometres."""
        return self.width_px * self.pixel_size_um, self.height_px * self.pixel_size_um


Limits = tuple[float, float]


class Stage(FrozenModel):
    """Stages, their limits and how well they keep a position."""

    xy_device: str
    """Label of the XY stage."""
    z_device: str
    """Label of the Z drive."""
    autofocus_device: str | None = None
    """Label of the autofocus device, if there is one."""
    x_um: Limits
    """Smallest and largest X that is safe, in micrometres: nothing ever moves outside."""
    y_um: Limits
    """Smallest and largest Y that is safe."""
    z_um: Limits
    """Smallest and largest Z that is safe."""
    xy_tolerance_um: float = Field(default=2, gt=0)
    """Largest distance from the position asked for at which an image is taken."""
    z_tolerance_um: float = Field(default=0.5, gt=0)
    """Largest distance from the height asked for at which an image is taken."""
    xy_um_per_s: float = Field(default=20_000, gt=0)
    """Speed, for the estimate of duration."""
    settle_ms: float = Field(default=50, ge=0)
    """Time after a move, for the estimate of duration."""
    autofocus_s: float = Field(default=1, ge=0)
    """Time of one autofocus, for the estimate of duration."""

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Self:
        for axis in ("x_um", "y_um", "z_um"):
            low, high = getattr(self, axis)
            if not low < high:
                raise ValueError(f"{axis} must be [smallest, largest], not [{low:g}, {high:g}]")
        return self


class Verification(FrozenModel):
    """What happens when a device does not do what it was asked."""

    exposure_tolerance_percent: float = Field(default=1, ge=0, le=50)
    """Largest difference between exposure asked for and read back."""
    dose_tolerance_percent: float = Field(default=10, gt=0, le=100)
    """Largest difference between the measured dose of a light level and its nominal one (exposure x LED power) without a warning."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often it is asked again before the frame is skipped."""
    retry_delay_ms: float = Field(default=200, ge=0, le=60_000)
    """Time before it is asked again."""
    camera_timeout_s: float = Field(default=3, gt=0, le=3600)
    """Time beyond exposure, readout and settling after which light that is still on for an image is switched off, whichever
    device does not answer."""
    light_check: bool = True
    """Whether images can prove the light of a frame. Not those of MMCore's demo camera, which shows a pattern."""
    stop_after_failures: int = Field(default=5, gt=0)
    """Number of sites in a row with skipped frames after which the run stops, at the first such frame of the last one."""


@dataclass(frozen=True)
class PlatePlacement:
    """The affine map from plate coordinates to stage coordinates, both in micrometres."""

    matrix: tuple[tuple[float, float, float], tuple[float, float, float]]

    def to_stage(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Return the stage position of a point on the plate (x along columns, y down rows, from A1)."""
        (a, b, c), (d, e, f) = self.matrix
        return a * x_um + b * y_um + c, d * x_um + e * y_um + f

    def to_plate(self, x_um: float, y_um: float) -> tuple[float, float]:
        """Return the point on the plate under a stage position."""
        matrix = np.array(self.matrix)
        x, y = np.linalg.solve(matrix[:, :2], np.array([x_um, y_um]) - matrix[:, 2])
        return float(x), float(y)


class MicroscopeProfile(FrozenModel):
    """What scotopic must know about one microscope, beside its Micro-Manager configuration.

    Writes nothing to the hardware by itself.
    """

    name: str = Field(min_length=1)
    """Name of the microscope."""
    config: str
    """Micro-Manager configuration file, relative to this file."""
    objective: str = ""
    """Objective in use, for the record."""
    camera: Camera
    """The camera."""
    light_sources: dict[str, LightSource] = Field(min_length=1)
    """Light of each channel, by the channel's name in protocols."""
    gating: LightGating
    """How light is let onto the sample."""
    keep_closed: tuple[str, ...] = ()
    """Labels of shutters that no channel needs open (a transmitted-light shutter, a laser's): closed before anything else, between
    exposures and at the end, and read back. What a channel's preset sets of them is left out."""
    keep_off: tuple[PropertySetting, ...] = ()
    """Settings that make dark which lamps and lasers no channel uses, treated alike."""
    no_light: tuple[str, ...] = ()
    """Labels of devices that `check` takes for lamps or shutters by their names, though they give the sample no light."""
    stage: Stage
    """XY stage, Z drive and autofocus."""
    plate_calibration: dict[str, tuple[float, float]] | None = None
    """Measured centre of A1 and of two more wells: well -> stage X and Y in micrometres."""
    focus_plane: dict[str, float] | None = None
    """Measured focus of three wells or more: well -> Z in micrometres."""
    verification: Verification = Verification()
    """Retries and limits."""
    calibrations: Calibrations = Calibrations()
    """When what was measured; `scotopic calibrate` writes it."""
    simulator: SimulatorSettings | None = None
    """Present when the microscope is made of software."""

    @model_validator(mode="after")
    def _simulator_has_a_shutter(self) -> Self:
        if self.simulator is not None and self.gating.how != "core_shutter":
            raise ValueError(
                f"gating.how = {self.gating.how!r}: the simulated microscope has a shutter, use core_shutter"
            )
        return self

    @model_validator(mode="after")
    def _light_settles_in_the_dark(self) -> Self:
        for channel, source in self.light_sources.items():
            if self.gating.how == "software" and source.settle_ms:
                raise ValueError(
                    f"light_sources.{channel}.settle_ms = {source.settle_ms:g}: with gating by software the light would "
                    "settle on the sample; allowed: 0, or a shutter or a camera's wire (gating.how)"
                )
        return self

    @model_validator(mode="after")
    def _each_light_can_be_off(self) -> Self:
        for channel, source in self.light_sources.items():
            if source.switch_off or (source.labels is not None and self.gating.how == "core_shutter"):
                continue
            what = (
                "no label is dark: name what makes the light so (the lamp's switch), or let a shutter do it (gating.how: core_shutter)"
                if source.labels is not None
                else "should have at least 1 item: what makes the light dark"
            )
            raise ValueError(f"light_sources.{channel}.switch_off: {what}")
        return self

    @model_validator(mode="after")
    def _what_is_kept_dark_lights_no_channel(self) -> Self:
        if self.gating.shutter in self.keep_closed:
            raise ValueError(f"keep_closed: {self.gating.shutter!r} is gating.shutter, which exposures open")
        for channel, source in self.light_sources.items():
            used = {source.device, *(setting.device for setting in source.switch_off)}
            if closed := used & set(self.keep_closed):
                raise ValueError(f"keep_closed: {min(closed)!r} is what lights {channel} (light_sources.{channel})")
            for off in self.keep_off:
                if off.is_of(source.device, source.property) or any(
                    off.is_of(setting.device, setting.property) for setting in source.switch_off
                ):
                    raise ValueError(
                        f"keep_off: {off.device}.{off.property} is what lights {channel} (light_sources.{channel})"
                    )
        return self

    def off_settings(self) -> Iterator[tuple[str, PropertySetting, float]]:
        """Yield each setting that makes something dark: whose it is, the setting, and how far from it a value read back may lie."""
        for channel, source in self.light_sources.items():
            for setting in source.switch_off:
                is_power = setting.is_of(source.device, source.property)
                yield channel, setting, source.tolerance if is_power else _SAME
        for setting in self.keep_off:
            yield "keep_off", setting, _SAME

    @property
    def shutters(self) -> tuple[str, ...]:
        """Shutters that are closed whenever it is to be dark: that of the exposures first."""
        return (*filter(None, [self.gating.shutter]), *self.keep_closed)

    def light_source(self, channel: str) -> LightSource:
        """Return the light source of a channel.

        Raises
        ------
        ValueError
            If the profile names none.
        """
        if channel not in self.light_sources:
            hint = did_you_mean(channel, self.light_sources) or f"known: {', '.join(self.light_sources)}"
            raise ValueError(f"the profile has no light source for channel {channel!r}; {hint}")
        return self.light_sources[channel]

    def calibration_facts(self, channels: Iterable[str], now: datetime | None = None) -> Iterator[tuple[str, str]]:
        """Yield what of a microscope was measured, and when; and what is taken for true where it was not.

        Parameters
        ----------
        channels : iterable of str
            Channels of interest.
        now : datetime, optional
            How long ago that was is told as well, for who reads it now.
        """
        known = self.calibrations
        camera = "not measured: offset, gain and read noise are those that the profile states"
        yield "camera", f"measured {when(known.camera, now)}" if known.camera else camera
        for channel in channels:
            light, source = known.light.get(channel), self.light_source(channel)
            stated = (
                "by a dose curve without a date" if source.dose_curve else "not measured: light in proportion to power"
            )
            yield f"light of {channel}", f"measured {when(light, now)}" if light else stated
            shading = known.illumination.get(channel)
            estimated = "not measured: estimated from the nuclei of each run"
            yield f"evenness of {channel}", f"measured {when(shading, now)}" if shading else estimated
        stated = f"stated by {', '.join(self.plate_calibration)}" if self.plate_calibration else "none"
        yield "place of the plate", f"measured {when(known.plate, now)}" if known.plate else stated

    def signal_ms(self, channel: str, exposure_ms: float, led_percent: float) -> float:
        """Return the light that an image gets, in milliseconds at full power: measured where that was done, else nominal."""
        return max(exposure_ms - self.gating.lag_ms, 0.0) * self.light_source(channel).relative_power(led_percent)

    def sample_ms(self, channel: str, exposure_ms: float, led_percent: float) -> float:
        """Return the light that the sample gets by an exposure, in milliseconds at full power: the gating's overhead included."""
        return (exposure_ms + self.gating.overhead_ms) * self.light_source(channel).relative_power(led_percent)

    def placement(self, plate: Plate) -> PlatePlacement:
        """Return where a plate lies on the stage, by the calibration.

        Raises
        ------
        ValueError
            If there is no calibration, or it does not fit the plate.
        """
        if not self.plate_calibration and self.simulator is not None:
            return PlatePlacement(((1, 0, 0), (0, 1, 0)))  # A1 at the origin: nobody needs to look where it lies
        if not self.plate_calibration:
            raise ValueError(
                "plate_calibration is missing: drive to the centres of A1 and two more wells and write down X and Y"
            )
        placement = fit_placement(self.plate_calibration, plate)
        (a, b, _), _ = placement.matrix
        if abs(b) > abs(a) and self.camera.width_px != self.camera.height_px:
            raise ValueError(
                "plate_calibration: the plate is turned by a quarter against the camera's long side; sites would overlap. "
                "Swap the axes of the stage in Micro-Manager (TransposeXY), or use a square region of interest"
            )
        return placement

    def focus_plane_on(self, plate: Plate, points: dict[str, float] | None = None) -> tuple[float, float, float]:
        """Return (a, b, c) of the focus plane z = a x + b y + c over stage positions, in micrometres.

        Parameters
        ----------
        plate : Plate
            Plate on the stage.
        points : dict of well to Z, optional
            Measured wells; the profile's `focus_plane` if not given.

        Raises
        ------
        ValueError
            If there are no measured wells, or they do not span a plane.
        """
        wells = points or self.focus_plane
        if not wells:
            raise ValueError(
                "no focus plane is measured: give focus.points in the protocol or focus_plane in the profile"
            )
        if missing := [well for well in wells if well not in plate.wells]:
            raise ValueError(f"focus plane: {', '.join(missing)} not on a {plate.name} plate")
        placement = self.placement(plate)
        points_um = [(*placement.to_stage(*plate.centre_um(well)), z) for well, z in wells.items()]
        a, b, c = fit_plane(points_um)
        off = {well: z - (a * x + b * y + c) for well, (x, y, z) in zip(wells, points_um, strict=True)}
        worst = max(off, key=lambda well: abs(off[well]))
        if abs(off[worst]) > _LARGEST_OFF_PLANE_UM:
            raise ValueError(
                f"focus plane: {worst} lies {off[worst]:+.0f} um off the plane through the wells (allowed: "
                f"{_LARGEST_OFF_PLANE_UM:g}); is one of the heights mistyped?"
            )
        return a, b, c

    def config_path(self, profile_path: Path) -> Path:
        """Return the path of the Micro-Manager configuration, given that of this profile."""
        return profile_path.parent / Path(self.config)


_SAME = 1e-6
"""Difference of two values of a switch that is none."""
_LARGEST_OFF_PLANE_UM = 50.0
"""Plates sag and bow by tens of micrometres (ANSI/SLAS footprints allow 0.1 mm and more over the plate)."""
_SCALE_TOLERANCE = 0.02
"""A measured well distance this far from the plate's drawing means another plate or another well."""


def fit_placement(wells_um: dict[str, tuple[float, float]], plate: Plate) -> PlatePlacement:
    """Fit the affine map from plate to stage coordinates to measured well centres.

    Rotation, mirrored axes and a slight shear are all found from three wells or more, by least squares.
    A plate with a single row or column cannot show a mirrored axis: it is taken as not mirrored.

    Raises
    ------
    ValueError
        If wells are not on the plate, too few or on one line, or their distances do not fit the plate.
    """
    if missing := [well for well in wells_um if well not in plate.wells]:
        raise ValueError(
            f"plate_calibration: {', '.join(missing)} not on a {plate.name} plate (A1 to {plate.last_well}); "
            "write down the centres of three wells of this plate"
        )
    drawn = np.array([plate.centre_um(well) for well in wells_um]).reshape(-1, 2)
    found = np.array(list(wells_um.values()), dtype=float).reshape(-1, 2)
    if min(plate.rows, plate.columns) == 1:
        drawn, found = _with_perpendicular(drawn, found, plate)
    if len(drawn) < 3 or np.linalg.matrix_rank(drawn - drawn.mean(0), tol=1.0) < 2:
        raise ValueError("plate_calibration needs A1 and two more wells that do not lie on one line with it")
    solution = np.linalg.lstsq(np.column_stack([drawn, np.ones(len(drawn))]), found, rcond=None)[0]
    scales = np.linalg.svd(solution[:2], compute_uv=False)
    if np.abs(scales - 1).max() > _SCALE_TOLERANCE:
        raise ValueError(
            f"plate_calibration: the wells lie {scales[0]:.3f} and {scales[1]:.3f} times as far apart as on a "
            f"{plate.name} plate (allowed: 0.98 to 1.02): calibrated with another plate, or on another well than named"
        )
    residual = float(np.abs(np.column_stack([drawn, np.ones(len(drawn))]) @ solution - found).max())
    if residual > 500:
        raise ValueError(
            f"plate_calibration: a well lies {residual:.0f} um from where the others put it (allowed: 500)"
        )
    a, b = solution.T.tolist()
    return PlatePlacement((tuple(a), tuple(b)))


def _with_perpendicular(drawn: np.ndarray, found: np.ndarray, plate: Plate) -> tuple[np.ndarray, np.ndarray]:
    """Add a point across a line of wells (or two around a single well) so that an affine map is determined."""
    if plate.rows == plate.columns == 1:
        return np.vstack([drawn, [[1000, 0], [0, 1000]]]), np.vstack(
            [found, found[0] + np.array([[1000, 0], [0, 1000]])]
        )
    along_drawn, along_found = drawn[-1] - drawn[0], found[-1] - found[0]
    turn = np.array([[0, -1], [1, 0]])
    return np.vstack([drawn, drawn[0] + turn @ along_drawn]), np.vstack([found, found[0] + turn @ along_found])
