from __future__ import annotations

import logging
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
        If a device fails, or the LED power or exposure read back is not the one asked for.
    """
    source = profile.light_source(protocol.channel)
    images = {}
    automatic = core.getAutoShutter()
    core.setAutoShutter(False)  # light is let on and off here, in the open
    try:
        core.setXYPosition(x_um, y_um)
        if z_um is not None:
            core.setZPosition(z_um)
        core.waitForSystem()
        if isinstance(protocol.focus, HardwareFocus):
            core.fullFocus()
        for level in protocol.levels_in_exposure_order:
            core.setConfig(LIGHT_LEVEL_GROUP, level.name)
            core.setExposure(level.exposure_ms)
            core.waitForSystem()
            power = float(core.getProperty(source.device, source.property))
            wanted = float(source.setting(level.led_percent).text)
            if abs(power - wanted) > source.step / 2 or abs(core.getExposure() - level.exposure_ms) > 1e-3:
                raise RuntimeError(
                    f"{level.name}: {source.device}.{source.property} is {power:g} (asked: {wanted:g}), "
                    f"exposure {core.getExposure():g} ms (asked: {level.exposure_ms:g}): no light was given"
                )
            time.sleep(source.settle_ms / 1000)
            images[level.name] = _expose(core, profile)
            if profile.gating.how == "software":
                switch_light_off(core, profile)  # nothing else darkens the sample between two exposures
    finally:
        switch_light_off(core, profile)
        core.setAutoShutter(automatic)
    return images


def _expose(core: CMMCorePlus, profile: MicroscopeProfile) -> NDArray[Any]:
    shutter = profile.gating.shutter
    if shutter is None:
        core.snapImage()
        return core.getImage().copy()
    core.setShutterOpen(shutter, True)
    try:
        core.waitForDevice(shutter)
        core.snapImage()
    finally:
        core.setShutterOpen(shutter, False)
    return core.getImage().copy()
