"""What a protocol may say about nuclei: how they are found, and which sites are good enough to learn from."""

from __future__ import annotations

from pydantic import Field

from scotopic.photons import FrozenModel


class SegmentationSettings(FrozenModel):
    """What the reference segmentation may be told about nuclei."""

    diameter_um: float | None = Field(default=None, gt=0)
    """Typical diameter of a nucleus; without it, it is estimated from each image."""
    smallest: float = Field(default=0.28, ge=0, lt=1)
    """Smallest area of a nucleus relative to a typical one: below it is debris or a micronucleus. Nuclei cut by the
    border of the image may be smaller, down to 0.06."""
    least_contrast: float = Field(default=0.15, ge=0, lt=1)
    """Least drop of intensity from a nucleus to its surroundings, relative to its own above background."""
    edge: float = Field(default=0.97, ge=0.7, le=1)
    """Where a nucleus ends: at the outermost level whose slope is this share of the steepest. 0.97 follows annotators who cut
    at half of a nucleus' brightness; at 0.88 masks reach to a third of it, half a pixel farther at 27 pixels of diameter."""


class QualityGate(FrozenModel):
    """When the bright image of a site is good enough to make ground truth from."""

    least_sharpness: float = Field(default=2.75, ge=0)
    """Focus: least median slope of intensity across the edges of nuclei, in their own intensity per diameter. Real
    nuclei in focus have 3 to 7; blurred by a quarter of their diameter (standard deviation) 2 to 2.6."""
    most_saturated: float = Field(default=0.1, ge=0, le=1)
    """Largest share of nuclei with saturated pixels."""
    most_covered: float = Field(default=0.6, gt=0, le=1)
    """Overfull: largest share of the image that nuclei cover."""
    most_uneven: float = Field(default=2.5, gt=1)
    """Illumination failure: largest ratio between the median intensities of nuclei in opposite halves of the image.
    A half that is all but dark, with less than a twentieth of the light of at least twelve nuclei, fails too."""
    most_size_spread: float = Field(default=0.7, gt=0)
    """Implausible sizes: largest robust standard deviation of the logarithm of area."""
    most_elongated: float = Field(default=0.95, gt=0, le=1)
    """Implausible shapes: largest median eccentricity."""
    most_clumped: float = Field(default=0.2, ge=0, le=1)
    """Largest share of nuclear area in clumps that could not be split, where they are as large as five nuclei."""
    most_unlabelled: float = Field(default=0.25, ge=0, le=1)
    """Largest share of what is as bright as nuclei that has no label: missed nuclei, clumps at the border, clouds."""
    most_in_strips: float = Field(default=0.1, ge=0, le=1)
    """Fibre: largest share of nuclei that are pieces of something long and evenly wide. Five nuclei that touch in a row by
    chance are up to a tenth of a small, crowded field."""
    most_lines: int = Field(default=0, ge=0)
    """Largest number of rows and columns of the camera that are dead, or brighter or darker than both of their sides, over half
    of their length or more."""


class NucleiSettings(FrozenModel):
    """How nuclei are found and judged in the reference images."""

    segmentation: SegmentationSettings = SegmentationSettings()
    """What the reference segmentation may be told."""
    quality: QualityGate = QualityGate()
    """Which sites are good enough to learn from."""
