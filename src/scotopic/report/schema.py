"""`report.json`: the result of a validation. The page is a view of it."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from scotopic.photons import FrozenModel

VERSION = 3
Source = Literal["network", "reference", "classical"]
LeftOut = Literal["learned from", "not acquired", "wrong light", "skipped image", "no full-light image", "no masks"]
"""Why a site of a held-out well is not validated on; the first one that holds. `learned from`: by this very model."""
Relation = Literal["same_plate", "other_plate", "unknown"]
Partner = Literal["network_100", "reference", "truth"]


class Figure(FrozenModel):
    """A number with its confidence interval."""

    value: float | None
    """The number; nothing where it has no meaning."""
    confidence_95: tuple[float, float] | None = None
    """Interval over wells at 95 % confidence, paired between levels; nothing with fewer than three wells."""


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
    splits: int
    """Nuclei of the partner in which more than one find lies."""
    merges: int
    """Finds in which more than one nucleus of the partner lies."""
    matched: int
    """Nuclei that both have (IoU above 0.5), of those that do not touch the border: what follows is of these."""
    area_correlation: Figure
    """Correlation of their areas."""
    area_bias_percent: Figure
    """Median of the ratio of their areas, off 1."""
    intensity_correlation: Figure
    """Correlation of their integrated intensities; against truth, with true DNA content."""
    intensity_bias_percent: Figure
    """Median of the ratio of their integrated intensities per dose, off 1; nothing against truth."""
    dna_spread_percent: Figure
    """Robust coefficient of variation of that ratio: how well the DNA of each nucleus is known; nothing against truth."""
    g1_to_g2: int | None = None
    """Of the same nuclei, those that have changed from G1 (DNA content below 1.5) to G2; nothing without a fit."""
    g2_to_g1: int | None = None
    """Those that have changed from G2 to G1."""


class Level(FrozenModel):
    """One row: what a source says of one light level of the held-out wells."""

    name: str
    """Light level."""
    measured: bool = True
    """Whether the microscope took these images; else they were made by thinning the photons of the bright ones."""
    channel: str = ""
    """Channel of the images."""
    source: Source
    """`network`, `reference` (masks of the bright image) or `classical` (the reference segmentation on the dark image)."""
    relative_dose: float
    """Light of the image relative to the reference level; of another channel, relative to its brightest level."""
    sample_dose: float
    """Light that the sample got, milliseconds at full power, mean of a frame."""
    nuclei_count: int
    """Nuclei."""
    g1_percent: float | None
    """Share of nuclei below a DNA content of 1.5."""
    g2_percent: float | None
    """Share of nuclei above."""
    confidence_95: dict[str, tuple[float, float] | None] = Field(default_factory=dict)
    """Intervals over wells of this row's own figures, by their names."""
    cell_cycle: str
    """Why there is no fit of G1 and G2; empty where there is one."""
    median_area_um2: float | None
    """Median area of nuclei that do not touch the border."""
    mean_intensity: float | None
    """Mean of mean intensities, photo-electrons above background, divided by the relative dose."""
    against: dict[Partner, Against]
    """Comparisons, where there is a partner."""
    best_recall: dict[str, float] = Field(default_factory=dict)
    """IoU -> share of nuclei that any method could find at best in so few photons (`photon_limit`); of the network's rows."""


Judged = Literal[
    "count_percent",
    "missed_percent",
    "false_percent",
    "g2_points",
    "area_percent",
    "intensity_percent",
    "dna_percent",
    "dna_spread_percent",
]
"""What is judged: the names of `Tolerances`."""


class Doubt(FrozenModel):
    """A figure that does not lie within its tolerance, for sure."""

    figure: Judged
    """Which one."""
    kind: Literal["beyond", "interval", "unknown", "no interval"]
    """The value is beyond the tolerance; its interval is; it has no value; or there are too few wells for an interval."""
    tolerance: float
    """Largest error allowed."""
    value: float | None = None
    """The figure."""
    interval: tuple[float, float] | None = None
    """Its interval at the protocol's confidence."""
    enough_wells: int | None = None
    """With how many wells the interval would probably lie within, by the spread that was measured."""


class Judgement(FrozenModel):
    """Whether the network at one light level is as good as at full light."""

    name: str
    """Light level."""
    relative_dose: float
    """Its light relative to the reference level."""
    measured: bool
    """Whether the microscope took such images."""
    verdict: Literal["within", "beyond", "undecided"]
    """All intervals within the tolerances; some figure beyond its tolerance; or neither, for lack of nuclei or wells."""
    doubts: tuple[Doubt, ...] = ()
    """What is beyond, or undecided."""


Outcome = Literal[
    "level", "none", "too few nuclei", "too few wells", "too few sites", "no nuclei", "no reduced level", "not learned"
]
"""`level`: some light is enough; `none`: even the brightest reduced level has an error beyond its tolerance. Otherwise nothing can
be said of low light: intervals are too wide; fewer than three wells; fewer than half of the held-out sites could be judged;
there is not a nucleus in them; no reduced level is left to judge; or the network has not learned."""


class Purpose(FrozenModel):
    """How low the light may go for one purpose."""

    outcome: Outcome
    """What came out."""
    tolerances: dict[str, float | None]
    """Largest errors; null is not judged."""
    judgements: tuple[Judgement, ...] = ()
    """By falling light: levels are tried until one is not within."""
    level: str | None = None
    """Lowest light that is within."""
    relative_dose: float | None = None
    """Its light relative to the reference level."""
    exposure_ms: float | None = None
    """Exposure that gives this light on this microscope."""
    led_percent: float | None = None
    """LED power that gives it, by the measured curve where there is one."""
    light_saving_factor: float | None = None
    """Light on the sample at the reference level over that at this one."""
    time_saving_factor: float | None = None
    """Time of an image, exposure and read-out, at the reference level over that at this one."""
    enough_wells: int | None = None
    """With how many held-out wells like these the next level would probably be decided; nothing where that is not known."""
    enough_nuclei: int | None = None
    """How many nuclei these wells would have at full light."""


