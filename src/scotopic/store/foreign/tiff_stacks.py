"""Which plane of a TIFF is which channel, time point and height: by its OME metadata, which is XML and describes a set of files."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tifffile

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_SCHEMA = "openmicroscopy.org/"


@dataclass(frozen=True)
class Plane:
    """One image of a stack."""

    file: str
    """Name of its file; empty for the file that has the metadata."""
    page: int
    """Which page of the file it is."""
    channel: str
    """Name of the channel, or its number where names are missing."""
    t: int
    """Time point."""
    z: int | None
    """Height; None where there is one only."""
    uuid: str = ""
    """Which file it is in, whatever its name is now."""


@dataclass(frozen=True)
class TiffStack:
    """All planes of one position, which may lie in several files."""

    path: Path
    planes: tuple[Plane, ...]
    pages: int
    """Number of pages that the file has."""

    @property
    def first(self) -> Path:
        """File that the position begins with."""
        return self._file(min(self.planes, key=lambda plane: (plane.t, plane.z or 0, plane.page)).file)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files of the position."""
        return tuple(dict.fromkeys(self._file(plane.file) for plane in self.planes))

    def planes_in(self, file: Path) -> list[Plane]:
        """Return the planes that lie in a file, without those that the file is too short for."""
        here = [plane for plane in self.planes if self._file(plane.file) == file]
        return [plane for plane in here if file != self.path or plane.page < self.pages]

    def problems_of(self, file: Path) -> list[Problem]:
        """Return planes that the metadata describe and the file does not hold."""
        missing = (
            sum(self._file(p.file) == file and p.page >= self.pages for p in self.planes) if file == self.path else 0
        )
        told = f"is cut short: {missing} images that its metadata describe are not in it"
        return [Problem(told, str(file))] if missing else []

    def _file(self, name: str) -> Path:
        return self.path.with_name(name) if name else self.path


class TiffStacks:
    """Reads stacks; the metadata of a set of files, which stand in each of them, once."""

    def __init__(self) -> None:
        self._sets: dict[str, list[tuple[Plane, ...]]] = {}

    def of(self, path: Path) -> TiffStack:
        """Return the position that a file belongs to.

        Raises
        ------
        ProblemsError
            If it cannot be read, has no channels, or holds several positions.
        """
        try:
            with tifffile.TiffFile(path, is_ome=False, is_mmstack=False) as file:
                description = file.pages.first.description
                pages = len(file.pages)
                is_ome = description.lstrip().startswith("<") and _SCHEMA in description
                plain = () if is_ome else _planes_of_axes(file, path)
        except ProblemsError:
            raise
        except Exception as error:  # readers raise what they like
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ProblemsError([Problem(f"cannot be read as TIFF: {reason}", str(path))]) from error
        if not is_ome:
            return TiffStack(path, plain, max(pages, len(plain)))
        return TiffStack(path, self._own_planes(path, description), pages)

    def _own_planes(self, path: Path, xml: str) -> tuple[Plane, ...]:
        """Return the planes of the position that a file belongs to, by its name, else by its UUID."""
        uuid = next(iter(re.findall(r"<[^>]*\bUUID\s*=\s*[\"']([^\"']*)", xml)), "")
        key = xml.replace(uuid, "", 1) if uuid else xml
        if key not in self._sets:
            self._sets[key] = _positions(path, xml)
        positions = self._sets[key]
        tests = (
            lambda plane: plane.file.casefold() == path.name.casefold(),
            lambda plane: bool(uuid) and plane.uuid == uuid,
            lambda plane: not plane.file,
        )
        for test in tests:
            mine = [planes for planes in positions if any(map(test, planes))]
            if len(mine) > 1:
                told = f"holds {len(mine)} images by its OME metadata; allowed: one position in a file"
                raise ProblemsError([Problem(told, str(path))])
            if mine:
                # a renamed file is known by its UUID: its planes are here, whatever the metadata call it
                return tuple(Plane("", *_rest(p)) if test(p) else p for p in mine[0])
        if len(positions) == 1 and len({plane.file for plane in positions[0]}) == 1:
            return tuple(Plane("", *_rest(plane)) for plane in positions[0])
        named = sorted({plane.file for planes in positions for plane in planes})
        told = f"its OME metadata describe other files, such as {named[0]}: it was renamed or is of another set"
        raise ProblemsError([Problem(told if named else "its OME metadata describe no image", str(path))])


