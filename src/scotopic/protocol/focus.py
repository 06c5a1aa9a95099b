from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Discriminator, Field

from scotopic.photons import FrozenModel

FailurePolicy = Literal["skip_site", "image_and_flag", "stop"]


class FixedFocus(FrozenModel):
    """Leave Z where the user focused, or at one stated height."""

    strategy: Literal["fixed"]
    """Z stays, or goes to one stated height."""
    z_um: float | None = None
    """Height to go to, in micrometres; without it the Z drive is never moved."""


class PlaneFocus(FrozenModel):
    """Follow a plane through wells whose focus was measured."""

    strategy: Literal["plane"]
    """Z follows a plane through measured wells."""
    points: dict[str, float] | None = None
    """Well name -> measured height in micrometres, three wells or more; without it, the profile's `focus_plane`."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often a height that was not reached is asked for again."""
    on_failure: FailurePolicy = "skip_site"
    """What then: leave the site out, image it and mark every frame, or stop the run."""


class HardwareFocus(FrozenModel):
    """Let the microscope's autofocus find the focus at every site, before any light."""

    strategy: Literal["hardware"]
    """The autofocus device finds the focus at every site."""
    retries: int = Field(default=2, ge=0, le=20)
    """How often a failed autofocus is tried again."""
    on_failure: FailurePolicy = "skip_site"
    """What then: leave the site out, image it and mark every frame, or stop the run."""


Focus = Annotated[FixedFocus | PlaneFocus | HardwareFocus, Discriminator("strategy")]


def fit_plane(points_um: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """Return (a, b, c) of the plane z = a x + b y + c through (x, y, z) points, by least squares.

    Raises
    ------
    ValueError
        If fewer than three points are given, or all lie on one line.
    """
    points = np.asarray(points_um, dtype=float).reshape(-1, 3)
    centred = points[:, :2] - points[:, :2].mean(0) if len(points) else points[:, :2]
    if len(points) < 3 or np.linalg.matrix_rank(centred, tol=1.0) < 2:
        raise ValueError("a focus plane needs three measured wells or more that do not lie on one line")
    a, b, c = np.linalg.lstsq(np.column_stack([points[:, :2], np.ones(len(points))]), points[:, 2], rcond=None)[0]
    return float(a), float(b), float(c)
