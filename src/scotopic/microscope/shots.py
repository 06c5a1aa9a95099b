"""Single exposures for calibrations: at any power and exposure, where the stage stands, each verified and dark afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scotopic.microscope.core import define_light_levels, switch_light_off
from scotopic.microscope.exposure import expose, set_filters, set_level
from scotopic.protocol import ImagingProtocol

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import MicroscopeProfile


class Shots:
    """Takes images of one channel for calibration; nothing moves."""

    def __init__(self, core: CMMCorePlus, profile: MicroscopeProfile, channel: str) -> None:
        self._core, self._profile, self._channel = core, profile, channel
        self._source = profile.light_source(channel)
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
        try:
            set_filters(self._core, self._profile, protocol.reference)
            source = self._source if settle_ms is None else self._source.model_copy(update={"settle_ms": settle_ms})
            set_level(self._core, self._profile, source, protocol.reference)
            exposure = expose(self._core, self._profile)
        finally:
            switch_light_off(self._core, self._profile)
        self.sample_dose_ms += exposure.lit_ms * led_percent / 100
        return exposure.image

    def on_step(self, led_percent: float) -> float:
        """Return the nearest power that the source can be set to, whatever its profile says is of use."""
        step = self._source.step / self._source.max * 100
        return max(round(led_percent / step), 1) * step
