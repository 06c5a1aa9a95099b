"""Images that other software took, made a run: what can be acquired here can be learned from, whoever acquired it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from pydantic import ValidationError

from scotopic.protocol import ImagingProtocol, LightLevel, MicroscopeProfile, Problem, ProblemsError, read_model
from scotopic.store import RunFolder, differing_keys
from scotopic.store.foreign import (
    PRESETS,
    ForeignImage,
    Found,
    find_by_list,
    find_by_names,
    on_a_plate,
    without_projections,
)
from scotopic.workflow.importing.described import light_of, plate_of, profile_of, protocol_of, usual_of
from scotopic.workflow.importing.frames import note_files, write

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

_MOST_LINES = 20
"""Of files that are left out; the rest is counted."""


@dataclass(frozen=True)
class ImageSource:
    """Where images of other software are, and what their names mean."""

    paths: tuple[Path, ...]
    """One folder; or single images, one for each light level in the order of `levels`."""
    patterns: tuple[str, ...] = ()
    """What names look like, see `scotopic.store.foreign`."""
    listing: Path | None = None
    """CSV file that lists the images, instead."""
    levels: dict[str, LightLevel] | None = None
    """Light level, as it stands in the names -> its light; which one is the reference is found out."""


@dataclass(frozen=True)
class Imported:
    """What became of images of other software."""

    frames: int
    """Images that are in the run."""
    left_out: int
    """Images that were given and are not in it, though nobody asked for that."""


def import_images(
    source: ImageSource,
    out: Path,
    say: Callable[[str], None] = print,
    *,
    protocol_path: Path | None = None,
    profile_path: Path | None = None,
    plate: str | None = None,
    channel: str = "DAPI",
    held_out: int | None = None,
    pixel_size_um: float | None = None,
    transmitted: Collection[str] = (),
) -> Imported:
    """Make a run of images, on which `segment`, `train`, `validate` and `report` work; killed, the same call goes on.

    Files are read and never changed. What the images do not tell is said: where the protocol is not given it is made up
    of the names, where no profile is given the camera's noise is assumed. Single images that have no place or cannot be
    read are left out, each with a line that says why.

    Raises
    ------
    ProblemsError
        If names, light levels, protocol and profile do not fit each other, or `out` holds another run.
    """
    protocol = read_model(protocol_path, ImagingProtocol) if protocol_path else None
    known = {level.name for level in protocol.light_levels} if protocol else set(source.levels or {})
    found = _found(source, known)
    _refuse_other_levels(found, known)
    images, projections, odd = without_projections([i for i in found.images if not known or i.level in known])
    strange = sorted({image.level for image in found.images} - known) if known else []
    odd += _without_any_level(found.images, known)
    layout = protocol.plate if protocol else plate_of(plate, images)
    numbered = any(image.number is not None for image in images)
    placed = on_a_plate(images, layout, most_sites=protocol.sites.count if protocol else None)
    images, left_out = placed.images, [*found.left_out, *odd, *placed.left_out]
    if protocol is None:
        name = (source.listing or source.paths[0]).stem
        light = light_of(images, source.levels)
        protocol = protocol_of(images, light, layout, name=name, channel=channel, held_out=held_out, left_out=left_out)
        if plate is None and numbered:
            say(f"assumed: wells are numbered row by row on a {layout.name} plate (--plate says otherwise)")
    if not any(image.level == protocol.reference.name for image in images):
        told = f"no image is of the reference level {protocol.reference.name}, which masks come from"
        raise ProblemsError([Problem(told, key="light_levels")])
    _refuse_unplanned(images, protocol)
    profile = read_model(profile_path, MicroscopeProfile) if profile_path else None
    _refuse_lights(protocol, profile, transmitted, profile_path)
    usual = usual_of(images, (profile.camera.height_px, profile.camera.width_px) if profile else None)
    assumed = profile is None
    profile = profile or profile_of(images, protocol, usual, pixel_size_um, transmitted, say)
    for note in placed.assumed:
        say(f"assumed: {note}")
    run = RunFolder(out)
    run.lock()
    try:
        _begin(run, protocol, profile, profile_path)
        note_files(run, images)
        written, unread = write(run, protocol, profile, images, say, bits=usual.bits, camera_known=not assumed)
    finally:
        run.unlock()
    _say_what_is_not_there(found, projections, strange, left_out, say)
    if total := unread + len(left_out):
        say(f"left out: {total} of the images given")
    return Imported(written, total)


def _say_what_is_not_there(
    found: Found,
    projections: Sequence[ForeignImage],
    strange: Sequence[str],
    left_out: Sequence[Problem],
    say: Callable[[str], None],
) -> None:
    """Say which files are no images of the run: by their kind, by nobody's wish, or for a reason of their own."""
    if derived := [*found.derived, *(image.path for image in projections)]:
        say(f"not imported: {len(derived)} files that software made of images, for example {derived[0].name}")
    if found.unasked:
        say(f"not imported: {len(found.unasked)} files of other levels, for example {found.unasked[0].name}")
    if strange:
        say(f"not imported: channels of other levels: {', '.join(strange)}")
    for problem in left_out[:_MOST_LINES]:
        say(f"warning: {problem}; left out")
    if more := len(left_out[_MOST_LINES:]):
        say(f"warning: {more} more files are left out")


def _without_any_level(images: Sequence[ForeignImage], known: Collection[str]) -> list[Problem]:
    """Return the files of which no channel is a level: odd ones among those that have them."""
    channels: dict[Path, set[str]] = {}
    for image in images:
        channels.setdefault(image.path, set()).add(image.level)
    told = f"of which none is a level ({', '.join(sorted(known))})"
    return [
        Problem(f"has the channels {', '.join(sorted(names))}, {told}", str(path))
        for path, names in channels.items()
        if known and not names & set(known)
    ]