def _rest(plane: Plane) -> tuple[int, str, int, int | None, str]:
    return plane.page, plane.channel, plane.t, plane.z, plane.uuid


def _positions(path: Path, xml: str) -> list[tuple[Plane, ...]]:
    """Return the planes of each image that OME metadata describe.

    Raises
    ------
    ProblemsError
        If they are no OME-XML, or stand in a file that is not there.
    """
    from ome_types import from_xml  # takes a second or two to load

    try:
        ome = from_xml(re.sub(r"^\s*<\?xml.*?\?>", "", xml).encode(), validate=False)
    except Exception as error:  # what is no XML, and what is no OME
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProblemsError([Problem(f"its OME metadata cannot be read: {reason}", str(path))]) from error
    if ome.binary_only is not None:
        companion = path.with_name(ome.binary_only.metadata_file)
        try:
            return _positions(companion, companion.read_text(encoding="utf-8"))
        except OSError as error:
            told = f"its OME metadata are in {companion.name}, which cannot be read"
            raise ProblemsError([Problem(told, str(path))]) from error
    return [tuple(_planes(image.pixels)) for image in ome.images]


def _planes(pixels: Any) -> Iterator[Plane]:
    """Yield the planes of an image in the order of its TiffData.

    Raises
    ------
    ValueError
        If it is a colour image.
    """
    if any((channel.samples_per_pixel or 1) > 1 for channel in pixels.channels):
        raise ValueError("is a colour image; allowed: one grey plane for each channel")
    sizes = {"C": pixels.size_c, "Z": pixels.size_z, "T": pixels.size_t}
    order = [axis for axis in pixels.dimension_order.value if axis in sizes]  # the first varies fastest
    names = [channel.name for channel in pixels.channels]
    known = len(set(names) - {None, ""}) == pixels.size_c
    total = pixels.size_c * pixels.size_z * pixels.size_t
    for data in pixels.tiff_data_blocks:
        first = {"C": data.first_c or 0, "Z": data.first_z or 0, "T": data.first_t or 0}
        start, scale = 0, 1
        for axis in order:
            start, scale = start + first[axis] * scale, scale * sizes[axis]
        told = data.model_fields_set  # what is not said has a value of its own all the same
        count = data.plane_count if "plane_count" in told else 1 if "ifd" in told else total
        for number in range(min(count, total - start)):
            rest, at = start + number, dict[str, int]()
            for axis in order:
                rest, at[axis] = divmod(rest, sizes[axis])
            yield Plane(
                file=(data.uuid.file_name or "") if data.uuid else "",
                page=(data.ifd or 0) + number,
                channel=names[at["C"]] if known else str(at["C"]),
                t=at["T"],
                z=at["Z"] if pixels.size_z > 1 else None,
                uuid=data.uuid.value if data.uuid else "",
            )


def _planes_of_axes(file: tifffile.TiffFile, path: Path) -> tuple[Plane, ...]:
    """Return the planes of a stack that says what its axes are, such as those of ImageJ; channels have numbers."""
    series = file.series[0]
    axes = [(axis, size) for axis, size in zip(series.axes, series.shape, strict=True) if size > 1]
    text = "".join(axis for axis, _ in axes)
    leading: Sequence[tuple[str, int]] = axes[:-2]
    others = [axis for axis, _ in leading if axis not in "ZT"]
    if text[-2:] != "YX" or len(others) != 1 or others == ["S"]:
        told = f"has the axes {text}: without {{level}} in the pattern a file must have several channels (CYX)"
        raise ProblemsError([Problem(told, str(path))])
    planes = []
    for page, place in enumerate(itertools.product(*(range(size) for _, size in leading))):
        at = dict(zip((axis for axis, _ in leading), place, strict=True))
        planes.append(Plane("", page, str(at[others[0]]), at.get("T", 0), at.get("Z")))
    return tuple(planes)