class Learned(FrozenModel):
    """Whether the network has learned: its agreement with the reference masks at full light."""

    f1: float | None
    """F1 at an intersection over union of 0.5; nothing where neither has any nucleus."""
    least_f1: float
    """Least F1 that counts as having learned."""
    wells: Literal["held-out", "validation"]
    """On which wells."""
    classical_f1: float | None = None
    """That of the classical method at the brightest reduced level, on the same sites."""
    f1_there: float | None = None
    """That of the network at the same level."""
    steps: int | None = None
    """Steps of its training."""

    @property
    def is_enough(self) -> bool:
        """Whether low light can be judged by this network: any can where the protocol asks for no F1."""
        worse = (
            self.least_f1 > 0
            and self.classical_f1 is not None
            and self.f1_there is not None
            and self.f1_there < self.classical_f1 - CLEARLY_WORSE_F1
        )
        return self.f1 is not None and self.f1 >= self.least_f1 and not worse


CLEARLY_WORSE_F1 = 0.1
"""A network whose F1 is so much below that of the classical method, where that still works, has not learned what it should."""


class Recommendation(FrozenModel):
    """How low the light may go, by purpose."""

    purpose: str
    """The protocol's purpose: what the headline states."""
    purposes: dict[str, Purpose]
    """All purposes."""
    confidence: float
    """Of the intervals that must lie within."""
    learned: Learned
    """Whether the network has learned."""

    @property
    def headline(self) -> Purpose:
        """What came out for the protocol's purpose."""
        return self.purposes[self.purpose]


class RefusedSite(FrozenModel):
    """A site whose masks are no ground truth."""

    name: str
    """Site."""
    reasons: tuple[str, ...]
    """What the quality gate found."""


class GroundTruth(FrozenModel):
    """What is known of the reference masks of the whole run."""

    sites: int
    """Sites with masks."""
    refused: tuple[RefusedSite, ...]
    """Sites that the quality gate refused."""
    nuclei: int
    """Nuclei in all masks."""
    flagged: dict[str, int]
    """Nuclei that look like a clump, debris, or in mitosis."""
    unlabelled: int
    """Things as bright as nuclei that have no label."""


class Stability(FrozenModel):
    """Whether signal follows light: over the exposures of a site, and over the run."""

    signal_per_dose_percent: dict[str, Figure]
    """Light level, in order of exposure -> signal of the same nuclei per dose, relative to the reference's, off 1. Bleaching
    lowers what is exposed later; a LED or shutter that gives other light than asked for shows here too."""
    drift_percent: Figure
    """Change of the nuclei's mean intensity at the reference level from the first to the last site, by a straight line over all."""


class PaperRow(FrozenModel):
    """A row of the white paper's table: two wells a light level."""

    name: str
    """Light level."""
    wells: tuple[str, ...]
    """Wells of this row."""
    nuclei_count: int
    """Nuclei that the network finds in them."""
    count_deviation_percent: float | None
    """Against the network at full light in the same wells."""
    g1_percent: float | None
    """Share of G1."""
    g2_percent: float | None
    """Share of G2."""


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
    planned_sites: int
    """Number of sites of the held-out wells, by the protocol."""
    left_out: dict[LeftOut, int] = Field(default_factory=dict)
    """Why sites of held-out wells were not validated on, and how many."""
    seen: Relation | None = None
    """Whether the model has learned from this plate, as far as that is known; nothing without a model."""
    levels: tuple[Level, ...]
    """Rows by source and falling light."""
    missing: tuple[str, ...]
    """What the report lacks, and why; nothing if it is whole."""
    recommendation: Recommendation | None = None
    """How low the light may go, and why; nothing without a network."""
    as_in_the_paper: tuple[PaperRow, ...] = ()
    """The network's rows once more from two wells a level, as in the white paper."""
    ground_truth: GroundTruth | None = None
    """Verdict on the reference masks; nothing where there are none."""
    stability: Stability | None = None
    """Whether signal follows light; nothing without reference masks."""
    training: tuple[dict[str, Any], ...] = ()
    """The checks of the training: `step`, `seconds`, `loss`, and `f1` by light level."""
    timing: dict[str, float | None]
    """Seconds: `prediction_per_frame`, `training`; null where there was none."""
    dose: dict[str, float]
    """Light of the whole run, milliseconds at full power: `signal`, `sample`."""
    sample_dose_by_channel: dict[str, float] = Field(default_factory=dict)
    """Light on the sample, milliseconds at the full power of each channel's source, by the ledger's lines."""
    calibrations: dict[str, str] = Field(default_factory=dict)
    """What of the microscope was measured, and when; what was assumed where it was not."""
    versions: dict[str, str]
    """Versions of what it was made with."""
    specimen: str | None
    """Fingerprint of a simulated specimen; nothing on a real microscope."""
    model_card: dict[str, Any] | None = None
    """What the model says of itself."""

    @property
    def recommended_level(self) -> str | None:
        """Lowest light for the protocol's purpose; nothing if there is none."""
        return self.recommendation.headline.level if self.recommendation else None

    @property
    def is_whole(self) -> bool:
        """Whether nothing is missing, and the network has learned and had something to be judged by."""
        outcome = self.recommendation.headline.outcome if self.recommendation else "level"
        return not self.missing and outcome not in {"not learned", "no nuclei", "no reduced level", "too few sites"}
