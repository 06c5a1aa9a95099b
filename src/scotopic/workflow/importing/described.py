"""What images do not tell of their plate, light and microscope: made up, and said."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import ValidationError

from scotopic.nuclei.images import header_of
from scotopic.protocol import ImagingProtocol, LightLevel, MicroscopeProfile, Plate, Problem, ProblemsError
from scotopic.workflow.importing.frames import read_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from scotopic.store.foreign import ForeignImage

_PLATES = ("6-well", "12-well", "24-well", "48-well", "96-well", "384-well", "1536-well")
_HELD_OUT_SHARE = 6 / 96
"""Of the wells, as in the white paper."""
_UNKNOWN_READ_NOISE_E = 2.0


@dataclass(frozen=True)
class Usual:
    """What most images are: a single odd one decides nothing."""

    shape: tuple[int, ...]
    """Height and width."""
    bits: Mapping[str, int]
    """Bits of a value in the files of each light level."""


def usual_of(images: Sequence[ForeignImage], shape: tuple[int, int] | None = None) -> Usual:
    """Return what most of some images are, by the headers of up to a hundred of each light level.

    Parameters
    ----------
    shape : (int, int), optional
        Height and width, where they are known.

    Raises
    ------
    ProblemsError
        If none can be read.
    """
    shapes, bits, problems = Counter[tuple[int, ...]](), dict[str, Counter[int]](), list[Problem]()
    for level in dict.fromkeys(image.level for image in images):
        for image in _spread([image for image in images if image.level == level], 100):
            try:
                header = header_of(image.path)
            except ProblemsError as error:
                problems += error.problems
                continue
            shapes[header.shape] += 1
            bits.setdefault(level, Counter())[header.bits] += 1
    if not shapes:
        raise ProblemsError(list(dict.fromkeys(problems)))
    return Usual(shape or shapes.most_common(1)[0][0], {level: n.most_common(1)[0][0] for level, n in bits.items()})


def _spread(images: Sequence[ForeignImage], most: int) -> list[ForeignImage]:
    """Return up to so many of some images, evenly from all of them."""
    step = max(1, math.ceil(len(images) / most))
    return list(images[::step])


def plate_of(name: str | None, images: Sequence[ForeignImage]) -> Plate:
    """Return the plate that is asked for, or the usual one: of 96 wells, or the next larger one that holds all.

    Raises
    ------
    ProblemsError
        If there is no such plate.
    """
    if name is not None:
        try:
            return Plate.model_validate(name)
        except ValidationError as error:
            raise ProblemsError([Problem(f"= {name!r}: {_words(error)[0]}", key="--plate")]) from error
    sizes = [Plate.model_validate(size) for size in _PLATES[_PLATES.index("96-well") :]]
    wells = {image.well for image in images if image.well} & set(sizes[-1].wells)
    count = max(len({image.field for image in images}), *(image.number or 0 for image in images))
    return next((p for p in sizes if wells <= set(p.wells) and count <= len(p.wells)), sizes[-1])


def _words(error: ValidationError) -> list[str]:
    return [detail["msg"].removeprefix("Value error, ") for detail in error.errors()]


def light_of(images: Sequence[ForeignImage], levels: dict[str, LightLevel] | None) -> dict[str, LightLevel]:
    """Return the light of each light level.

    Raises
    ------
    ProblemsError
        If they are not known, or differ between images of a level.
    """
    if levels:
        return levels
    problems = []
    light: dict[str, tuple[float, float]] = {}
    for image in images:
        if image.exposure_ms is None or image.led_percent is None:
            told = (
                f"exposure and LED power of {image.level} are not known: --level {image.level}=EXPOSURE_MS,LED_PERCENT"
            )
            problems.append(Problem(told, key="--level"))
            continue
        mine = image.exposure_ms, image.led_percent
        if (other := light.setdefault(image.level, mine)) != mine:
            told = f"{image.level} is {mine[0]:g} ms at {mine[1]:g} %, elsewhere {other[0]:g} ms at {other[1]:g} %: not one light level"
            problems.append(image.problem(told))
    if problems:
        raise ProblemsError(list(dict.fromkeys(problems)))
    try:
        return {name: LightLevel(name=name, exposure_ms=ms, led_percent=led) for name, (ms, led) in light.items()}
    except ValidationError as error:
        parts = ", ".join(
            str(detail["loc"][0]) + ": " + words for detail, words in zip(error.errors(), _words(error), strict=True)
        )
        raise ProblemsError([Problem(f"the light of a level cannot be: {parts}", key="--list")]) from error


_OPTIONS = {"held_out": "--held-out", "channel": "--channel", "light_levels": "--level", "plate": "--plate"}
"""What the user gives where a protocol that is made up cannot be."""
_MOST_SITES, _MOST_PLANES, _MOST_TIMES = 50, 1000, 1_000_000
"""Sites in a row of a well; planes; time points that a protocol may have."""


def protocol_of(
    images: Sequence[ForeignImage],
    light: dict[str, LightLevel],
    plate: Plate,
    *,
    name: str,
    channel: str,
    held_out: int | None,
    left_out: Sequence[Problem] = (),
) -> ImagingProtocol:
    """Return the protocol that these images would be of; `left_out` says why others are not among them.

    Raises
    ------
    ProblemsError
        If a light level has no image, or there is no such protocol.
    """
    there = {image.level for image in images}
    if absent := [level for level in light if level not in there]:
        told = f"{', '.join(absent)}: no image is of this level; those of the names are {', '.join(sorted(there))}"
        raise ProblemsError([Problem(told, key="--level"), *left_out[:5]])
    images = [image for image in images if image.level in light]
    levels = sorted(light.values(), key=lambda level: (level.channel not in (None, channel), -level.nominal_dose))
    imaged = {image.well for image in images}
    wells = [well for well in plate.wells if well in imaged]
    planes, times = _count(images, "z", "planes", _MOST_PLANES), _count(images, "t", "time points", _MOST_TIMES)
    share = max(1, round(_HELD_OUT_SHARE * len(wells))) if len(wells) > 2 else 0
    values: dict[str, Any] = {
        "name": name[:100] or "imported",
        "description": f"Imported. {_UNKNOWN}",
        "plate": plate,
        "wells": ", ".join(wells),
        "held_out": share if held_out is None else held_out,
        "sites": _grid(images),
        "channel": channel,
        "light_levels": [levels[0].model_copy(update={"role": "reference"}), *levels[1:]],
        "focus": {"strategy": "fixed"},
    }
    if planes > 1:
        values |= {"z_stack": {"planes": planes, "step_um": 1}, "focus": {"strategy": "fixed", "z_um": 0}}
    if times > 1:
        values["time_lapse"] = {"count": times, "interval_s": 0}
    try:
        return ImagingProtocol.model_validate(values)
    except ValidationError as error:
        places = [str(detail["loc"][0]) for detail in error.errors()]
        problems = zip(places, _words(error), strict=True)
        raise ProblemsError([Problem(told, key=_OPTIONS.get(place, place)) for place, told in problems]) from error


def _count(images: Sequence[ForeignImage], axis: str, what: str, most: int) -> int:
    last = max(images, key=lambda image: int(getattr(image, axis)))
    count = int(getattr(last, axis)) + 1
    if count > most:
        raise ProblemsError([last.problem(f"{count:,} {what} by the names; allowed: {most:,}")])
    return count


def _grid(images: Sequence[ForeignImage]) -> dict[str, int]:
    """Return rows and columns for the sites of a well: a square, or one row, or the best of what divides them.

    Raises
    ------
    ProblemsError
        If they cannot be laid out.
    """
    last = max(images, key=lambda image: image.site)
    count = last.site + 1
    side = math.isqrt(count)
    if side**2 == count and side <= _MOST_SITES:
        return {"rows": side, "columns": side}
    if count <= _MOST_SITES:
        return {"rows": 1, "columns": count}
    rows = [rows for rows in range(1, side + 1) if count % rows == 0 and count // rows <= _MOST_SITES]
    if not rows:
        told = (
            f"site {last.site} of well {last.well}, counted from 0: {count} sites in a well cannot be laid out; "
            f"allowed: up to {_MOST_SITES}, or rows and columns of up to {_MOST_SITES} each"
        )
        raise ProblemsError([last.problem(told)])
    return {"rows": rows[-1], "columns": count // rows[-1]}


_UNKNOWN = "Light on the sample beyond exposure x LED power, and stage positions that no list gave, are not known."


def profile_of(
    images: Sequence[ForeignImage],
    protocol: ImagingProtocol,
    usual: Usual,
    pixel_size_um: float | None,
    transmitted: Collection[str],
    say: Callable[[str], None],
) -> MicroscopeProfile:
    """Return what must be assumed of a microscope that nobody has described, and say it.

    Raises
    ------
    ProblemsError
        If the size of a pixel is missing, or no image of the darkest level can be read.
    """
    if pixel_size_um is None:
        told = "must be given, or --microscope: the size of a pixel on the sample, in micrometres"
        raise ProblemsError([Problem(told, key="--pixel-size-um")])
    for channel in protocol.channels[1:]:
        if channel not in transmitted:
            say(f"assumed: {channel} is fluorescence (--transmitted {channel} if its light goes through the sample)")
    own = protocol.levels_of(protocol.channel)
    darkest = min(own, key=lambda level: level.nominal_dose).name
    dark = list(_read_some(images, darkest, usual, 9))
    offset = float(np.median([np.percentile(image, 1) for image in dark]))
    say(
        f"assumed, for want of --microscope: an offset of {offset:g} counts (the darkest hundredth of {len(dark)} images of "
        f"{darkest}), one photo-electron a count, {_UNKNOWN_READ_NOISE_E:g} e- of read noise; the light of images is not checked, "
        "and figures in photo-electrons mean no more than counts"
    )
    saturation = _saturation(images, [level.name for level in own], protocol.reference.name, usual, say)
    return MicroscopeProfile.model_validate(
        {
            "name": "not described",
            "config": "imported.cfg",
            "camera": {
                "device": "unknown",
                "width_px": usual.shape[1],
                "height_px": usual.shape[0],
                "pixel_size_um": pixel_size_um,
                "offset_counts": offset,
                "gain_e_per_count": 1,
                "read_noise_e": _UNKNOWN_READ_NOISE_E,
                "saturation_counts": saturation,
            },
            "light_sources": {
                channel: {
                    "device": "unknown",
                    "property": "unknown",
                    "max": 100,
                    "step": 0.01,
                    "switch_off": [{"device": "unknown", "property": "unknown", "value": 0}],
                    "transmitted": channel in transmitted,
                }
                for channel in protocol.channels
            },
            "gating": {"how": "camera_ttl"},
            "stage": {
                "xy_device": "unknown",
                "z_device": "unknown",
                "x_um": [-1e6, 1e6],
                "y_um": [-1e6, 1e6],
                "z_um": [-1e6, 1e6],
            },
            "verification": {"light_check": False},
        }
    )


def _read_some(images: Sequence[ForeignImage], level: str, usual: Usual, most: int) -> Iterable[NDArray[np.uint16]]:
    """Return the counts of up to so many images of a level that can be read.

    Raises
    ------
    ProblemsError
        If none can.
    """
    read: list[NDArray[np.uint16]] = []
    problems: list[Problem] = []
    for image in _spread([image for image in images if image.level == level], most):
        try:
            read.append(read_counts(image, usual.shape, usual.bits.get(level)))
        except ProblemsError as error:
            problems += error.problems
    if not read:
        raise ProblemsError(problems)
    return read


def _saturation(
    images: Sequence[ForeignImage], levels: Sequence[str], reference: str, usual: Usual, say: Callable[[str], None]
) -> int:
    """Return the counts at which pixels are full: the largest of what the files of the levels can hold.

    A camera of 12 bits in files of 16 shows where bright images end at exactly 4095.
    """
    full = {level: 2**8 - 1 if usual.bits.get(level, 16) <= 8 else 2**16 - 1 for level in levels}
    most = max(full.values())
    if full[reference] < most:
        deep = next(level for level in levels if full[level] == most)
        say(
            f"warning: images of {reference} are of 8 bit, those of {deep} of 16: pixels of {reference} that are full at "
            f"{full[reference]} are not seen to be saturated"
        )
        return most
    if most > 2**8:
        bright = list(_read_some(images, reference, usual, 25))
        top = max(int(image.max()) for image in bright)
        if top in _ENDS and sum(int((image == top).sum()) for image in bright) >= _LEAST_FULL_PX:
            say(f"assumed: pixels are full at {top} counts, where images of {reference} end")
            return top
    return most


_ENDS = tuple(2**bits - 1 for bits in (10, 11, 12, 13, 14, 15))
_LEAST_FULL_PX = 20
