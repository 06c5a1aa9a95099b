"""Images that other software took: which file is which frame, by its name or by a list."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import tifffile

from scotopic.protocol import Plate, Problem, ProblemsError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

_WELL = r"[A-Z]{1,2}\d{1,2}"
_NUMBER = r"\d+"
_PLACEHOLDERS = {
    "well": _WELL,
    "row": rf"[A-Z]{{1,2}}|{_NUMBER}",
    "column": _NUMBER,
    "number": _NUMBER,
    "site": _NUMBER,
    "t": _NUMBER,
    "z": _NUMBER,
    "level": r"[^/]+?",
    "field": r"[^/]+",
}
"""What may stand between braces in a pattern, and what it stands for; `*` besides, for anything within a name."""

PRESETS = {
    # Evident scanR: B2--W00014--P00001--Z00000--T00000--DAPI.tif; wells are numbered row by row from 1.
    "scanr": (
        "{well}--W{*}--P{site}--Z{z}--T{t}--{level}.tif",
        "W{number}--P{site}--Z{z}--T{t}--{level}.tif",
    ),
    # MetaXpress / ImageXpress: TimePoint_1/plate_B02_s1_w1<GUID>.tif, ZStep_1 above it for stacks.
    "imagexpress": (
        "TimePoint_{t}/ZStep_{z}/{*}_{well}_s{site}_{level}.tif",
        "TimePoint_{t}/{*}_{well}_s{site}_{level}.tif",
        "{*}_{well}_s{site}_{level}.tif",
        "{*}_{well}_{level}.tif",
    ),
    # Micro-Manager, separate image files, positions of the HCS site generator.
    "micro-manager": (
        "{well}-Site_{site}/img_channel{level}_position{*}_time{t}_z{z}.tif",
        "{well}-Site_{site}/img_{t}_{level}_{z}.tif",
    ),
}
"""File names of common software, ready made."""
_GUID = r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"


@dataclass(frozen=True)
class ForeignImage:
    """One image of other software, and the place and the light that it has in a run."""

    path: Path
    """File."""
    level: str
    """Light level."""
    channel: int | None = None
    """Which channel of the file it is, where a file has several."""
    well: str = ""
    """Well; empty where there is no plate, only fields."""
    site: int = 0
    """Number in its well, as the other software counts."""
    t: int = 0
    """Time point."""
    z: int = 0
    """Plane of a stack."""
    field: str = ""
    """Name of the field, where there is no plate."""
    number: int | None = None
    """Number of the well, row by row from 1."""
    exposure_ms: float | None = None
    """Exposure, if a list says so."""
    led_percent: float | None = None
    """LED power, if a list says so."""
    x_um: float | None = None
    """Stage position, if a list says so."""
    y_um: float | None = None
    """Stage position, if a list says so."""


def find_by_names(
    source: Path, patterns: Sequence[str], levels: Collection[str] = ()
) -> tuple[list[ForeignImage], list[Path]]:
    """Return the images of a folder, and all below it, whose names fit one of some patterns; and the images that fit none.

    Parameters
    ----------
    patterns : sequence of str
        For example `{well}_s{site}_{level}.tif` or `{level}/{field}.png`: the end of a path below `source`, folders parted
        by `/`. The first one that fits counts. Without `{level}` the channels of each TIFF are the light levels, by their
        names in OME-TIFF, else by their numbers from 0.
    levels : collection of str
        Names of light levels, if they are known: then nothing else is one, and `img_1_dark.tif` has no level `1_dark`.

    Raises
    ------
    ProblemsError
        If a pattern is none, the folder is none, or no name fits.
    """
    if not source.is_dir():
        raise ProblemsError([Problem("is no folder", str(source))])
    compiled = [_compiled(pattern, levels) for pattern in patterns]
    suffixes = {Path(pattern).suffix.lower() for pattern in patterns}
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    found, others = [], []
    for path in files:
        relative = path.relative_to(source).as_posix()
        fit = next(filter(None, (pattern.search(relative) for pattern in compiled)), None)
        if fit is not None:
            parts = fit.groupdict()
            found += [_image(path, parts, levels)] if "level" in parts else _channels(path, parts, levels)
        elif path.suffix.lower() in suffixes:
            others.append(path)
    if not found:
        example = f", for example {others[0].relative_to(source).as_posix()}" if others else ""
        these = f" with the levels {', '.join(levels)}" if levels else ""
        told = f"no file fits {' or '.join(patterns)}{these}; {len(files)} files are there{example}"
        raise ProblemsError([Problem(told, str(source))])
    return found, others


def _compiled(pattern: str, levels: Collection[str]) -> re.Pattern[str]:
    """Return the regular expression of a pattern.

    Raises
    ------
    ProblemsError
        If a placeholder is none, or what must be there is missing.
    """
    known = "|".join(map(re.escape, sorted(levels, key=len, reverse=True)))
    placeholders = _PLACEHOLDERS | ({"level": f"(?:{known})(?:{_GUID})?"} if known else {})
    parts = re.split(r"\{(.*?)\}", pattern)
    text, names = "", parts[1::2]
    for number, part in enumerate(parts):
        if number % 2 == 0:
            text += re.escape(part)
        elif part == "*":
            text += "[^/]*?"
        elif part not in _PLACEHOLDERS:
            hint = did_you_mean(part, _PLACEHOLDERS) or f"allowed: {', '.join(_PLACEHOLDERS)}, *"
            raise ProblemsError([Problem(f"= {pattern!r}: {{{part}}} is no placeholder; {hint}", key="--pattern")])
        elif names[: number // 2].count(part):
            text += f"(?P={part})"
        else:
            text += f"(?P<{part}>{placeholders[part]})"
    if ("row" in names) != ("column" in names):
        raise ProblemsError([Problem(f"= {pattern!r}: {{row}} and {{column}} go together", key="--pattern")])
    return re.compile(rf"(?:^|/){text}$", re.IGNORECASE)


def _image(path: Path, parts: dict[str, str], levels: Collection[str] = ()) -> ForeignImage:
    numbers: dict[str, Any] = {name: int(parts[name]) for name in ("site", "t", "z", "number") if name in parts}
    named = re.sub(_GUID, "", parts["level"])
    level = next((each for each in levels if each.casefold() == named.casefold()), named)
    if "row" in parts and "column" in parts:
        row = parts["row"] if parts["row"].isalpha() else _letters(int(parts["row"]))
        well = f"{row.upper()}{int(parts['column'])}"
    else:
        well = _plain(parts.get("well", ""))
    return ForeignImage(path, level, well=well, field=parts.get("field", ""), **numbers)


def _channels(path: Path, parts: dict[str, str], levels: Collection[str]) -> list[ForeignImage]:
    """Return the channels of a file, each as an image.

    Raises
    ------
    ProblemsError
        If it is no TIFF of several channels.
    """
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            sizes = {axis: size for axis, size in zip(series.axes, series.shape, strict=True) if size > 1}
            names = re.findall(r"<Channel\b[^>]*?\bName=\"([^\"]*)\"", file.ome_metadata or "")
    except (ValueError, OSError, IndexError) as error:
        raise ProblemsError([Problem(f"cannot be read as TIFF: {error}", str(path))]) from error
    axes = "".join(sizes)
    if len(axes) != 3 or axes[1:] != "YX" or axes[0] in "ZT":
        told = f"has the axes {axes}: without {{level}} in the pattern a file must have several channels (CYX)"
        raise ProblemsError([Problem(told, str(path))])
    count = sizes[axes[0]]
    found = names if len(set(names)) == count else map(str, range(count))
    return [replace(_image(path, parts | {"level": level}, levels), channel=n) for n, level in enumerate(found)]


def _letters(row: int) -> str:
    """Return the letters of a row of wells, counted from 1."""
    return chr(64 + row) if row <= 26 else _letters((row - 1) // 26) + chr(65 + (row - 1) % 26)


def _plain(well: str) -> str:
    """Return a well's name as it is written here: `b02` is `B2`."""
    letters = well.rstrip("0123456789")
    return f"{letters.upper()}{int(well[len(letters) :])}" if letters != well else well.upper()


