"""Single exposures for calibrations: at any power and exposure, where the stage stands, each verified and dark afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scotopic.microscope.core import define_light_levels, switch_light_off
from scotopic.microscope.exposure import ExposureFailedError, expose, lit_limit_s, set_filters, set_level
from scotopic.microscope.lamp_check import refuse_unnamed_light
from scotopic.microscope.watchdog import Watchdog
from scotopic.protocol import ImagingProtocol

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import MicroscopeProfile


class Shots:
    """Takes images of one channel for calibration; nothing moves."""

    def __init__(self, core: CMMCorePlus, profile: MicroscopeProfile, channel: str) -> None:
        refuse_unnamed_light(core, profile, [channel])
        # Below what the profile takes for reliable as well: that is what is to be found out, and a power that is raised to it
        # would be taken for another.
        stated = profile.light_source(channel)
        self._source = type(stated).model_validate(stated.model_dump() | {"min": 0.0})
        sources = profile.light_sources | {channel: self._source}
        self._core, self._channel = core, channel
        self._profile = profile.model_copy(update={"light_sources": sources})
        core.setAutoShutter(False)  # light is let on and off here, in the open
        self.sample_dose_ms = 0.0
        """Light given so far, in milliseconds at full power (by nominal power: it is what is being measured)."""

    def dark(self, exposure_ms: float) -> NDArray[Any]:
        """Return an image without light, shape (Y, X), counts.

        Raises
        ------
        RuntimeError
            If a device fails, or light cannot be switched off.
        """
        switch_light_off(self._core, self._profile)
        self._core.setExposure(exposure_ms)
        self._core.snapImage()
        image: NDArray[Any] = self._core.getImage().copy()
        return image

    def lit(self, exposure_ms: float, led_percent: float, *, settle_ms: float | None = None) -> NDArray[Any]:
        """Return an image with light, shape (Y, X), counts.

        Parameters
        ----------
        settle_ms : float, optional
            Wait so long after the power was set, in the dark, instead of the profile's time.

        Raises
        ------
        RuntimeError
            If a device fails, or power or exposure read back are not as asked for.
        """
        level = {"name": "calibration", "exposure_ms": exposure_ms, "led_percent": led_percent, "role": "reference"}
        one = ImagingProtocol.white_paper(self._channel, "A1").model_dump() | {"light_levels": [level]}
        protocol = ImagingProtocol.model_validate(one)
        define_light_levels(self._core, self._profile, protocol)
        source = self._source if settle_ms is None else self._source.model_copy(update={"settle_ms": settle_ms})
        with Watchdog(lambda: switch_light_off(self._core, self._profile)) as watchdog:
            try:
                set_filters(self._core, self._profile, protocol.reference)
                watchdog.expect_light(lit_limit_s(self._profile, source, exposure_ms))
                set_level(self._core, self._profile, source, protocol.reference)
                exposure = expose(self._core, self._profile, watchdog)
                self.sample_dose_ms += exposure.lit_ms * led_percent / 100
            except ExposureFailedError as error:
                self.sample_dose_ms += error.lit_ms * led_percent / 100
                raise
            finally:
                watchdog.darkens()
                switch_light_off(self._core, self._profile)
                watchdog.dark()
        return exposure.image

    @property
    def least_percent(self) -> float:
        """Least power above none that the device takes."""
        device, name = self._source.device, self._source.property
        low = self._core.getPropertyLowerLimit(device, name) if self._core.hasPropertyLimits(device, name) else 0.0
        return max(self._source.percent_of(str(low)), self._source.settable_percents[0])

    def on_step(self, led_percent: float) -> float:
        """Return the nearest power that the source can be set to, whatever its profile says is of use."""
        return max(self._source.setting(led_percent).led_percent, self._source.settable_percents[0])
