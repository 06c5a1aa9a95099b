"""Images that other software took, made a run: what can be acquired here can be learned from, whoever acquired it."""

from __future__ import annotations

import csv
import math
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
import yaml
from pydantic import ValidationError

from scotopic.nuclei.images import read_plane
from scotopic.protocol import ImagingProtocol, LightLevel, MicroscopeProfile, Plate, Problem, ProblemsError, read_model
from scotopic.store import FrameRecord, Recorder, RunFolder, VisitRecord, differing_keys, finished_sites
from scotopic.store.foreign import PRESETS, ForeignImage, find_by_list, find_by_names, on_a_plate

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from numpy.typing import NDArray

    from scotopic.protocol import Site

_PLATES = ("6-well", "12-well", "24-well", "48-well", "96-well", "384-well", "1536-well")
_HELD_OUT_SHARE = 6 / 96
"""Of the wells, as in the white paper."""
_UNKNOWN_READ_NOISE_E = 2.0
Place = tuple[str, int, int, int, str]
"""Well, site, time point, plane, light level."""


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
) -> int:
    """Make a run of images, on which `segment`, `train`, `validate` and `report` work; killed, the same call goes on.

    Files are read and never changed. What the images do not tell is said: where the protocol is not given it is made up
    of the names, where no profile is given the camera's noise is assumed.

    Returns
    -------
    int
        Frames that are in the run.

    Raises
    ------
    ProblemsError
        If names, light levels, protocol and profile do not fit each other, or `out` holds another run.
    """
    protocol = read_model(protocol_path, ImagingProtocol) if protocol_path else None
    known = {level.name for level in protocol.light_levels} if protocol else set(source.levels or {})
    images, left_out = _found(source, known)
    strange = sorted({image.level for image in images} - known) if known else []
    images = _of_known_levels(images, known)
    layout = protocol.plate if protocol else _plate(plate, images)
    images = on_a_plate(images, layout)
    if protocol is None:
        protocol = _protocol_of(images, _light(images, source), layout, channel, held_out, source)
        if plate is None and any(image.number is not None for image in images):
            say(f"assumed: wells are numbered row by row on a {layout.name} plate (--plate says otherwise)")
    if not any(image.level == protocol.reference.name for image in images):
        told = f"no image is of the reference level {protocol.reference.name}, which masks come from"
        raise ProblemsError([Problem(told, key="light_levels")])
    if left_out or strange:
        example = f", for example {left_out[0].name}" if left_out else ""
        say(f"left out: {len(left_out)} files of other names{example}; levels {', '.join(strange) or 'none'}")
    _refuse_unplanned(images, protocol)
    assumed = profile_path is None
    profile = read_model(profile_path, MicroscopeProfile) if profile_path else None
    _refuse_lights(protocol, profile, transmitted, profile_path)
    profile = profile or _profile_of(images, protocol, pixel_size_um, transmitted, say)
    run = RunFolder(out)
    run.lock()
    try:
        _begin(run, protocol, profile, profile_path)
        _note_files(run, images)
        return _write(run, protocol, profile, images, say, camera_known=not assumed)
    finally:
        run.unlock()


def _of_known_levels(images: Sequence[ForeignImage], known: Collection[str]) -> list[ForeignImage]:
    kept = [image for image in images if not known or image.level in known]
    if not kept:
        there = ", ".join(sorted({image.level for image in images}))
        raise ProblemsError(
            [Problem(f"{', '.join(known)}: no image is of these levels; there are {there}", key="--level")]
        )
    return kept


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
        or any(n >= most for n, most in zip((image.site, image.t, image.z), counts, strict=True))
    ]
    if strays:
        first = strays[0]
        told = (
            f"{first.well}_{first.site}, time point {first.t}, plane {first.z}, is not in the protocol, nor are {len(strays) - 1} "
            f"more: it has {len(wells)} wells, {counts[0]} sites in each, {counts[1]} time points, {counts[2]} planes"
        )
        raise ProblemsError([Problem(told, str(first.path))])


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


def _found(source: ImageSource, known: Collection[str]) -> tuple[list[ForeignImage], list[Path]]:
    if source.listing is not None:
        return find_by_list(source.listing), []
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
    return [ForeignImage(path, level) for path, level in zip(source.paths, levels, strict=True)], []


