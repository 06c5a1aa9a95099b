"""Images by their names, and the planes of stacks by their metadata."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotopic.protocol import Problem, ProblemsError
from scotopic.store.foreign.images import ForeignImage, Found, level_name, plain_well, row_letters, time_of
from scotopic.store.foreign.patterns import compiled
from scotopic.store.foreign.tiff_stacks import TiffStacks

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

_SUFFIXES = {".tif", ".tiff", ".png", ".jpg", ".jpeg", ".bmp"}
_TIFF = {".tif", ".tiff"}
_DERIVED = re.compile(
    r"(?<![a-z])(thumb(?:nail)?s?|projections?|[xyz]?(?:max)?proj|(?:max)?mip|flat[-_ ]?fields?|shading|stitched|montage"
    r"|overviews?|previews?|overlays?|masks?|labels?|outlines?)(?![a-z])"
    r"|^([DS]C)_[^/]*(?:CAM|CH)\d+\.tiff?$",
    re.IGNORECASE,
)
"""Words for what software makes of images; the last line are correction files of the CellVoyager."""


def find_by_names(source: Path, patterns: Sequence[str], levels: Collection[str] = ()) -> Found:
    """Return the images of a folder, and all below it, whose names fit one of some patterns; and what the others are.

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
    asked = [compiled(pattern, levels) for pattern in patterns]
    any_level = [compiled(pattern) for pattern in patterns] if levels else []
    files = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    names = {path: path.relative_to(source).as_posix() for path in files}
    wanted = _endings(patterns)
    is_derived = _derived([names[path] for path in files if path.suffix.lower() in wanted], [*patterns, *levels])
    found, stacks, others, there = Found(), dict[Path, dict[str, str]](), list[Path](), Counter[str]()
    for path, name in names.items():
        if path.suffix.lower() in _SUFFIXES and is_derived(name):
            found.derived.append(path)
        elif (parts := _fit(asked, name)) is not None:
            if "level" not in parts:
                stacks[path] = parts
                continue
            try:
                found.images.append(_image(path, parts, levels))
            except ValueError as error:
                found.left_out.append(Problem(str(error), str(path)))
        elif (parts := _fit(any_level, name)) is not None and "level" in parts:
            found.unasked.append(path)
            there[parts["level"]] += 1
        elif path.suffix.lower() in wanted:
            others.append(path)
    siblings = _add_stacks(found, stacks, levels)
    others = [path for path in others if path not in siblings]
    found.left_out += [Problem("fits no pattern", str(path)) for path in others]
    if not found.images:
        raise ProblemsError(_nothing_fits(source, patterns, levels, found, others or files, len(files), there))
    return found


def _endings(patterns: Iterable[str]) -> set[str]:
    """Return the endings of files, in lower case, that are images if those of the patterns are."""
    endings = {f".{pattern.rpartition('.')[2].lower()}" for pattern in patterns}
    return endings | _TIFF if endings & _TIFF else endings


def _fit(patterns: Iterable[re.Pattern[str]], name: str) -> dict[str, str] | None:
    return next((fit.groupdict() for fit in (pattern.search(name) for pattern in patterns) if fit), None)


def _derived(names: Sequence[str], told: Sequence[str]) -> Any:
    """Return the function that knows what software made of images, by a word in a file's name or the name of its folder.

    A word that the user says, or that all names have, is no such sign: it is how this plate is called.
    """

    def words(name: str) -> set[str]:
        folder, _, file = name.rpartition("/")
        last = folder.rpartition("/")[2]
        whole = _DERIVED.fullmatch(last)
        return {fit.group().lower() for fit in _DERIVED.finditer(file)} | ({last.lower()} if whole else set())

    everywhere = set.intersection(*map(words, names)) if names else set()
    said = everywhere | {fit.group().lower() for text in told for fit in _DERIVED.finditer(text)}
    return lambda name: bool(words(name) - said)


def _nothing_fits(
    source: Path,
    patterns: Sequence[str],
    levels: Collection[str],
    found: Found,
    files: Sequence[Path],
    count: int,
    there: Mapping[str, int],
) -> list[Problem]:
    """Return why there is no image: of each file that fits a name, else of the folder."""
    if found.left_out and not there and len(found.left_out) > len(files):
        return found.left_out
    if problems := [problem for problem in found.left_out if problem.message != "fits no pattern"]:
        return problems
    example = f", for example {files[0].relative_to(source).as_posix()}" if files else ""
    these = f" with the levels {', '.join(sorted(levels))}" if levels else ""
    more = f"; of the other levels {', '.join(sorted(there)[:8])} are {sum(there.values())}" if there else ""
    shown = " or ".join(patterns[:2]) + f" or {len(patterns) - 2} other patterns" * (len(patterns) > 2)
    told = f"no file fits {shown}{these}; {count} files are there{example}{more}"
    return [Problem(told, str(source))]


def _image(path: Path, parts: Mapping[str, str], levels: Collection[str] = ()) -> ForeignImage:
    """Return the image of a file by the parts of its name.

    Raises
    ------
    ValueError
        If they are no place.
    """
    values: dict[str, Any] = {name: int(parts[name]) for name in ("site", "z", "number") if name in parts}
    if "t" in parts:
        values |= time_of(parts["t"])
    if "tile_row" in parts:
        values["tile"] = int(parts["tile_row"]), int(parts["tile_column"])
    level = next((each for each in levels if each.casefold() == parts["level"].casefold()), parts["level"])
    return ForeignImage(path, level_name(level), well=_well(parts), field=parts.get("field", ""), **values)


def _well(parts: Mapping[str, str]) -> str:
    if "row0" in parts:
        return f"{row_letters(int(parts['row0']) + 1)}{int(parts['column0']) + 1}"
    if "row" not in parts:
        return plain_well(parts.get("well", ""))
    row, column = parts["row"], int(parts["column"])
    if column < 1 or (row.isdigit() and int(row) < 1):
        raise ValueError(f"row {row} and column {column}: counted from 1; {{row0}} and {{column0}} count from 0")
    return f"{row.upper() if row.isalpha() else row_letters(int(row))}{column}"


def _add_stacks(found: Found, files: Mapping[Path, Mapping[str, str]], levels: Collection[str]) -> set[Path]:
    """Add the planes of files whose channels are the levels; return the files that belong to them by their metadata alone.

    An OME-TIFF may be a set of files: what a name says of the first one holds for all, unless names tell time or plane.
    """
    stacks, siblings = TiffStacks(), set[Path]()
    for path, own in files.items():
        try:
            stack = stacks.of(path)
            told_apart = {"t", "z"} & set(own)
            parts = own if told_apart else files.get(stack.first, own)
            mine = [path] if told_apart or stack.first != path else [path, *(f for f in stack.files if f not in files)]
            for file in mine:
                if not file.is_file():
                    found.left_out.append(
                        Problem(f"is part of {path.name} by its metadata, and is not there", str(file))
                    )
                    continue
                siblings.add(file)
                for plane in stack.planes_in(file):
                    image = _image(file, {**parts, "level": plane.channel}, levels)
                    t, z = plane.t if "t" not in parts else image.t, plane.z if "z" not in parts else image.z
                    found.images.append(replace(image, plane=plane.page, t=t, z=z))
            found.left_out += stack.problems_of(path)
        except ProblemsError as error:
            found.left_out += error.problems
        except ValueError as error:
            found.left_out.append(Problem(str(error), str(path)))
    return siblings
