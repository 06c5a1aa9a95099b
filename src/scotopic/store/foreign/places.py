"""From the numbers of other software to places on a plate: wells, and sites, time points and planes counted from 0."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from scotopic.protocol import ProblemsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scotopic.protocol import Plate, Problem
    from scotopic.store.foreign.images import ForeignImage

_ODD = 1 / 20
"""Of the images: so many mistakes are those of single files, which are left out; more are one of the whole import."""
_AXES = {"site": "site", "t": "time point", "z": "plane"}
_NEAR = 50
"""Numbers below it may be anything; others must not lie ten times beyond nearly all others: they are dates or barcodes."""


@dataclass
class Placed:
    """Images that have a place each."""

    images: list[ForeignImage]
    """With a well each, and sites, time points and planes counted from 0."""
    left_out: list[Problem] = field(default_factory=list)
    """Single images that have none, and why."""
    assumed: list[str] = field(default_factory=list)
    """What numbers were taken to mean."""


def without_projections(
    images: Sequence[ForeignImage],
) -> tuple[list[ForeignImage], list[ForeignImage], list[Problem]]:
    """Return the images that are planes, those that are made of the planes of a stack, and what is neither.

    Beside a stack of the same place and light an image without height is its projection, and never a plane of it. Where
    only some places have a stack, those of the rarer kind are left out: nothing says at which height a single image is.
    """
    stacked = {_view(image) for image in images if image.z is not None}
    single = [image for image in images if image.z is None and image.line is None]
    if not stacked or not single:
        return list(images), [], []
    projections = [image for image in single if _view(image) in stacked]
    lone = {_view(image) for image in single} - stacked
    made = {id(image) for image in projections}
    rest = [image for image in images if id(image) not in made]
    planes_are_odd = len(lone) > len(stacked)
    odd = [image for image in rest if lone and (image.z is not None) == planes_are_odd and image.line is None]
    told = (
        "is of a stack, while most images have no height: planes and single images do not make one run"
        if planes_are_odd
        else "has no height, while others are planes of stacks: a plane or a projection cannot be told"
    )
    out = {id(image) for image in odd}
    return [image for image in rest if id(image) not in out], projections, [image.problem(told) for image in odd]


def _view(image: ForeignImage) -> tuple[object, ...]:
    place = image.well, image.number, image.field, image.site, image.tile
    return *place, image.t, image.elapsed_s, image.level


def on_a_plate(images: Iterable[ForeignImage], plate: Plate, *, most_sites: int | None = None) -> Placed:
    """Return the images with a well each, and sites, time points and planes counted from 0.

    Where no number is 0 they are taken as counted from 1, whether or not 1 is there: the third site stays the third.
    Sites that are numbered through the whole plate are counted in each well. Fields without a plate get a well each, in
    the order of their names, so that whole fields are kept apart in training.

    Parameters
    ----------
    most_sites : int, optional
        Sites in a well, where that is known.

    Raises
    ------
    ProblemsError
        If many images have no well or none that is on the plate, or are the same frame. Single ones are left out.
    """
    placed = Placed(list(images))
    _refuse_homeless(placed)
    _count_times(placed.images)
    placed.images = _with_sites(placed, most_sites)
    first = {axis: min(1, min((getattr(i, axis) or 0 for i in placed.images), default=0)) for axis in ("site", "t")}
    first["z"] = min(1, min((image.z for image in placed.images if image.z is not None), default=0))
    placed.images = [
        replace(image, site=image.site - first["site"], t=image.t - first["t"], z=max(0, (image.z or 0) - first["z"]))
        for image in placed.images
    ]
    for axis in _AXES:
        _leave_out_strays(placed, axis)
    _into_wells(placed, plate)
    return placed


def _leave_out(placed: Placed, problems: dict[int, Problem]) -> None:
    """Leave out single images, by their place in the list; many are a mistake of the whole.

    Raises
    ------
    ProblemsError
        If they are many.
    """
    if len(problems) > _ODD * len(placed.images):
        raise ProblemsError(list(problems.values()))
    placed.left_out += problems.values()
    placed.images = [image for n, image in enumerate(placed.images) if n not in problems]


def _refuse_homeless(placed: Placed) -> None:
    homeless = {n: i for n, i in enumerate(placed.images) if not i.well and i.number is None}
    if len(homeless) in {0, len(placed.images)}:
        return
    if len(homeless) > _ODD * len(placed.images):
        told = f"has no well, and {len(homeless) - 1} more have none, while others have one"
        raise ProblemsError([next(iter(homeless.values())).problem(told)])
    _leave_out(placed, {n: image.problem("has no well, while others have one") for n, image in homeless.items()})


def _count_times(images: list[ForeignImage]) -> None:
    """Give each time in a name its number among all times.

    Raises
    ------
    ProblemsError
        If some images have times, and others numbers of time points.
    """
    timed = [image for image in images if image.elapsed_s is not None]
    if not timed:
        return
    if other := [image for image in images if image.elapsed_s is None]:
        raise ProblemsError([other[0].problem("has no time, while others have one such as 00d06h40m")])
    order = {elapsed: n for n, elapsed in enumerate(sorted({image.elapsed_s for image in timed}, key=lambda s: s or 0))}
    images[:] = [replace(image, t=order[image.elapsed_s]) for image in timed]


def _with_sites(placed: Placed, most: int | None) -> list[ForeignImage]:
    """Return the images with numbers of sites that are those in their wells."""
    images = placed.images
    if tiles := [image.tile for image in images if image.tile is not None]:
        rows, columns = ([tile[axis] for tile in tiles] for axis in (0, 1))
        wide = max(columns) - min(columns) + 1
        return [
            image
            if image.tile is None
            else replace(image, site=(image.tile[0] - min(rows)) * wide + image.tile[1] - min(columns))
            for image in images
        ]
    in_well = _numbered_through(images, most)
    if in_well is None:
        return images
    most_found = 1 + max(in_well(image) for image in images)
    low, high = (end(image.site for image in images) for end in (min, max))
    placed.assumed.append(
        f"sites are numbered through the plate, from {low} to {high}: up to {most_found} in each well"
    )
    return [replace(image, site=in_well(image)) for image in images]


def _numbered_through(images: Sequence[ForeignImage], most: int | None) -> Callable[[ForeignImage], int] | None:
    """Return what tells a site's number in its well, if no number is in two wells and those of a well follow each other."""
    wells: dict[object, set[int]] = {}
    for image in images:
        if image.well or image.number is not None:
            wells.setdefault(image.well or image.number, set()).add(image.site)
    ranges = sorted((min(sites), max(sites)) for sites in wells.values())
    apart = all(one[1] < other[0] for one, other in pairwise(ranges))
    count = max(map(len, wells.values()), default=0)
    if not apart or len(wells) < (3 if count == 1 else 2) or (most is not None and ranges[-1][1] < most):
        return None
    for base in dict.fromkeys((0, 1, ranges[0][0])):
        blocks = [{(site - base) // count for site in sites} for sites in wells.values()]
        if sum(map(len, blocks)) == len(set.union(*blocks)) == len(wells):
            # so many in each well: one that is missing moves no other
            return lambda image, base=base: (image.site - base) % count  # type: ignore[misc]
    order = {well: {site: n for n, site in enumerate(sorted(sites))} for well, sites in wells.items()}
    return lambda image: order[image.well or image.number][image.site]


def _leave_out_strays(placed: Placed, axis: str) -> None:
    """Leave out images whose number lies far beyond all others: a date or a barcode, and no site.

    Raises
    ------
    ProblemsError
        If they are many.
    """
    numbers = sorted(getattr(image, axis) for image in placed.images)
    if not numbers:
        return
    usual = numbers[int((1 - _ODD) * (len(numbers) - 1))]
    limit = max(_NEAR, 10 * (usual + 1))
    strays = {n: image for n, image in enumerate(placed.images) if getattr(image, axis) >= limit}
    _leave_out(
        placed,
        {
            n: image.problem(
                f"{_AXES[axis]} {getattr(image, axis)} of {image.well or image.field or 'well ' + str(image.number)} "
                f"(from 0), while nearly all others go to {usual}: is this number a {_AXES[axis]}?"
            )
            for n, image in strays.items()
        },
    )


def _into_wells(placed: Placed, plate: Plate) -> None:
    """Give each image its well.

    Raises
    ------
    ProblemsError
        If the plate has no such wells, or many images are the same frame.
    """
    wells = list(plate.wells)
    fields = sorted({image.field for image in placed.images if not image.well and image.number is None})
    problems: dict[int, Problem] = {}
    partners: dict[int, Problem] = {}  # which of two is the frame nobody knows
    seen: dict[tuple[object, ...], int] = {}
    for n, image in enumerate(placed.images):
        if image.well:
            order = wells.index(image.well) if image.well in plate.wells else -1
        else:
            order = fields.index(image.field) if image.number is None else image.number - 1
        if not 0 <= order < len(wells):
            name = image.well or f"well {order + 1}"
            problems[n] = image.problem(f"{name} is not on a {plate.name} plate (A1 to {plate.last_well})")
            continue
        there = placed.images[n] = replace(image, well=wells[order])
        key = there.well, there.site, there.t, there.z, there.level
        if key in seen:
            other = placed.images[seen[key]]
            told = f"{there.level} of {there.well}_{there.site}" + _when_and_where(there)
            problems[n] = image.problem(f"and {other.path.name} are both {told}: one frame")
            partners[seen[key]] = other.problem(f"and {there.path.name} are both {told}: one frame")
        else:
            seen[key] = n
    few = len(problems) <= _ODD * len(placed.images)
    _leave_out(placed, partners | problems if few else problems)


def _when_and_where(image: ForeignImage) -> str:
    return f", time point {image.t}" * bool(image.t) + f", plane {image.z}" * bool(image.z)
