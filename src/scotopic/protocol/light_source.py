"""The light of one channel: how its power becomes a value of a property, and what makes it dark."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Self

import numpy as np
from pydantic import Field, model_validator

from scotopic.photons import FrozenModel

_POSITION = frozenset({"State", "Label"})
"""Two properties of MMCore's state devices for one thing: the position by number and by name."""


def same_property(one: str, other: str) -> bool:
    """Return whether two properties of a device are one thing."""
    return one == other or _POSITION >= {one, other}


class PropertySetting(FrozenModel):
    """A value for a property of a device."""

    device: str
    """Label of the device in the `.cfg`."""
    property: str
    """Name of the property."""
    value: str | int | float
    """Value to set."""

    def is_of(self, device: str, name: str) -> bool:
        """Return whether it sets a property of a device; `State` and `Label` of a device are one thing."""
        return self.device == device and same_property(self.property, name)

    def as_text(self) -> str:
        """Return the value as MMCore takes it: whole numbers without decimals, which integer properties would refuse."""
        return f"{self.value:g}" if isinstance(self.value, float) else str(self.value)


class DosePoint(FrozenModel):
    """One measured point of a light source's response."""

    led_percent: float = Field(ge=0, le=100)
    """LED power asked for."""
    relative_power: float = Field(ge=0)
    """Light measured, relative to that at 100 %."""


@dataclass(frozen=True)
class LedSetting:
    """What a LED power becomes on a particular light source."""

    text: str
    """Property value, with the decimals that the device shows."""
    led_percent: float
    """LED power that this value gives."""
    exact: bool
    """Whether it is the power asked for, within the source's range and step."""


_Label = Annotated[str, Field(coerce_numbers_to_str=True)]
_Percent = Annotated[float, Field(gt=0, le=100)]


