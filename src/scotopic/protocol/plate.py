from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, GetJsonSchemaHandler, ValidationInfo, model_validator
from useq import WellPlate, registered_well_plate_keys

from scotopic.photons import FrozenModel
from scotopic.protocol.names import did_you_mean

if TYPE_CHECKING:
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_GRID_TOLERANCE_MM = 0.05
"""Largest distance of a well of a labware file from a regular grid; ANSI/SLAS 4-2004 allows 0.71 mm overall."""


class Plate(FrozenModel):
    """A multi-well plate: where its wells are, and how large.

    In a protocol file it is written as the name of a plate that useq knows (`96-well`), as the path of an
    Opentrons labware JSON file, or as these keys.
    """

    name: str = Field(min_length=1)
    """Name of the plate format."""
    rows: int = Field(gt=0, le=64)
    """Number of rows."""
    columns: int = Field(gt=0, le=96)
    """Number of columns."""
    spacing_mm: tuple[float, float]
    """Distance between well centres along x and y, in millimetres."""
    well_size_mm: tuple[float, float]
    """Width and height of a well (diameter if round), in millimetres."""
    round_wells: bool = True
    """Whether wells are round (else rectangular)."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Return a schema that allows a plate's name or labware file as well as its keys."""
        return {"anyOf": [{"type": "string"}, handler(core_schema)]}

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any, info: ValidationInfo) -> Any:
        if isinstance(value, dict):  # a list from a file; strict validation takes nothing but a tuple after this
            return {key: tuple(v) if isinstance(v, list) else v for key, v in value.items()}
        if isinstance(value, Plate):
            return value
        if not isinstance(value, str):
            raise ValueError("allowed: a name like 96-well, an Opentrons labware .json file, or the keys of a plate")
        if value.lower().endswith(".json"):
            folder = Path((info.context or {}).get("folder", "."))
            return _read_labware(folder / value)
        known = registered_well_plate_keys()
        if value not in known:
            hint = did_you_mean(value, known) or f"allowed: {', '.join(sorted(known))}, or a labware .json file"
            raise ValueError(f"no plate of this name is known; {hint}")
        plate = WellPlate.from_str(value)
        return {
            "name": value,
            "rows": plate.rows,
            "columns": plate.columns,
            "spacing_mm": plate.well_spacing,
            "well_size_mm": plate.well_size,
            "round_wells": plate.circular_wells,
        }

    @model_validator(mode="after")
    def _wells_fit_their_spacing(self) -> Self:
        if min(self.well_size_mm) <= 0:
            raise ValueError(f"well_size_mm must be positive, not {list(self.well_size_mm)}")
        if (self.columns > 1 and self.spacing_mm[0] <= 0) or (self.rows > 1 and self.spacing_mm[1] <= 0):
            raise ValueError(f"spacing_mm must be positive, not {list(self.spacing_mm)}")
        return self

    @cached_property
    def wells(self) -> dict[str, tuple[int, int]]:
        """Every well's name and its (row, column), row by row, starting at A1."""
        names = WellPlate(
            rows=self.rows, columns=self.columns, well_spacing=self.spacing_mm, well_size=self.well_size_mm
        ).all_well_names
        return {str(names[r, c]): (r, c) for r in range(self.rows) for c in range(self.columns)}

    @property
    def last_well(self) -> str:
        """Name of the well farthest from A1, for messages."""
        return next(reversed(self.wells))

    def centre_um(self, well: str) -> tuple[float, float]:
        """Return the centre of a well on the plate, in micrometres.

        x runs along the columns and y down the rows, both from the centre of A1.
        """
        row, column = self.wells[well]
        return column * self.spacing_mm[0] * 1000, row * self.spacing_mm[1] * 1000

    def contains_um(self, dx_um: float, dy_um: float, margin_um: float = 0) -> bool:
        """Return whether a point at this distance from a well's centre is inside the well."""
        half_x, half_y = (size * 500 - margin_um for size in self.well_size_mm)
        if half_x <= 0 or half_y <= 0:
            return False
        if self.round_wells:
            return (dx_um / half_x) ** 2 + (dy_um / half_y) ** 2 <= 1
        return abs(dx_um) <= half_x and abs(dy_um) <= half_y


