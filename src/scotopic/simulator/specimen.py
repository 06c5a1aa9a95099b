from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
from skimage.measure import regionprops_table

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Field:
    """A field of view on the plate: where its pixels are."""

    x_um: float
    """Centre, along the columns from A1, in micrometres on the plate."""
    y_um: float
    """Centre, down the rows from A1."""
    width_px: int
    height_px: int
    pixel_size_um: float

    @property
    def origin_px(self) -> tuple[float, float]:
        """X and y of the centre of the first pixel, in pixels from A1."""
        return (
            self.x_um / self.pixel_size_um - (self.width_px - 1) / 2,
            self.y_um / self.pixel_size_um - (self.height_px - 1) / 2,
        )


class Scene(NamedTuple):
    """A piece of a specimen, before the optics."""

    light: NDArray[Any]
    """Fluorescence, shape (Y, X), float32; 1 gives `peak_e` photo-electrons at full light."""
    origin_px: tuple[float, float]
    """x and y of the centre of its first pixel, in pixels from A1."""


@dataclass(frozen=True)
class Truth:
    """What is really in a field of view."""

    labels: NDArray[Any]
    """Label image, shape (Y, X), int32; 0 is background. Labels are consecutive from 1."""
    nuclei: pd.DataFrame
    """One row a label, in order: `label`, `x_px`, `y_px` (centroid in the image), `area_um2` (of the part in the
    image), `touches_border`, `touches_nucleus`; a synthetic specimen adds `phase` (G1, S, G2, M, dim) and
    `dna_content` (stain bound, in units of a G1 nucleus)."""


class Specimen(Protocol):
    """What lies on the stage of the simulated microscope."""

    is_imaged: bool
    """Whether it comes from images, which the optics of a real microscope have blurred already."""

    def at(self, hours: float) -> Specimen:
        """Return the same specimen at another time after the beginning; itself, if it does not live."""
        ...

    def scene(self, origin_px: tuple[float, float], shape: tuple[int, int], pixel_size_um: float) -> Scene:
        """Return the fluorescence of a piece of the plate on the specimen's own lattice, without any optics.

        Parameters
        ----------
        origin_px : (float, float)
            x and y of the centre of the first pixel wanted, in pixels from A1.
        shape : (int, int)
            Rows and columns.
        pixel_size_um : float
            Size of a pixel.

        Returns
        -------
        Scene
            Of this shape, its first pixel at most one pixel left of and above the one wanted.
        """
        ...

    def truth(self, field: Field) -> Truth | None:
        """Return what is really in a field of view, or None where it is not known."""
        ...

    @property
    def fingerprint(self) -> str:
        """Name, version and hash of the specimen, for every figure that is published."""
        ...

    @property
    def description(self) -> str:
        """One line for people: what it is, and how it became photons."""
        ...


def nuclei_table(labels: NDArray[Any], pixel_size_um: float) -> pd.DataFrame:
    """Return the table of a `Truth` for a label image, shape (Y, X), integer."""
    props = pd.DataFrame(regionprops_table(labels, properties=("label", "centroid", "area")))
    border = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
    return pd.DataFrame(
        {
            "label": props["label"],
            "x_px": props["centroid-1"],
            "y_px": props["centroid-0"],
            "area_um2": props["area"] * pixel_size_um**2,
            "touches_border": props["label"].isin(border),
            "touches_nucleus": props["label"].isin(_touching(labels)),
        }
    )


def _touching(labels: NDArray[Any]) -> NDArray[Any]:
    """Return the labels that have a pixel beside (also diagonally) a pixel of another label."""
    found = []
    for a, b in (
        (labels[:, 1:], labels[:, :-1]),
        (labels[1:], labels[:-1]),
        (labels[1:, 1:], labels[:-1, :-1]),
        (labels[1:, :-1], labels[:-1, 1:]),
    ):
        meet = (a != b) & (a > 0) & (b > 0)
        found += [a[meet], b[meet]]
    return np.unique(np.concatenate(found))
