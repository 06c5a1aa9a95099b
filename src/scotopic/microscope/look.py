from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.microscope.core import switch_light_off
from scotopic.microscope.exposure import Exposure, autofocus, expose, go_to, lit_limit_s, set_filters, set_level
from scotopic.microscope.watchdog import Watchdog
from scotopic.protocol import HardwareFocus

if TYPE_CHECKING:
    from collections.abc import Collection

    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile


def image_site(
    core: CMMCorePlus,
    profile: MicroscopeProfile,
    protocol: ImagingProtocol,
    x_um: float,
    y_um: float,
    z_um: float | None,
    levels: Collection[str] = (),
) -> dict[str, Exposure]:
    """Take one image of a site at light levels, in the protocol's order, and leave the light off.

    Parameters
    ----------
    core : CMMCorePlus
        Core as `open_microscope` returned it, with the protocol's light levels defined.
    x_um, y_um, z_um : float
        Stage position; without Z it is not moved (but for the autofocus, where the protocol asks for it).
    levels : collection of str
        Names of the light levels; all of the protocol's without it.

    Returns
    -------
    dict of level name to Exposure
        Images, shape (Y, X), in counts, and how long each lit the sample.

    Raises
    ------
    RuntimeError
        If a device fails, or position, LED power, exposure or shutter read back are not as asked for.
    """
    images = {}
    automatic = core.getAutoShutter()
    core.setAutoShutter(False)  # light is let on and off here, in the open
    with Watchdog(lambda: switch_light_off(core, profile)) as watchdog:
        try:
            go_to(core, profile, (x_um, y_um), z_um)
            if isinstance(protocol.focus, HardwareFocus):
                autofocus(core, profile, protocol.focus.retries)
            for level in protocol.levels_in_exposure_order:
                if not levels or level.name in levels:
                    source = profile.light_source(protocol.channel_of(level))
                    set_filters(core, profile, level)
                    watchdog.expect_light(lit_limit_s(profile, source, level.exposure_ms))
                    set_level(core, profile, source, level)
                    images[level.name] = expose(core, profile, watchdog)
                    watchdog.darkens()
                    switch_light_off(core, profile)
                    watchdog.dark()
        finally:
            switch_light_off(core, profile)
            core.setAutoShutter(automatic)
    return images