class LightSource(FrozenModel):
    """The light of one channel: how its power is set, and how it is switched off."""

    preset_group: str | None = "Channel"
    """Config group of the channel's preset (filters, mirrors) in the `.cfg`; null where there is nothing to set."""
    preset: str | None = None
    """Name of the channel's preset; without it the channel's own name."""
    more_presets: dict[str, str] = Field(default={})
    """Further presets that the channel needs (light path, dichroic): config group -> preset. They are set first."""
    device: str
    """Label of the device that sets the power."""
    property: str
    """Property that sets the power."""
    min: float = Field(default=0, ge=0)
    """Smallest value that gives light reliably, in the property's own unit (0: no lower limit)."""
    max: float | None = Field(default=None, gt=0)
    """Value at 100 % LED power, in the property's own unit. Power is proportional to the value."""
    step: float | None = Field(default=None, gt=0)
    """Smallest change of the value that the device makes, in the property's own unit."""
    labels: dict[_Label, _Percent] | None = None
    """Instead of `min`, `max` and `step`, for a dimmer with positions, such as a wheel of neutral density filters: each value of the
    property, and the light there in percent of the brightest (100). No other power can be set."""
    switch_off: tuple[PropertySetting, ...] = ()
    """Settings that make the light dark, in this order; the shutter is closed besides. It may be empty for a dimmer with positions
    behind `gating.shutter`: no position of it is dark."""
    settle_ms: float = Field(default=0, ge=0, le=10_000)
    """Time from a new power until the light is stable."""
    transmitted: bool = False
    """Light that goes through the sample (brightfield, phase contrast): images are bright where there is nothing."""
    dose_curve: tuple[DosePoint, ...] | None = None
    """Measured response, if it was measured."""
    illumination: tuple[float, ...] | None = None
    """Measured light over the field with the profile's objective: coefficients of the logarithm's polynomial of second (6) or fourth
    order (15), in x and y from -1 to 1 (`calibrate illumination`)."""

    @model_validator(mode="after")
    def _polynomial_is_whole(self) -> Self:
        if self.illumination is not None and len(self.illumination) not in (6, 15):
            raise ValueError(f"illumination: 6 or 15 coefficients, not {len(self.illumination)}")
        return self

    @model_validator(mode="after")
    def _power_is_described_once(self) -> Self:
        if self.labels is None:
            missing = [key for key in ("max", "step") if getattr(self, key) is None]
            if missing:
                raise ValueError(f"{' and '.join(missing)}: missing; a dimmer with positions has labels instead")
            self._range_is_ordered()
            return self
        if given := [key for key in ("min", "max", "step") if getattr(self, key)]:
            raise ValueError(f"{', '.join(given)}: not with labels, which say each power that there is")
        percents = sorted(self.labels.values())
        if percents[-1:] != [100]:
            raise ValueError("labels: the brightest is 100, which all others are relative to")
        if len(set(percents)) < len(percents):
            raise ValueError("labels: two of them have the same power; name one of the two")
        return self

    def _range_is_ordered(self) -> None:
        top, step = self._range()
        if not self.min < top:
            raise ValueError(f"min ({self.min:g}) must be below max ({top:g})")
        if step > top - self.min:
            raise ValueError(f"step ({step:g}) is larger than the range from min to max")

    @model_validator(mode="after")
    def _off_is_dark(self) -> Self:
        for setting in self.switch_off:
            if not setting.is_of(self.device, self.property):
                continue
            if self.labels is None and setting.as_text() not in {"0", "0.0"}:
                raise ValueError(f"switch_off sets the power to {setting.as_text()}, which is not dark")
            if self.labels is not None and setting.as_text() in self.labels:
                percent = self.labels[setting.as_text()]
                raise ValueError(
                    f"switch_off sets {setting.property} to {setting.as_text()!r}, which is not dark: {percent:g} %"
                )
        return self

    @model_validator(mode="after")
    def _curve_rises_to_all(self) -> Self:
        if self.dose_curve is not None:
            percents = [p.led_percent for p in self.dose_curve]
            if sorted(set(percents)) != percents or percents[-1:] != [100]:
                raise ValueError("dose_curve must rise in led_percent and end at 100")
            if self.dose_curve[-1].relative_power != 1:
                raise ValueError("dose_curve: relative_power at 100 is 1, the light that all others are relative to")
        return self

    def presets(self, channel: str) -> tuple[tuple[str, str], ...]:
        """Return (config group, preset) of all that a channel needs to be set, in this order."""
        own = () if self.preset_group is None else ((self.preset_group, self.preset or channel),)
        return (*self.more_presets.items(), *own)

    def _range(self) -> tuple[float, float]:
        """Value at 100 % and smallest change of a source without labels."""
        if self.max is None or self.step is None:
            raise ValueError(f"{self.device}.{self.property} has labels, no range")
        return self.max, self.step

    @cached_property
    def tolerance(self) -> float:
        """How far a value that is read back may lie from the one that was set, in the property's own unit."""
        return 0.0 if self.labels is not None else self._range()[1] / 2

    @cached_property
    def range_told(self) -> str:
        """Which values there are, in words."""
        name = f"{self.device}.{self.property}"
        if self.labels is not None:
            rising = sorted(self.labels.items(), key=lambda each: each[1])
            return f"{name} has {', '.join(f'{percent:g} % ({label})' for label, percent in rising)}"
        top, step = self._range()
        return f"{name} goes from {self.min:g} to {top:g} in steps of {step:g}"

    def setting(self, led_percent: float) -> LedSetting:
        """Return the property value nearest to a LED power that this source can give."""
        if self.labels is not None:
            label, percent = min(self.labels.items(), key=lambda each: abs(each[1] - led_percent))
            return LedSetting(label, percent, exact=math.isclose(percent, led_percent, rel_tol=1e-6))
        top, step = self._range()
        wanted = led_percent / 100 * top
        lowest = math.ceil(self.min / step - 1e-9) * step
        value = float(np.clip(round(wanted / step) * step, lowest, top))
        return LedSetting(
            text=f"{value:.{_decimals(step)}f}",
            led_percent=value / top * 100,
            exact=math.isclose(value, wanted, rel_tol=1e-6),
        )

    def percent_of(self, value: str) -> float:
        """Return the LED power in percent of a value that was read back.

        Raises
        ------
        ValueError
            If it is no value of this source.
        """
        if self.labels is None:
            return float(value) / self._range()[0] * 100
        if value not in self.labels:
            raise ValueError(f"{self.device}.{self.property} = {value!r}: none of {', '.join(self.labels)}")
        return self.labels[value]

    @cached_property
    def settable_percents(self) -> tuple[float, ...]:
        """LED powers that this source can be set to and that give light reliably, rising, in percent."""
        if self.labels is not None:
            return tuple(sorted(self.labels.values()))
        top, step = self._range()
        first = max(math.ceil(self.min / step - 1e-9), 1)
        return tuple(100 * number * step / top for number in range(first, math.floor(top / step + 1e-9) + 1))

    def relative_power(self, led_percent: float) -> float:
        """Return the light at a LED power relative to 100 %: measured where `dose_curve` is given, else nominal."""
        if self.dose_curve is None:
            return led_percent / 100
        percents = [0.0, *(p.led_percent for p in self.dose_curve)]
        powers = [0.0, *(p.relative_power for p in self.dose_curve)]
        return float(np.interp(led_percent, percents, powers))


def _decimals(step: float) -> int:
    """Return the decimals needed to write any multiple of a step."""
    return next((d for d in range(9) if math.isclose(round(step, d), step, rel_tol=1e-9)), 9)
