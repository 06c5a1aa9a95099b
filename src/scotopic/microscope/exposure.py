"""One step at a time: go there, focus, set the light, expose; each step read back before the next."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scotopic.microscope.core import is_same
from scotopic.microscope.presets import lets_light_on
from scotopic.microscope.watchdog import asks
from scotopic.protocol import LIGHT_LEVEL_GROUP

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

    from scotopic.microscope.watchdog import Watchdog
    from scotopic.protocol import LightLevel, LightSource, MicroscopeProfile


class NotAsAskedError(RuntimeError):
    """A device read back something else than it was asked for: no light was given."""


class OutOfFocusError(NotAsAskedError):
    """The Z drive is not where it was asked to go: a case for the protocol's focus policy."""


class ExposureFailedError(RuntimeError):
    """The sample was lit, but there is no image of it, or the light may still be on."""

    def __init__(self, what: str, lit_ms: float, begun_at: float) -> None:
        super().__init__(what)
        self.lit_ms = lit_ms
        """How long the sample was lit, as far as one knows."""
        self.begun_at = begun_at
        """When that time began (`time.perf_counter`)."""


@dataclass(frozen=True)
class Exposure:
    """An image and the light it took."""

    image: NDArray[Any]
    """Counts, shape (Y, X)."""
    lit_ms: float
    """How long the sample was lit: measured where MMCore or scotopic gate the light, else by the profile."""
    begun_at: float = 0.0
    """When that time began (`time.perf_counter`)."""


def go_to(core: CMMCorePlus, profile: MicroscopeProfile, xy_um: tuple[float, float], z_um: float | None) -> None:
    """Move the stages and check where they are."""
    core.setXYPosition(*xy_um)
    if z_um is not None:
        core.setZPosition(z_um)
    core.waitForDevice(profile.stage.xy_device)
    core.waitForDevice(profile.stage.z_device)
    check_position(core, profile, xy_um, z_um)


def check_position(
    core: CMMCorePlus, profile: MicroscopeProfile, xy_um: tuple[float, float], z_um: float | None
) -> tuple[float, float, float]:
    """Compare the stages with where they should be, and return where they are: x, y and z in micrometres.

    Raises
    ------
    NotAsAskedError
        If they are farther away than the profile tolerates.
    """
    x, y = core.getXYPosition()
    if math.dist((x, y), xy_um) > profile.stage.xy_tolerance_um:
        raise NotAsAskedError(
            f"the stage is at {x:.1f}, {y:.1f} um (asked: {xy_um[0]:.1f}, {xy_um[1]:.1f}): no light was given"
        )
    z = core.getZPosition()
    if z_um is not None and abs(z - z_um) > profile.stage.z_tolerance_um:
        raise OutOfFocusError(f"Z is at {z:.2f} um (asked: {z_um:.2f}): no light was given")
    return x, y, z


def autofocus(core: CMMCorePlus, profile: MicroscopeProfile, retries: int) -> None:
    """Let the autofocus find the focus.

    Raises
    ------
    RuntimeError
        If it fails more often than it may, or leaves the limits of the Z drive.
    """
    for attempt in range(retries + 1):
        try:
            core.fullFocus()
            break
        except RuntimeError:
            if attempt == retries:
                raise
    core.waitForDevice(profile.stage.z_device)
    low, high = profile.stage.z_um
    if not low <= core.getZPosition() <= high:
        raise RuntimeError(f"the autofocus went to Z = {core.getZPosition():.1f} um, outside {low:g} to {high:g}")


def set_filters(core: CMMCorePlus, profile: MicroscopeProfile, level: LightLevel) -> float:
    """Set filters and exposure of a light level, in the dark, and read them back; what is as asked is not touched.

    What may let light on is left to `set_level`, whatever else it is: a shutter of the lamp may be a line of the preset.

    Returns
    -------
    float
        Exposure in milliseconds, as read back from the camera.

    Raises
    ------
    NotAsAskedError
        If anything is not as asked.
    """
    for device, name, value in core.getConfigData(LIGHT_LEVEL_GROUP, level.name):
        if lets_light_on(profile, device):
            continue
        tolerance = _filter_tolerance(value)
        if not is_same(found := core.getProperty(device, name), value, tolerance):
            core.setProperty(device, name, value)
            core.waitForDevice(device)
            found = core.getProperty(device, name)
        _refuse_another(level, device, name, found, value, tolerance)
    core.setExposure(level.exposure_ms)
    exposure_ms = core.getExposure()
    if abs(exposure_ms - level.exposure_ms) > level.exposure_ms * profile.verification.exposure_tolerance_percent / 100:
        raise NotAsAskedError(
            f"{level.name}: exposure {exposure_ms:g} ms (asked: {level.exposure_ms:g}): this level was not lit"
        )
    return exposure_ms


def lit_limit_s(profile: MicroscopeProfile, source: LightSource, exposure_ms: float) -> float:
    """Return how long light may be on for one image: exposure, readout and settling, and the time that devices have to answer."""
    planned_ms = exposure_ms + profile.camera.readout_ms + source.settle_ms
    return planned_ms / 1000 + profile.verification.camera_timeout_s


