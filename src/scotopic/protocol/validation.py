"""What a light level must be good for."""

from __future__ import annotations

from pydantic import Field

from scotopic.photons import FrozenModel


class Tolerances(FrozenModel):
    """Largest errors against the network at full light, each way."""

    count_percent: float = Field(default=3, gt=0, le=100)
    """Number of nuclei."""
    g2_points: float = Field(default=2, gt=0, le=100)
    """Share of G2, in percentage points."""
    area_percent: float = Field(default=5, gt=0, le=100)
    """Median area."""
    intensity_percent: float = Field(default=5, gt=0, le=100)
    """Mean intensity per dose."""


class ValidationSettings(FrozenModel):
    """When a light level is recommended: its errors, with their confidence intervals, lie within the tolerances."""

    tolerances: Tolerances = Tolerances()
    """Largest errors."""
    confidence: float = Field(default=0.95, gt=0.5, lt=1)
    """Confidence of the intervals that must lie within."""
