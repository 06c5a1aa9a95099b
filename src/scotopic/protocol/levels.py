from __future__ import annotations

from typing import Literal

from pydantic import Field

from scotopic.photons import FrozenModel

Role = Literal["reference", "reduced"]


class LightLevel(FrozenModel):
    """One way to light the sample: an exposure time and a LED power."""

    name: str = Field(min_length=1, max_length=40, pattern=r"^[^,;:\"'\\/\s]+( [^,;:\"'\\/\s]+)*$")
    """Unique name, for example `0.2%`. It becomes a Micro-Manager preset: no commas, quotes, colons or slashes."""
    exposure_ms: float = Field(gt=0, le=60_000)
    """Exposure time in milliseconds."""
    led_percent: float = Field(gt=0, le=100)
    """LED power in percent of its full power."""
    role: Role = "reduced"
    """`reference` for the full-light image that the masks come from, `reduced` for all others."""

    @property
    def nominal_dose(self) -> float:
        """Exposure times LED power, in milliseconds at full power."""
        return self.exposure_ms * self.led_percent / 100
