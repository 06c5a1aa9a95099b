"""Light doses: from exposure and LED power to the light of an image, and back from a dose to a setting.

Everything that plans, checks or recommends a dose asks here, so that a measured LED curve or a gating lag counts the same
everywhere. Doses of images that were taken stand in the ledger (`FrameRecord.signal_dose_ms`), worked out by `signal_ms` too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scotopic.protocol.imaging import ImagingProtocol
    from scotopic.protocol.levels import LightLevel
    from scotopic.protocol.profile import MicroscopeProfile

_EXACT = 0.005
"""Relative difference of two doses that no camera shows: at most this is left to the steps of the LED."""

_NEAR = math.log(1.5)
"""Within this factor of the exposure wanted, exposures of whole tenths of a millisecond are preferred: any camera takes them."""


@dataclass(frozen=True)
class LightSetting:
    """What to set for a dose."""

    exposure_ms: float
    led_percent: float


def full_light_ms(protocol: ImagingProtocol, profile: MicroscopeProfile, level: LightLevel) -> float:
    """Return the light of an image at full light of a level's channel, in milliseconds at full power."""
    full = protocol.full_light(level)
    return profile.signal_ms(protocol.channel_of(full), full.exposure_ms, full.led_percent)


def relative_dose(protocol: ImagingProtocol, profile: MicroscopeProfile, level: LightLevel) -> float:
    """Return the light of a level's images relative to full light of its channel, by the measured curve and lag.

    Not a number where full light gives none.
    """
    signal = profile.signal_ms(protocol.channel_of(level), level.exposure_ms, level.led_percent)
    full = full_light_ms(protocol, profile, level)
    return signal / full if full else math.nan


def setting_for(profile: MicroscopeProfile, channel: str, signal_ms: float, exposure_ms: float) -> LightSetting | None:
    """Return the exposure and LED power that give an image's dose: the inverse of `MicroscopeProfile.signal_ms`.

    Parameters
    ----------
    channel : str
        Channel, by its name in the profile.
    signal_ms : float
        Light wanted, in milliseconds at full power.
    exposure_ms : float
        Exposure to keep if some LED power gives the dose with it; else the nearest one that does.

    Returns
    -------
    LightSetting or None
        A LED power that the source can be set to. None if no setting gives the dose: the LED is too bright at its least
        power for the camera's shortest exposure.
    """
    lag_ms, shortest_ms = profile.gating.lag_ms, profile.camera.min_exposure_ms
    percents = np.array(profile.light_source(channel).settable_percents)
    light = np.array([profile.light_source(channel).relative_power(percent) for percent in percents])
    percents, light = percents[light > 0], light[light > 0]
    if not percents.size or signal_ms <= 0:
        return None
    off = np.abs(light * max(exposure_ms - lag_ms, 0.0) / signal_ms - 1)
    if exposure_ms >= shortest_ms and off.min() <= _EXACT:
        return LightSetting(exposure_ms, float(percents[off.argmin()]))
    needed_ms = signal_ms / light + lag_ms
    candidates = [pair for pair in zip(needed_ms.tolist(), percents.tolist(), strict=True) if pair[0] >= shortest_ms]
    if not candidates:
        return None

    def preference(candidate: tuple[float, float]) -> tuple[bool, bool, float]:
        far = abs(math.log(candidate[0] / exposure_ms))
        is_odd = not math.isclose(10 * candidate[0], round(10 * candidate[0]), abs_tol=1e-5)
        return far > _NEAR, is_odd, far

    exposure, percent = min(candidates, key=preference)
    return LightSetting(float(f"{exposure:.4g}"), percent)
