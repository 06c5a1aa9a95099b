from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Discriminator, Field, Tag
from useq import RandomPoints
from useq import Shape as UseqShape

from scotopic.photons import FrozenModel

if TYPE_CHECKING:
    from scotopic.protocol.plate import Plate

Offset = tuple[float, float]
"""Distance of a site from the centre of its well on the plate (x along columns, y down rows), in micrometres."""


class SiteGrid(FrozenModel):
    """Sites side by side around the centre of the well."""

    rows: int = Field(default=1, gt=0, le=50)
    """Rows of sites in a well."""
    columns: int = Field(default=1, gt=0, le=50)
    """Columns of sites in a well."""
    overlap_percent: float = Field(default=0, ge=-400, lt=100)
    """How much neighbouring fields of view overlap, in percent of their size; negative leaves a gap."""

    @property
    def count(self) -> int:
        """Number of sites in each well."""
        return self.rows * self.columns

    def offsets_um(self, well: str, plate: Plate, fov_um: tuple[float, float]) -> tuple[Offset, ...]:
        """Return the offset of each site from the well's centre; site 0 is nearest to A1's corner."""
        del well, plate  # the same in every well of every plate
        step_x, step_y = (size * (1 - self.overlap_percent / 100) for size in fov_um)
        return tuple(
            ((c - (self.columns - 1) / 2) * step_x, (r - (self.rows - 1) / 2) * step_y)
            for r in range(self.rows)
            for c in range(self.columns)
        )


class RandomSites(FrozenModel):
    """Sites at random points of the well that do not overlap, the same at every run."""

    random: int = Field(gt=0, le=2500)
    """Number of sites in each well."""
    seed: int = Field(default=0, ge=0, le=2**31)
    """Seed of the random points; every well has its own points."""

    @property
    def count(self) -> int:
        """Number of sites in each well."""
        return self.random

    def offsets_um(self, well: str, plate: Plate, fov_um: tuple[float, float]) -> tuple[Offset, ...]:
        """Return the offset of each site from the well's centre, each field of view inside the well.

        Raises
        ------
        ValueError
            If so many fields of view do not fit into a well without overlap.
        """
        row, column = plate.wells[well]
        # The field of view keeps clear of the wall by its half diagonal (round) or half sides (rectangular).
        diagonal = (fov_um[0] ** 2 + fov_um[1] ** 2) ** 0.5
        margins = (diagonal, diagonal) if plate.round_wells else fov_um
        width, height = (size * 1000 - margin for size, margin in zip(plate.well_size_mm, margins, strict=True))
        if min(width, height) <= 0:
            raise ValueError(f"a field of view of {fov_um[0]:.0f} x {fov_um[1]:.0f} um is larger than the well")
        points = RandomPoints(
            num_points=self.random,
            max_width=width,
            max_height=height,
            shape=UseqShape.ELLIPSE if plate.round_wells else UseqShape.RECTANGLE,
            random_seed=(self.seed * 1_000_003 + row * 1009 + column) % 2**32,
            allow_overlap=False,
            fov_width=fov_um[0],
            fov_height=fov_um[1],
            order=None,  # the travel order is chosen by the protocol; a site's number must not depend on it
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # useq warns and returns fewer points: told below
            offsets = tuple((float(p.x), float(p.y)) for p in points)
        if len(offsets) < self.random:
            raise ValueError(f"only {len(offsets)} of {self.random} random sites fit into well {well} without overlap")
        return offsets


def _kind(value: Any) -> str:
    keys = value if isinstance(value, dict) else vars(value) if isinstance(value, FrozenModel) else {}
    return "RandomSites" if "random" in keys else "SiteGrid"


Sites = Annotated[
    Annotated[SiteGrid, Tag("SiteGrid")] | Annotated[RandomSites, Tag("RandomSites")], Discriminator(_kind)
]
