from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any

from scotopic.microscope.core import switch_light_off
from scotopic.protocol import LIGHT_LEVEL_GROUP, HardwareFocus

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile

logger = logging.getLogger(__name__)


def image_site(
    core: CMMCorePlus,
    profile: MicroscopeProfile,
    protocol: ImagingProtocol,
    x_um: float,
    y_um: float,
    z_um: float | None,
) -> dict[str, NDArray[Any]]:
    """Take one image of a site at each light level, in the protocol's order, and leave the light off.

    Parameters
    ----------
    core : CMMCorePlus
        Core as `open_microscope` returned it, with the protocol's light levels defined.
    x_um, y_um, z_um : float
        Stage position; without Z it is not moved (but for the autofocus, where the protocol asks for it).

    Returns
    -------
    dict of level name to NDArray, shape (Y, X), uint16
        Images in counts.

    Raises
    ------
    RuntimeError
        If a device fails, or position, LED power, exposure or shutter read back are not as asked for.
    """
    source = profile.light_source(protocol.channel)
    images = {}
    automatic = core.getAutoShutter()
    core.setAutoShutter(False)  # light is let on and off here, in the open
    try:
        _go_to(core, profile, x_um, y_um, z_um)
        if isinstance(protocol.focus, HardwareFocus):
            _autofocus(core, protocol.focus.retries)
            low, high = profile.stage.z_um
            if not low <= core.getZPosition() <= high:
                raise RuntimeError(
                    f"the autofocus went to Z = {core.getZPosition():.1f} um, outside {low:g} to {high:g}"
                )
        for level in protocol.levels_in_exposure_order:
            core.setConfig(LIGHT_LEVEL_GROUP, level.name)
            core.setExposure(level.exposure_ms)
            core.waitForSystem()
            power = float(core.getProperty(source.device, source.property))
            wanted = float(source.setting(level.led_percent).text)
            exposure_ms = core.getExposure()
            allowed_ms = level.exposure_ms * profile.verification.exposure_tolerance_percent / 100
            if abs(power - wanted) > source.step / 2 or abs(exposure_ms - level.exposure_ms) > allowed_ms:
                raise RuntimeError(
                    f"{level.name}: {source.device}.{source.property} is {power:g} (asked: {wanted:g}), "
                    f"exposure {exposure_ms:g} ms (asked: {level.exposure_ms:g}): this level was not lit"
                )
            time.sleep(source.settle_ms / 1000)
            images[level.name] = _expose(core, profile)
            if profile.gating.how == "software":
                switch_light_off(core, profile)  # nothing else darkens the sample between two exposures
    finally:
        switch_light_off(core, profile)
        core.setAutoShutter(automatic)
    return images


def _go_to(core: CMMCorePlus, profile: MicroscopeProfile, x_um: float, y_um: float, z_um: float | None) -> None:
    core.setXYPosition(x_um, y_um)
    if z_um is not None:
        core.setZPosition(z_um)
    core.waitForSystem()
    x, y = core.getXYPosition()
    if math.hypot(x - x_um, y - y_um) > profile.stage.xy_tolerance_um:
        raise RuntimeError(f"the stage is at {x:.1f}, {y:.1f} um (asked: {x_um:.1f}, {y_um:.1f}): no light was given")
    if z_um is not None and abs(core.getZPosition() - z_um) > profile.stage.z_tolerance_um:
        raise RuntimeError(f"Z is at {core.getZPosition():.2f} um (asked: {z_um:.2f}): no light was given")


def _autofocus(core: CMMCorePlus, retries: int) -> None:
    for attempt in range(retries + 1):
        try:
            core.fullFocus()
            return
        except RuntimeError:
            if attempt == retries:
                raise


def _expose(core: CMMCorePlus, profile: MicroscopeProfile) -> NDArray[Any]:
    shutter = profile.gating.shutter
    if shutter is None:
        core.snapImage()
        return core.getImage().copy()
    core.setShutterOpen(shutter, True)
    try:
        core.waitForDevice(shutter)
        if not core.getShutterOpen(shutter):
            raise RuntimeError(f"the shutter {shutter} did not open")
        core.snapImage()
    finally:
        core.setShutterOpen(shutter, False)
    if core.getShutterOpen(shutter):
        raise RuntimeError(f"the shutter {shutter} did not close")
    return core.getImage().copy()