def _read_labware(path: Path) -> dict[str, Any]:
    """Return the keys of a plate from an Opentrons labware definition (schema version 2 or 3).

    The file gives the centre of each well in mm from the front left corner, y towards the back:
    https://docs.opentrons.com/v2/new_labware.html
    """
    try:
        labware = json.loads(path.read_text(encoding="utf-8"))
        wells = {name: (float(w["x"]), -float(w["y"])) for name, w in labware["wells"].items()}
        shape = labware["wells"]["A1"]
        columns, rows = len(labware["ordering"]), len(labware["ordering"][0])
        name = str(labware["parameters"]["loadName"])
        rounded = shape["shape"] == "circular"
        size = (shape["diameter"],) * 2 if rounded else (shape["xDimension"], shape["yDimension"])
    except OSError as error:
        raise ValueError(f"cannot read the labware file: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"not an Opentrons labware file: {error!r} at reading wells and ordering") from error
    spacing = [0.0, 0.0]
    if columns > 1:
        spacing[0] = wells["A2"][0] - wells["A1"][0]
    if rows > 1:
        spacing[1] = wells["B1"][1] - wells["A1"][1]
    keys = {
        "name": name,
        "rows": rows,
        "columns": columns,
        "spacing_mm": tuple(spacing),
        "well_size_mm": size,
        "round_wells": rounded,
    }
    _refuse_irregular(Plate.model_validate(keys), wells)
    return keys


def _refuse_irregular(plate: Plate, wells_mm: dict[str, tuple[float, float]]) -> None:
    if wells_mm.keys() != plate.wells.keys():
        raise ValueError(
            f"the labware's wells are not {plate.rows} rows of {plate.columns}: a regular grid of wells is needed"
        )
    x0, y0 = wells_mm["A1"]
    for well, (x, y) in wells_mm.items():
        grid_x, grid_y = plate.centre_um(well)
        if max(abs(x - x0 - grid_x / 1000), abs(y - y0 - grid_y / 1000)) > _GRID_TOLERANCE_MM:
            raise ValueError(f"well {well} of the labware lies off a regular grid: a regular grid is needed")


def expand_wells(expression: str, plate: Plate) -> tuple[str, ...]:
    """Return the names of the wells that an expression like `A1:B3, D5` means, in plate order.

    Parameters
    ----------
    expression : str
        Well names and ranges `first:last` (a rectangle), separated by commas. `a01` means A1.
    plate : Plate
        Plate on which they must exist.

    Raises
    ------
    ValueError
        If a name is malformed or not on the plate; all of them are named at once.
    """
    chosen: set[str] = set()
    bad: list[str] = []
    for part in (p.strip() for p in expression.split(",")):
        corners = [_canonical(name) for name in part.split(":")]
        if len(corners) > 2 or not all(corner in plate.wells for corner in corners):
            bad.append(part or "(nothing between two commas)")
            continue
        rows, columns = zip(*(plate.wells[corner] for corner in corners), strict=True)
        chosen.update(
            well
            for well, (r, c) in plate.wells.items()
            if min(rows) <= r <= max(rows) and min(columns) <= c <= max(columns)
        )
    if bad:
        allowed = f"allowed: A1 to {plate.last_well}, ranges like A1:{plate.last_well}, separated by commas"
        raise ValueError(f"not on a {plate.name} plate: {', '.join(bad)}; {allowed}")
    return tuple(well for well in plate.wells if well in chosen)


def _canonical(name: str) -> str:
    """Return a well's name as `A1` for `a1` and `A01`."""
    match = re.fullmatch(r"([A-Za-z]{1,2})0*([1-9]\d{0,2})", name.strip())
    return f"{match[1].upper()}{match[2]}" if match else name


def spread_wells(count: int, wells: tuple[str, ...], plate: Plate) -> tuple[str, ...]:
    """Return `count` of `wells`, spread evenly and always the same, in plate order.

    Columns are divided evenly and rows follow the golden ratio (a Kronecker lattice), over the box around the
    wells; each point of it takes the nearest well that is left.
    """
    rows, columns = zip(*(plate.wells[well] for well in wells), strict=True)
    left = list(wells)
    for k in range(count):
        row = min(rows) - 0.5 + (0.5 + k * 0.6180339887498949) % 1 * (max(rows) - min(rows) + 1)
        column = min(columns) - 0.5 + (k + 0.5) / count * (max(columns) - min(columns) + 1)
        left.remove(min(left, key=lambda w: (plate.wells[w][0] - row) ** 2 + (plate.wells[w][1] - column) ** 2))
    return tuple(well for well in wells if well not in left)
