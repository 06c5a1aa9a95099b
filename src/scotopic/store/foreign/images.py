from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from scotopic.protocol import Problem

if TYPE_CHECKING:
    from pathlib import Path

WELL = r"[A-Z]{1,2}0?\d{1,2}"
"""What the name of a well looks like: `B2`, `B02`, and `B002` of the BD Pathway."""
NOT_IN_A_LEVEL = re.compile(r"[,;:\"'\\/\t\r\n]")
"""What the name of a light level cannot hold; `-` stands for it."""


@dataclass(frozen=True)
class ForeignImage:
    """One image of other software, and the place and the light that it has in a run."""

    path: Path
    """File."""
    level: str
    """Light level."""
    plane: int | None = None
    """Which page of the file it is, where a file has several."""
    well: str = ""
    """Well; empty where there is no plate, only fields."""
    site: int = 0
    """Number in its well, as the other software counts."""
    t: int = 0
    """Time point."""
    elapsed_s: int | None = None
    """Time instead of the number of a time point: since the start, or since the year 0."""
    z: int | None = None
    """Plane of a stack; None where nothing says that there is a stack."""
    field: str = ""
    """Name of the field, where there is no plate."""
    number: int | None = None
    """Number of the well, row by row from 1."""
    tile: tuple[int, int] | None = None
    """Row and column of the field in its well, instead of `site`."""
    exposure_ms: float | None = None
    """Exposure, if a list says so."""
    led_percent: float | None = None
    """LED power, if a list says so."""
    x_um: float | None = None
    """Stage position, if a list says so."""
    y_um: float | None = None
    """Stage position, if a list says so."""
    line: tuple[Path, int] | None = None
    """List and line that name it."""

    def problem(self, message: str) -> Problem:
        """Return a mistake of this image: by the line that lists it, else by its file."""
        if self.line is not None:
            return Problem(message, str(self.line[0]), self.line[1])
        return Problem(message, str(self.path))


@dataclass
class Found:
    """What is in a folder of other software."""

    images: list[ForeignImage] = field(default_factory=list)
    """Images and their places."""
    left_out: list[Problem] = field(default_factory=list)
    """Images that cannot be placed, and why."""
    derived: list[Path] = field(default_factory=list)
    """Files that software made of images: thumbnails, projections, flat fields."""
    unasked: list[Path] = field(default_factory=list)
    """Files of a light level that nobody asked for."""


def plain_well(well: str) -> str:
    """Return a well's name as it is written here: `b02` is `B2`."""
    letters = well.rstrip("0123456789")
    return f"{letters.upper()}{int(well[len(letters) :])}" if letters != well else well.upper()


def row_letters(row: int) -> str:
    """Return the letters of a row of wells, counted from 1."""
    return chr(64 + row) if row <= 26 else row_letters((row - 1) // 26) + chr(65 + (row - 1) % 26)


def level_name(name: str) -> str:
    """Return the name of a channel as that of a light level: `DAPI 377,447` is `DAPI 377-447`."""
    return NOT_IN_A_LEVEL.sub("-", name).strip()


_DURATION = re.compile(
    r"(?:(?P<y>\d{4})y(?P<mo>\d\d)m(?P<dy>\d\d)d_(?P<hy>\d\d)h(?P<my>\d\d)m)"
    r"|(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m(?:in)?)?(?:(?P<s>\d+)s)?",
    re.IGNORECASE,
)


def time_of(text: str) -> dict[str, Any]:
    """Return what a time in a name or a list is: the number of a time point, or a time such as `00d06h40m`.

    Raises
    ------
    ValueError
        If it is neither.
    """
    if text.isdigit():
        return {"t": int(text)}
    fit = _DURATION.fullmatch(text)
    if not text or fit is None:
        raise ValueError(f"t = {text!r}: must be a number, or a time such as 01d02h30m or 2024y05m06d_10h00m")
    part = {name: int(value) for name, value in fit.groupdict().items() if value}
    days = (part["y"] * 12 + part["mo"]) * 31 + part["dy"] if "y" in part else part.get("d", 0)
    hours, minutes = part.get("hy", part.get("h", 0)), part.get("my", part.get("m", 0))
    return {"elapsed_s": ((days * 24 + hours) * 60 + minutes) * 60 + part.get("s", 0)}
