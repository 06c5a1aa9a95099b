"""`report.json`: the result of a validation. The page is a view of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from scotopic.photons import FrozenModel

VERSION = 1
Source = Literal["network", "reference", "classical"]
Partner = Literal["network_100", "reference", "truth"]


class Figure(FrozenModel):
    """A number with its confidence interval."""

    value: float | None
    """The number; nothing where it has no meaning."""
    confidence_95: tuple[float, float] | None = None
    """Interval over wells at 95 % confidence; not worked out in this version."""


class Against(FrozenModel):
    """How a row compares with a partner on the same sites."""

    count_deviation_percent: Figure
    """Nuclei counted, relative to the partner's."""
    g2_deviation_points: Figure
    """Difference of the shares of G2, in percentage points."""
    median_area_deviation_percent: Figure
    """Median area relative to the partner's."""
    mean_intensity_deviation_percent: Figure
    """Mean intensity per dose relative to the partner's; nothing against truth."""
    f1_at_0_5: Figure = Field(alias="f1_at_0.5", serialization_alias="f1_at_0.5")
    """F1 at an intersection over union of 0.5, pooled over sites."""
    f1_at_0_7: Figure = Field(alias="f1_at_0.7", serialization_alias="f1_at_0.7")
    """F1 at 0.7."""
    mean_f1: Figure
    """Mean of F1 over 0.5 to 0.95."""
    miss_percent: Figure
    """Nuclei of the partner that were not found (IoU 0.5)."""
    false_percent: Figure
    """Finds that are no nucleus of the partner (IoU 0.5)."""


class Level(FrozenModel):
    """One row: what a source says of one light level of the held-out wells."""

    name: str
    """Light level."""
    source: Source
    """`network`, `reference` (masks of the bright image) or `classical` (the reference segmentation on the dark image)."""
    relative_dose: float
    """Light of the image relative to the reference level."""
    sample_dose: float
    """Light that the sample got, milliseconds at full power, mean of a frame."""
    nuclei_count: int
    """Nuclei."""
    g1_percent: float | None
    """Share of nuclei below a DNA content of 1.5."""
    g2_percent: float | None
    """Share of nuclei above."""
    cell_cycle: str
    """Why there is no fit of G1 and G2; empty where there is one."""
    median_area_um2: float | None
    """Median area of nuclei that do not touch the border."""
    mean_intensity: float | None
    """Mean of mean intensities, photo-electrons above background, divided by the relative dose."""
    against: dict[Partner, Against]
    """Comparisons, where there is a partner."""


class Report(FrozenModel):
    """Everything that a validation found."""

    version: int = VERSION
    """Version of this schema."""
    protocol: str
    """Name of the protocol."""
    model: str | None
    """Hash of the model's file; nothing if the run has none."""
    held_out_wells: tuple[str, ...]
    """Wells that were validated on."""
    sites: int
    """Number of sites validated."""
    levels: tuple[Level, ...]
    """Rows by source and falling light."""
    missing: tuple[str, ...]
    """What the report lacks, and why; nothing if it is whole."""
    recommended_level: str | None = None
    """Not worked out in this version."""
    light_saving_factor: float | None = None
    """Not worked out in this version."""
    time_saving_factor: float | None = None
    """Not worked out in this version."""
    timing: dict[str, float | None]
    """Seconds: `prediction_per_frame`, `training`; null where there was none."""
    dose: dict[str, float]
    """Light of the whole run, milliseconds at full power: `signal`, `sample`."""
    versions: dict[str, str]
    """Versions of what it was made with."""
    specimen: str | None
    """Fingerprint of a simulated specimen; nothing on a real microscope."""
    model_card: dict[str, Any] | None = None
    """What the model says of itself."""
