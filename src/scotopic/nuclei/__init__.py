"""Image to numbers: reference masks, measurements, cell cycle, and the comparison of masks with others."""

from scotopic.nuclei.cell_cycle import LEAST_NUCLEI, SPLIT_DNA_CONTENT, CellCycle, NoFitError, fit_cell_cycle
from scotopic.nuclei.contours import one_piece, renumbered, tidy
from scotopic.nuclei.doubts import unlabelled
from scotopic.nuclei.illumination import (
    LEAST_NUCLEI_FOR_ILLUMINATION,
    Illumination,
    estimate_illumination,
    evenly_lit,
    illumination_of_field,
    unevenly_lit,
)
from scotopic.nuclei.matching import THRESHOLDS, Comparison, Matching, matching, pooled
from scotopic.nuclei.measurement import measure, measure_levels
from scotopic.nuclei.photon_limit import photon_limit
from scotopic.nuclei.quality import SiteQuality, judge
from scotopic.nuclei.segmentation import Segmenter, estimate_diameter, reference_segmentation
from scotopic.protocol import QualityGate, SegmentationSettings

__all__ = [
    "LEAST_NUCLEI",
    "LEAST_NUCLEI_FOR_ILLUMINATION",
    "SPLIT_DNA_CONTENT",
    "THRESHOLDS",
    "CellCycle",
    "Comparison",
    "Illumination",
    "Matching",
    "NoFitError",
    "QualityGate",
    "SegmentationSettings",
    "Segmenter",
    "SiteQuality",
    "estimate_diameter",
    "estimate_illumination",
    "evenly_lit",
    "fit_cell_cycle",
    "illumination_of_field",
    "judge",
    "matching",
    "measure",
    "measure_levels",
    "one_piece",
    "photon_limit",
    "pooled",
    "reference_segmentation",
    "renumbered",
    "tidy",
    "unevenly_lit",
    "unlabelled",
]