def _plate(name: str | None, images: Sequence[ForeignImage]) -> Plate:
    """Return the plate that is asked for, or the usual one: of 96 wells, or the next larger one that holds all."""
    if name is not None:
        try:
            return Plate.model_validate(name)
        except ValidationError as error:
            raise ProblemsError([Problem(f"= {name!r}: {error.errors()[0]['msg']}", key="--plate")]) from error
    sizes = [Plate.model_validate(size) for size in _PLATES[_PLATES.index("96-well") :]]
    wells = {image.well for image in images if image.well}
    count = max(len({image.field for image in images}), *(image.number or 0 for image in images))
    return next((p for p in sizes if wells <= set(p.wells) and count <= len(p.wells)), sizes[-1])


def _light(images: Sequence[ForeignImage], source: ImageSource) -> dict[str, LightLevel]:
    """Return the light of each light level.

    Raises
    ------
    ProblemsError
        If they are not known, or differ between images of a level.
    """
    if source.levels:
        return source.levels
    problems = []
    light: dict[str, tuple[float, float]] = {}
    for image in images:
        if image.exposure_ms is None or image.led_percent is None:
            told = (
                f"exposure and LED power of {image.level} are not known: --level {image.level}=EXPOSURE_MS,LED_PERCENT"
            )
            problems.append(Problem(told, key="--level"))
        else:
            mine = image.exposure_ms, image.led_percent
            if light.setdefault(image.level, mine) != mine:
                told = f"{image.level} was {light[image.level]} ms and % elsewhere, here {mine}: not one light level"
                problems.append(Problem(told, str(image.path)))
    if problems:
        raise ProblemsError(list(dict.fromkeys(problems)))
    return {name: LightLevel(name=name, exposure_ms=ms, led_percent=led) for name, (ms, led) in light.items()}