def set_level(core: CMMCorePlus, profile: MicroscopeProfile, source: LightSource, level: LightLevel) -> float:
    """Set the LED power of a light level and all that lets its light on, and read it back.

    With gating by software, that lights the sample. What is switched off between exposures comes last.

    Returns
    -------
    float
        LED power in percent, as read back.

    Raises
    ------
    NotAsAskedError
        If it is not as asked.
    HungError
        If a device has not answered in time.
    """
    power = source.device, source.property
    switches = {(s.device, s.property) for s in source.switch_off}
    lines = [
        tuple(line) for line in core.getConfigData(LIGHT_LEVEL_GROUP, level.name) if lets_light_on(profile, line[0])
    ]

    def order(line: tuple[str, ...]) -> int:
        # What is none of this source's own first, in the dark; then the power, then its switches.
        return 2 if _is_switch(switches, *line[:2]) else int(line[:2] == power)

    lines.sort(key=order)
    for line in lines:
        device, name, value = line
        asks(device)
        core.setProperty(device, name, value)
        # With gating by software nothing is waited for once there is light; positions of a dimmer come before its switch.
        if profile.gating.how != "software" or order(line) < (1 if source.labels is None else 2):
            core.waitForDevice(device)
    for device, name, value in lines:
        tolerance = source.tolerance if (device, name) == power else _filter_tolerance(value)
        asks(device)
        _refuse_another(level, device, name, core.getProperty(device, name), value, tolerance)
    if source.settle_ms:
        time.sleep(source.settle_ms / 1000)
    asks(source.device)
    return source.percent_of(core.getProperty(*power))


def _is_switch(switches: set[tuple[str, str]], device: str, name: str) -> bool:
    """Return whether a property is what switches light off; `State` and `Label` of a device are one thing."""
    return any((device, one) in switches for one in (("State", "Label") if name in {"State", "Label"} else (name,)))


def _refuse_another(level: LightLevel, device: str, name: str, found: str, wanted: str, tolerance: float) -> None:
    if not is_same(found, wanted, tolerance):
        raise NotAsAskedError(f"{level.name}: {device}.{name} is {found} (asked: {wanted}): this level was not lit")


def _filter_tolerance(value: str) -> float:
    """Return how far a property may be from what was asked for: positions not at all, measures by a hundredth."""
    try:
        return 0.0 if float(value).is_integer() else abs(float(value)) / 100
    except ValueError:
        return 0.0


def expose(core: CMMCorePlus, profile: MicroscopeProfile, watchdog: Watchdog) -> Exposure:
    """Let the light on, take an image, and take the light off again, whatever happens.

    With software gating the light is on already, from the setting of the level on. The caller makes sure that all light
    is off afterwards (`switch_light_off`): an image that was taken is returned first.

    Parameters
    ----------
    watchdog : Watchdog
        Expects light already (`expect_light`); switches it off where something hangs.

    Raises
    ------
    NotAsAskedError
        If the shutter does not open: no light was given.
    ExposureFailedError
        If the camera gives no image, or not in time, or one of another shape, or the shutter does not close.
    """
    shutter, gating = profile.gating.shutter, profile.gating
    planned_ms = core.getExposure() + gating.overhead_ms
    dark_at: list[float] = []
    start = time.perf_counter()
    try:
        try:
            start = time.perf_counter()
            _open(core, shutter, watchdog)
            watchdog.asks("the camera")
            core.snapImage()
            watchdog.asks("the shutter" if shutter else "the light")
        finally:
            _close(core, profile)
            dark_at.append(time.perf_counter())
        if shutter is not None and core.getShutterOpen(shutter):
            raise RuntimeError(f"the shutter {shutter} did not close")
        watchdog.asks("the camera")
        image = core.getImage().copy()
        if image.shape != (profile.camera.height_px, profile.camera.width_px):
            raise RuntimeError(
                f"the camera gave an image of shape {image.shape}, not {profile.camera.height_px} x {profile.camera.width_px}"
            )
    except NotAsAskedError:
        raise
    except Exception as error:  # whatever it is: the sample was lit
        if watchdog.dark_at is not None:
            dark_at.append(watchdog.dark_at)
        lit_ms = (min(dark_at, default=time.perf_counter()) - start) * 1000
        if profile.simulator is not None and not watchdog.has_bitten:
            lit_ms = planned_ms  # a simulator's clock is not the one on the wall, unless it hangs
        raise ExposureFailedError(str(error), max(planned_ms, lit_ms), start) from error
    if gating.how == "camera_ttl" or profile.simulator is not None:
        return Exposure(image, planned_ms, start)
    return Exposure(image, (dark_at[0] - start) * 1000, start)


def _close(core: CMMCorePlus, profile: MicroscopeProfile) -> None:
    """End the exposure's light by one command; whether all is dark is read back afterwards, by `switch_light_off`."""
    if profile.gating.shutter is not None:
        core.setShutterOpen(profile.gating.shutter, False)
    elif profile.gating.how == "software":
        for source in profile.light_sources.values():
            for setting in source.switch_off:
                core.setProperty(setting.device, setting.property, setting.as_text())


def _open(core: CMMCorePlus, shutter: str | None, watchdog: Watchdog) -> None:
    if shutter is not None:
        watchdog.asks(f"the shutter {shutter}")
        watchdog.shines()
        core.setShutterOpen(shutter, True)
        core.waitForDevice(shutter)
        watchdog.asks(f"the shutter {shutter}")
        if not core.getShutterOpen(shutter):
            raise NotAsAskedError(f"the shutter {shutter} did not open")
