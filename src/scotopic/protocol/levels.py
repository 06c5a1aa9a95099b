from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from scotopic.photons import FrozenModel

Role = Literal["reference", "reduced"]
Taken = Literal["always", "when_unsure", "at_sentinels"]


class LightLevel(FrozenModel):
    """One way to light the sample: an exposure time and a LED power."""

    name: str = Field(min_length=1, max_length=40)
    """Unique name, for example `0.2%`. It becomes a Micro-Manager preset: no commas, quotes, colons or slashes."""
    channel: str | None = Field(default=None, min_length=1)
    """Channel of this image where it is another than the protocol's, by its name in the profile's `light_sources`."""
    exposure_ms: float = Field(gt=0, le=60_000)
    """Exposure time in milliseconds."""
    led_percent: float = Field(gt=0, le=100)
    """LED power in percent of its full power."""
    role: Role = "reduced"
    """`reference` for the full-light image that the masks come from, `reduced` for all others."""

    taken: Taken = "always"
    """`always`; `when_unsure`: only where a rule of `live` asks for it; `at_sentinels`: only at the sentinels of `live`."""

    @field_validator("name")
    @classmethod
    def _name_can_be_a_preset(cls, value: str) -> str:
        if value != value.strip() or set(value) & set(",;:\"'\\/\t\r\n"):
            raise ValueError("no commas, quotes, colons, slashes or spaces at the ends")
        return value

    @property
    def nominal_dose(self) -> float:
        """Exposure times LED power, in milliseconds at full power."""
        return self.exposure_ms * self.led_percent / 100