_COLUMNS = {name for name in get_type_hints(ForeignImage) if name not in {"path", "number", "channel"}} | {"file"}


def find_by_list(path: Path) -> list[ForeignImage]:
    """Return the images that a CSV file lists: columns `file` (relative to it), `level`, and what else is known.

    Columns are `file, level, well, site, t, z, field, exposure_ms, led_percent, x_um, y_um`, parted by commas or semicolons.

    Raises
    ------
    ProblemsError
        With a line for each mistake.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ProblemsError([Problem(f"cannot be read: {error}", str(path))]) from error
    first = text.partition("\n")[0]
    lines = csv.DictReader(text.splitlines(), delimiter=";" if first.count(";") > first.count(",") else ",")
    columns = [name.strip() for name in lines.fieldnames or ()]
    lines.fieldnames = columns
    if missing := {"file", "level"} - set(columns):
        raise ProblemsError([Problem(f"has no column {' and no '.join(sorted(missing))}", str(path), 1)])
    if unknown := [name for name in columns if name not in _COLUMNS]:
        hint = did_you_mean(unknown[0], _COLUMNS) or f"allowed: {', '.join(sorted(_COLUMNS))}"
        raise ProblemsError([Problem(f"is no column here; {hint}", str(path), 1, unknown[0])])
    images, problems = [], []
    for line in lines:
        try:
            images.append(_listed(path.parent, line))
        except ValueError as error:
            problems.append(Problem(str(error), str(path), lines.line_num))
    if problems or not images:
        raise ProblemsError(problems or [Problem("lists no image", str(path))])
    return images


def _listed(folder: Path, line: dict[str, str | None]) -> ForeignImage:
    values = {name: (value or "").strip() for name, value in line.items() if name}
    path = folder / values["file"]
    if not values["file"] or not path.is_file():
        raise ValueError(f"file = {values['file']!r}: there is no such file")
    if not values["level"]:
        raise ValueError("level is missing")
    numbers: dict[str, Any] = {}
    for name in ("site", "t", "z", "exposure_ms", "led_percent", "x_um", "y_um"):
        if text := values.get(name, ""):
            try:
                numbers[name] = int(text) if name in {"site", "t", "z"} else float(text)
            except ValueError:
                raise ValueError(f"{name} = {text!r}: must be a number") from None
            if not math.isfinite(numbers[name]):
                raise ValueError(f"{name} = {text!r}: must be a number")
    well = values.get("well", "")
    if well and not re.fullmatch(_WELL, well, re.IGNORECASE):
        raise ValueError(f"well = {well!r}: must be letters and a number, such as B2")
    return ForeignImage(path, values["level"], well=_plain(well), field=values.get("field", ""), **numbers)


def on_a_plate(images: Iterable[ForeignImage], plate: Plate) -> list[ForeignImage]:
    """Return the images with a well each, and sites, time points and planes counted from 0.

    Where no number is 0 they are taken as counted from 1, whether or not 1 is there: the third site stays the third.
    Fields without a plate get a well each, in the order of their names, so that whole fields are kept apart in training.

    Raises
    ------
    ProblemsError
        If the plate has no such well, or two files are the same frame.
    """
    images = list(images)
    wells = list(plate.wells)
    fields = sorted({image.field for image in images if not image.well and image.number is None})
    if any(image.well or image.number is not None for image in images):
        if homeless := [image.path for image in images if not image.well and image.number is None]:
            told = f"has no well, and {len(homeless) - 1} more have none, while others have one"
            raise ProblemsError([Problem(told, str(homeless[0]))])
    first = {name: min(1, min(getattr(image, name) for image in images)) for name in ("site", "t", "z")}
    problems, placed = [], []
    seen: dict[tuple[object, ...], Path] = {}
    for image in images:
        if image.well:
            order = wells.index(image.well) if image.well in wells else -1
        else:
            order = fields.index(image.field) if image.number is None else image.number - 1
        if not 0 <= order < len(wells):
            name = image.well or f"well {order + 1}"
            problems.append(
                Problem(f"{name} is not on a {plate.name} plate (A1 to {plate.last_well})", str(image.path))
            )
            continue
        counted = {name: getattr(image, name) - start for name, start in first.items()}
        there = replace(image, well=wells[order], **counted)
        key = there.well, there.site, there.t, there.z, there.level
        if key in seen:
            what = f"{there.level} of {there.well}_{there.site}"
            problems.append(Problem(f"and {seen[key].name} are both {what}: one frame", str(image.path)))
        seen[key] = image.path
        placed.append(there)
    if problems:
        raise ProblemsError(problems)
    return placed
