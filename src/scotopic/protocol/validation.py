"""What a light level must be good for, and how large its errors may be."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_validator, model_validator

from scotopic.photons import FrozenModel

LEAST_WELLS = 3
"""Fewer wells give no interval: the spread of two has one degree of freedom, and Student's t is 12.7."""


class Tolerances(FrozenModel):
    """Largest errors of the network at a low light against itself at full light on the same sites; null: not judged."""

    count_percent: float | None = Field(default=None, gt=0, le=100)
    """Number of nuclei."""
    missed_percent: float | None = Field(default=None, gt=0, le=100)
    """Nuclei of full light that are not found (intersection over union at most 0.5)."""
    false_percent: float | None = Field(default=None, gt=0, le=100)
    """Finds that are no nucleus of full light."""
    g2_points: float | None = Field(default=None, gt=0, le=100)
    """Share of G2, in percentage points."""
    area_percent: float | None = Field(default=None, gt=0, le=100)
    """Median area."""
    intensity_percent: float | None = Field(default=None, gt=0, le=100)
    """Mean intensity per dose."""
    dna_percent: float | None = Field(default=None, gt=0, le=100)
    """Median ratio of integrated intensity per dose of the same nuclei, off 1."""
    dna_spread_percent: float | None = Field(default=None, gt=0, le=100)
    """Robust coefficient of variation of that ratio: how well the DNA of each nucleus is known."""


PURPOSES = {
    "count": Tolerances(count_percent=3, missed_percent=8, false_percent=8),
    "cell_cycle": Tolerances(count_percent=3, missed_percent=8, false_percent=8, g2_points=2, dna_percent=5),
    "each_nucleus": Tolerances(
        count_percent=3,
        missed_percent=5,
        false_percent=5,
        area_percent=5,
        intensity_percent=5,
        dna_percent=5,
        dna_spread_percent=15,
    ),
}
"""`count`: nuclei by well; `cell_cycle`: also the share of G2; `each_nucleus`: tracking, intensities of single nuclei."""

_EARLIER_DEFAULTS = {"count_percent": 3, "g2_points": 2, "area_percent": 5, "intensity_percent": 5}
"""Tolerances that runs of version 0.1.0 have stored without anybody having named them."""


class ValidationSettings(FrozenModel):
    """When a light level is recommended: its errors, with their confidence intervals, lie within the purpose's tolerances."""

    purpose: str = "each_nucleus"
    """What the headline is for: `count`, `cell_cycle`, `each_nucleus`, or one of `purposes`. The report judges all of them."""
    purposes: dict[str, Tolerances] = Field(default={}, max_length=10)
    """Own sets of tolerances by name; those of a built-in name change that purpose."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals that must lie within."""

    @model_validator(mode="before")
    @classmethod
    def _tolerances_of_earlier_versions(cls, values: Any) -> Any:
        """Take the one set of tolerances of earlier versions as changes of `each_nucleus`, where they are no defaults."""
        if not isinstance(values, dict) or not isinstance(own := values.get("tolerances"), dict):
            return values
        changed = {name: value for name, value in own.items() if _EARLIER_DEFAULTS.get(name) != value}
        values = {key: value for key, value in values.items() if key != "tolerances"}
        return {"purposes": {"each_nucleus": changed}} | values if changed else values

    @field_validator("purposes", mode="before")
    @classmethod
    def _built_in_purposes_are_changed(cls, value: Any) -> Any:
        """Fill up what a protocol says of a built-in purpose."""
        if not isinstance(value, dict):
            return value
        return {
            name: PURPOSES[name].model_dump() | own if name in PURPOSES and isinstance(own, dict) else own
            for name, own in value.items()
        }

    @field_validator("purposes")
    @classmethod
    def _something_is_judged(cls, value: dict[str, Tolerances]) -> dict[str, Tolerances]:
        if idle := [name for name, each in value.items() if not any(each.model_dump().values())]:
            raise ValueError(f"{', '.join(idle)}: at least one tolerance must be given")
        return value

    @model_validator(mode="after")
    def _purpose_is_known(self) -> ValidationSettings:
        if self.purpose not in self.by_purpose:
            raise ValueError(f"purpose = {self.purpose!r}: allowed: {', '.join(self.by_purpose)}, or one of `purposes`")
        return self

    @property
    def by_purpose(self) -> dict[str, Tolerances]:
        """Purpose -> tolerances: the built-in ones, and those of the protocol."""
        return PURPOSES | self.purposes
