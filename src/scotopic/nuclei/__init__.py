"""Image to numbers: reference masks, measurements, and the comparison of masks with others."""

from scotopic.nuclei.matching import THRESHOLDS, Comparison, Matching, matching, pooled
from scotopic.nuclei.measurement import measure
from scotopic.nuclei.segmentation import (
    SegmentationSettings,
    Segmenter,
    estimate_diameter,
    reference_segmentation,
)

__all__ = [
    "THRESHOLDS",
    "Comparison",
    "Matching",
    "SegmentationSettings",
    "Segmenter",
    "estimate_diameter",
    "matching",
    "measure",
    "pooled",
    "reference_segmentation",
]