def _protocol_of(
    images: Sequence[ForeignImage],
    light: dict[str, LightLevel],
    plate: Plate,
    channel: str,
    held_out: int | None,
    source: ImageSource,
) -> ImagingProtocol:
    there = {image.level for image in images}
    if absent := [name for name in light if name not in there]:
        told = f"{', '.join(absent)}: no image is of this level; those of the names are {', '.join(sorted(there))}"
        raise ProblemsError([Problem(told, key="--level")])
    images = [image for image in images if image.level in light]
    levels = sorted(light.values(), key=lambda level: (level.channel not in (None, channel), -level.nominal_dose))
    imaged = {image.well for image in images}
    wells = [well for well in plate.wells if well in imaged]
    count, planes, times = (max(getattr(image, axis) for image in images) + 1 for axis in ("site", "z", "t"))
    side = math.isqrt(count)
    share = max(1, round(_HELD_OUT_SHARE * len(wells))) if len(wells) > 2 else 0
    values: dict[str, Any] = {
        "name": (source.listing or source.paths[0]).stem[:100] or "imported",
        "description": f"Imported. {_UNKNOWN}",
        "plate": plate,
        "wells": ", ".join(wells),
        "held_out": share if held_out is None else held_out,
        "sites": {"rows": side, "columns": side} if side**2 == count else {"rows": 1, "columns": count},
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
        problems = [Problem(f"{detail['msg']}", key=".".join(map(str, detail["loc"]))) for detail in error.errors()]
        raise ProblemsError(problems) from error


_UNKNOWN = "Light on the sample beyond exposure x LED power, and stage positions that no list gave, are not known."


def _profile_of(
    images: Sequence[ForeignImage],
    protocol: ImagingProtocol,
    pixel_size_um: float | None,
    transmitted: Collection[str],
    say: Callable[[str], None],
) -> MicroscopeProfile:
    """Return what must be assumed of a microscope that nobody has described, and say it."""
    if pixel_size_um is None:
        told = "must be given, or --microscope: the size of a pixel on the sample, in micrometres"
        raise ProblemsError([Problem(told, key="--pixel-size-um")])
    for channel in protocol.channels[1:]:
        if channel not in transmitted:
            say(f"assumed: {channel} is fluorescence (--transmitted {channel} if its light goes through the sample)")
    doses = {level.name: level.nominal_dose for level in protocol.levels_of(protocol.channel)}
    darkest = min((image for image in images if image.level in doses), key=lambda image: doses[image.level])
    image = _read(darkest)
    offset = float(np.percentile(image, 1))
    say(
        f"assumed, for want of --microscope: an offset of {offset:g} counts (the darkest hundredth of {darkest.path.name}), one "
        f"photo-electron a count, {_UNKNOWN_READ_NOISE_E:g} e- of read noise; the light of images is not checked, and figures in "
        "photo-electrons mean no more than counts"
    )
    full = int(np.iinfo(image.dtype).max) if image.dtype.kind in "ui" else 65535
    return MicroscopeProfile.model_validate(
        {
            "name": "not described",
            "config": "imported.cfg",
            "camera": {
                "device": "unknown",
                "width_px": image.shape[1],
                "height_px": image.shape[0],
                "pixel_size_um": pixel_size_um,
                "offset_counts": offset,
                "gain_e_per_count": 1,
                "read_noise_e": _UNKNOWN_READ_NOISE_E,
                "saturation_counts": min(full, 65535),
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


def _note_files(run: RunFolder, images: Iterable[ForeignImage]) -> None:
    """Keep which file becomes which frame.

    Raises
    ------
    ProblemsError
        If a frame was another file when this run was imported before.
    """
    path = run.path / "imported.csv"
    now = {(i.well, str(i.site), str(i.t), str(i.z), i.level): str(i.path.absolute()) for i in images}
    before: dict[tuple[str, ...], str] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            before = {tuple(line[:5]): line[5] for line in list(csv.reader(file))[1:]}
    for place, name in now.items():
        if before.get(place, name) != name:
            told = f"is now {place[4]} of {place[0]}_{place[1]}, which was {before[place]} before; choose another --out"
            raise ProblemsError([Problem(told, name)])
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["well", "site", "t", "z", "level", "file"])
        lines.writerows([*place, name] for place, name in (before | now).items())


def _write(
    run: RunFolder,
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
    images: Sequence[ForeignImage],
    say: Callable[[str], None],
    *,
    camera_known: bool,
) -> int:
    """Write all frames that are not there yet, site by site."""
    by_place: dict[Place, ForeignImage] = {(i.well, i.site, i.t, i.z, i.level): i for i in images}
    run.ledger.cut_torn_line()
    run.settle_visits()
    records = run.ledger.read()
    finished = finished_sites(records, protocol.frames_per_site)
    attempts = {record.site_key: record.attempt for record in records}
    wanting = {  # sites that lack a frame which is here now
        record.site_key
        for record in records
        if record.state == "skipped"
        and finished.get(record.site_key) == record.attempt
        and (record.well, record.site, record.t, record.z, record.level) in by_place
    }
    recorder = Recorder(
        run,
        run.plate(protocol, profile),
        compared=[level.name for level in protocol.levels_of(protocol.channel)],
        camera=profile.camera.noise if camera_known and profile.verification.light_check else None,
        on_site=lambda _site: None,
    )
    try:
        index = 0
        for t in range(protocol.time_points):
            for site in protocol.sites_in_travel_order(profile.camera.fov_um):
                key = site.well, site.index, t
                if key not in finished or key in wanting:
                    visit = VisitRecord(well=site.well, site=site.index, t=t, attempt=attempts.get(key, 0) + 1)
                    _write_site(recorder, protocol, profile, site, visit, index, by_place)
                index += protocol.frames_per_site
    finally:
        recorder.close()
    records = run.ledger.read()
    counting = finished_sites(records, protocol.frames_per_site)
    records = [record for record in records if counting.get(record.site_key) == record.attempt]
    skipped = [record for record in records if record.state == "skipped"]
    missing = sum(record.reason == _ABSENT for record in skipped)
    for record in skipped:
        if record.reason != _ABSENT:
            say(f"warning: {record.level} of {record.well}_{record.site}: {record.reason}; left out")
    written = sum(record.state == "written" for record in records)
    sites = len(counting)
    if not written:
        raise ProblemsError(
            [Problem("no image could be imported; nothing can be learned from this run", str(run.path))]
        )
    more = f"; {missing} that the plate would have are not there" * bool(missing)
    say(
        f"imported {written:,} images of {sites} sites in {len(protocol.well_names)} wells, held out "
        f"{', '.join(protocol.held_out_wells) or 'none'}{more}"
    )
    run.write_status("acquire", state="imported", frames={"planned": len(records), "written": written})
    return written


_ABSENT = "not among the imported images"


def _write_site(
    recorder: Recorder,
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
    site: Site,
    visit: VisitRecord,
    index: int,
    by_place: dict[Place, ForeignImage],
) -> None:
    places = [
        (site.well, site.index, visit.t, z, level.name)
        for z in range(protocol.planes)
        for level in protocol.levels_in_exposure_order
    ]
    there = [by_place[place] for place in places if place in by_place]
    xy_um = _position(protocol, profile, site, there)
    recorder.open_visit(visit, xy_um)
    levels = {level.name: level for level in protocol.light_levels}
    shape = profile.camera.height_px, profile.camera.width_px
    for number, place in enumerate(places):
        level, last = levels[place[-1]], number == len(places) - 1
        asked: dict[str, Any] = {
            "index": index + number,
            **dict(zip(("well", "site", "t", "z", "level"), place, strict=True)),
            "attempt": visit.attempt,
            "exposure_ms": level.exposure_ms,
            "led_percent": level.led_percent,
            "xy_um": xy_um,
        }
        found = by_place.get(place)
        try:
            if found is None:
                raise ProblemsError([Problem(_ABSENT)])
            image = _counts(found, shape)
        except ProblemsError as error:
            now = datetime.now(UTC).isoformat(timespec="milliseconds")
            reason = str(error.problems[0])
            recorder.not_taken(FrameRecord(**asked, time=now, state="skipped", reason=reason), last=last)
            continue
        channel = protocol.channel_of(level)
        signal = round(profile.signal_ms(channel, level.exposure_ms, level.led_percent), 6)
        dose = round(level.exposure_ms * profile.light_source(channel).relative_power(level.led_percent), 6)
        taken = datetime.fromtimestamp(found.path.stat().st_mtime, UTC).isoformat(timespec="milliseconds")
        record = FrameRecord(**asked, time=taken, state="written", signal_dose_ms=signal, sample_dose_ms=dose)
        recorder.frame(record, image, last=last)
        recorder.wait_for_pixels()


def _position(
    protocol: ImagingProtocol, profile: MicroscopeProfile, site: Site, images: Sequence[ForeignImage]
) -> tuple[float, float]:
    """Return the stage position of a site: as listed, or where the protocol has it."""
    for image in images:
        if image.x_um is not None and image.y_um is not None:
            return image.x_um, image.y_um
    try:
        x, y = profile.placement(protocol.plate).to_stage(site.plate_x_um, site.plate_y_um)
    except ValueError:  # not calibrated: as if A1 lay at the origin
        x, y = site.plate_x_um, site.plate_y_um
    return round(x, 3), round(y, 3)


def _counts(found: ForeignImage, shape: tuple[int, int]) -> NDArray[np.uint16]:
    """Return an image of other software as counts, shape (Y, X).

    Raises
    ------
    ProblemsError
        If it cannot be read, has another size, or values that are no counts of 16 bit.
    """
    path, image = found.path, _read(found)
    if image.shape != shape:
        told = f"has {image.shape[1]} x {image.shape[0]} px; the others, or the profile, have {shape[1]} x {shape[0]}"
        raise ProblemsError([Problem(told, str(path))])
    if image.dtype.kind == "f" or image.min() < 0 or image.max() > 65535:
        raise ProblemsError([Problem(f"holds values of {image.dtype} that are no counts of 16 bit", str(path))])
    return image.astype(np.uint16)


def _read(image: ForeignImage) -> NDArray[Any]:
    if image.channel is None:
        return read_plane(image.path)
    try:
        plane: NDArray[Any] = np.squeeze(tifffile.imread(image.path))[image.channel]
    except Exception as error:  # readers raise what they like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProblemsError([Problem(f"cannot be read as an image: {reason}", str(image.path))]) from error
    return plane


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