def _refuse_other_levels(found: Found, known: Collection[str]) -> None:
    if known and not any(image.level in known for image in found.images):
        there = ", ".join(sorted({image.level for image in found.images}))
        told = f"{', '.join(sorted(known))}: no image is of these levels; there are {there}"
        raise ProblemsError([Problem(told, key="--level"), *found.left_out[:_MOST_LINES]])


def _refuse_lights(
    protocol: ImagingProtocol,
    profile: MicroscopeProfile | None,
    transmitted: Collection[str],
    profile_path: Path | None,
) -> None:
    """Refuse channels that the profile does not light, and what is said of their light that cannot be."""
    if profile is not None:
        if transmitted:
            told = "is said by the profile (transmitted: true): give one of the two"
            raise ProblemsError([Problem(told, key="--transmitted")])
        for channel in protocol.channels:
            try:
                profile.light_source(channel)
            except ValueError as error:
                raise ProblemsError([Problem(str(error), str(profile_path))]) from error
    if unknown := [channel for channel in transmitted if channel not in protocol.channels[1:]]:
        allowed = ", ".join(protocol.channels[1:]) or "none: all levels are of the stain, which masks come from"
        raise ProblemsError([Problem(f"= {', '.join(unknown)}; allowed: {allowed}", key="--transmitted")])


def _refuse_unplanned(images: Sequence[ForeignImage], protocol: ImagingProtocol) -> None:
    """Refuse images that a protocol has no place for: they would be left out without a word."""
    counts = protocol.sites.count, protocol.time_points, protocol.planes
    wells = set(protocol.well_names)
    strays = [
        image
        for image in images
        if image.well not in wells
        or any(n >= most for n, most in zip((image.site, image.t, image.z or 0), counts, strict=True))
    ]
    if strays:
        first = strays[0]
        told = (
            f"{first.well}_{first.site}, time point {first.t}, plane {first.z}, is not in the protocol, nor are {len(strays) - 1} "
            f"more: it has {len(wells)} wells, {counts[0]} sites in each, {counts[1]} time points, {counts[2]} planes"
        )
        raise ProblemsError([first.problem(told)])


def parsed_level(text: str) -> LightLevel:
    """Return the light level of `NAME=EXPOSURE_MS,LED_PERCENT`, or `NAME=EXPOSURE_MS,LED_PERCENT,CHANNEL` of another channel.

    Raises
    ------
    ProblemsError
        If it is something else.
    """
    name, _, light = text.rpartition("=")
    try:
        exposure, led, *channel = light.split(",", 2)
        return LightLevel(
            name=name, exposure_ms=float(exposure), led_percent=float(led), channel=next(iter(channel), None)
        )
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
        raise ProblemsError([Problem(f"= {text!r}: {told}", key="--level")]) from None
    except ValueError:
        told = f"= {text!r}: allowed: NAME=EXPOSURE_MS,LED_PERCENT or NAME=EXPOSURE_MS,LED_PERCENT,CHANNEL, for example 2%=4,100"
        raise ProblemsError([Problem(told, key="--level")]) from None


def _found(source: ImageSource, known: Collection[str]) -> Found:
    if source.listing is not None:
        return Found(find_by_list(source.listing))
    if source.patterns:
        if len(source.paths) != 1:
            raise ProblemsError([Problem("one folder is wanted where names tell what is what", key="SOURCE")])
        return find_by_names(source.paths[0], source.patterns, known)
    levels = list(source.levels or {})
    if len(levels) < 2 or len(levels) != len(source.paths) or not all(path.is_file() for path in source.paths):
        told = (
            "must be given: --pattern, --preset or --list; or one image for each --level, in their order "
            f"({len(source.paths)} given, and {len(levels)} levels)"
        )
        raise ProblemsError([Problem(told, key="--pattern")])
    return Found([ForeignImage(path, level) for path, level in zip(source.paths, levels, strict=True)])


def _begin(run: RunFolder, protocol: ImagingProtocol, profile: MicroscopeProfile, profile_path: Path | None) -> None:
    """Begin the run, or make sure that it is the same one."""
    if run.exists:
        there = run.read_protocol().model_dump(mode="json"), run.read_profile().model_dump(mode="json")
        asked = protocol.model_dump(mode="json"), profile.model_dump(mode="json")
        if different := [key for old, new in zip(there, asked, strict=True) for key, *_ in differing_keys(old, new)]:
            told = f"holds another run: {', '.join(different[:4])} differ; choose another --out"
            raise ProblemsError([Problem(told, str(run.path))])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = folder / "protocol.yaml", folder / "microscope.yaml"
        dumps = protocol.model_dump(mode="json", exclude_none=True), profile.model_dump(mode="json", exclude_none=True)
        for path, values in zip(paths, dumps, strict=True):
            path.write_text(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8")
        config = folder / profile.config
        if profile_path is None:
            config.write_text("# Imported images: no hardware.\n", encoding="utf-8")
            run.begin(protocol, profile, *paths)
        else:
            run.begin(protocol, profile, paths[0], profile_path)


def patterns_of(preset: str) -> tuple[str, ...]:
    """Return the file names of a common software.

    Raises
    ------
    ProblemsError
        If it is not known.
    """
    if preset not in PRESETS:
        raise ProblemsError([Problem(f"= {preset!r}: allowed: {', '.join(PRESETS)}", key="--preset")])
    return PRESETS[preset]
