"""Lists of images, as spreadsheets and pandas write them: CSV of any separator, decimal commas, UTF-16, Windows paths."""

from __future__ import annotations

import csv
import math
import re
from typing import TYPE_CHECKING, Any

from scotopic.protocol import Problem, ProblemsError, did_you_mean
from scotopic.store.foreign.images import WELL, ForeignImage, level_name, plain_well, time_of

if TYPE_CHECKING:
    from pathlib import Path

_WHOLE = ("site", "z")
_NUMBERS = ("exposure_ms", "led_percent", "x_um", "y_um")
_COLUMNS = {"file", "level", "well", "field", "t", *_WHOLE, *_NUMBERS}


def find_by_list(path: Path) -> list[ForeignImage]:
    """Return the images that a list names: columns `file` (relative to it), `level`, and what else is known.

    Columns are `file, level, well, site, t, z, field, exposure_ms, led_percent, x_um, y_um`, parted by commas, semicolons or tabs.

    Raises
    ------
    ProblemsError
        With a line for each mistake.
    """
    text = _text(path)
    lines = text.splitlines()
    skipped = 1 if lines and re.fullmatch(r"\"?sep=.\"?", lines[0].strip(), re.IGNORECASE) else 0  # for Excel
    heading = lines[skipped] if len(lines) > skipped else ""
    separator = max("\t;,", key=heading.count)
    rows = csv.reader(lines[skipped:], delimiter=separator)
    columns = _columns(next(rows, []), path, skipped + 1)
    images, problems = [], []
    for cells in rows:
        if not any(cell.strip() for cell in cells):
            continue
        line = rows.line_num + skipped
        try:
            if any(cell.strip() for cell in cells[len(columns) :]):
                raise ValueError(
                    f"has {len(cells)} cells, the heading {len(columns)}: is a comma in a number or a name?"
                )
            values = {name: cell.strip() for name, cell in zip(columns, cells, strict=False) if name}
            images.append(_listed(path, line, values, separator))
        except ValueError as error:
            problems.append(Problem(str(error), str(path), line))
    if problems or not images:
        raise ProblemsError(problems or [Problem("lists no image", str(path))])
    return images


def _text(path: Path) -> str:
    """Return the text of a list in the encodings of spreadsheets.

    Raises
    ------
    ProblemsError
        If it cannot be read, or is no text.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be read: {error.strerror}", str(path))]) from error
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise ProblemsError([Problem("is a workbook; save it as CSV", str(path))])
    encoding = "utf-16" if data.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = data.decode("cp1252", errors="replace")  # the ANSI of Excel on Windows; a wrong name is no file
    if "\0" in text:
        raise ProblemsError([Problem("is no text; save it as CSV in UTF-8", str(path))])
    return text


def _columns(names: list[str], path: Path, line: int) -> list[str]:
    """Return the names of columns as they are written here: `Exposure (ms)` is `exposure_ms`; the index of pandas has none.

    Raises
    ------
    ProblemsError
        If one is missing, unknown or there twice.
    """
    columns = [re.sub(r"\W+", "_", name.replace("%", " percent").casefold()).strip("_") for name in names]
    columns = ["" if column.startswith("unnamed") else column for column in columns]
    if missing := {"file", "level"} - set(columns):
        raise ProblemsError([Problem(f"has no column {' and no '.join(sorted(missing))}", str(path), line)])
    if unknown := [name for name, column in zip(names, columns, strict=True) if column and column not in _COLUMNS]:
        hint = did_you_mean(unknown[0], _COLUMNS) or f"allowed: {', '.join(sorted(_COLUMNS))}"
        raise ProblemsError([Problem(f"is no column here; {hint}", str(path), line, unknown[0])])
    if twice := [column for column in dict.fromkeys(columns) if column and columns.count(column) > 1]:
        raise ProblemsError([Problem(f"has the column {twice[0]} more than once", str(path), line)])
    return columns


def _listed(listing: Path, line: int, values: dict[str, str], separator: str) -> ForeignImage:
    file = values["file"]
    path = listing.parent / file
    if not path.is_file():
        path = listing.parent / file.replace("\\", "/")  # a path of Windows, read elsewhere
    if not file or not path.is_file():
        raise ValueError(f"file = {file!r}: there is no such file")
    if not values.get("level"):
        raise ValueError("level is missing")
    numbers: dict[str, Any] = {}
    for name in (*_WHOLE, *_NUMBERS):
        if text := values.get(name, ""):
            number = _number(name, text, separator)
            if name in _WHOLE and (number < 0 or number != int(number)):
                raise ValueError(f"{name} = {text!r}: must be a whole number from 0")
            numbers[name] = int(number) if name in _WHOLE else number
    if time := values.get("t", ""):
        numbers |= time_of(re.sub(r"^(\d+)[.,]0+$", r"\1", time))
    well = values.get("well", "")
    if well and not re.fullmatch(WELL, well, re.IGNORECASE):
        raise ValueError(f"well = {well!r}: must be letters and a number, such as B2")
    return ForeignImage(
        path,
        level_name(values["level"]),
        well=plain_well(well),
        field=values.get("field", ""),
        line=(listing, line),
        **numbers,
    )


def _number(name: str, text: str, separator: str) -> float:
    """Return a number with a point or a decimal comma.

    Raises
    ------
    ValueError
        If it is none, or a comma may also part thousands: where semicolons part the columns it does not.
    """
    if separator != ";" and re.fullmatch(r"[-+]?[1-9]\d{0,2},\d{3}", text):
        raise ValueError(f"{name} = {text!r}: thousands or decimals? Write it with a decimal point")
    try:
        number = float(text.replace(",", ".") if text.count(",") == 1 and "." not in text else text)
    except ValueError:
        raise ValueError(f"{name} = {text!r}: must be a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{name} = {text!r}: must be a number")
    return number
