"""Images of other software written as the frames of a run, site by site; what is there is not written twice."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.nuclei.images import read_plane
from scotopic.protocol import Problem, ProblemsError
from scotopic.store import FrameRecord, Recorder, VisitRecord, finished_sites

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile, Site
    from scotopic.store import RunFolder
    from scotopic.store.foreign import ForeignImage

Place = tuple[str, int, int, int, str]
"""Well, site, time point, plane, light level."""
_ABSENT = "not among the imported images"
_MOST_LINES = 20
"""Of images that are left out; the rest is counted."""


def note_files(run: RunFolder, images: Iterable[ForeignImage]) -> None:
    """Keep which file becomes which frame.

    Raises
    ------
    ProblemsError
        If a frame was another file, or another page of it, when this run was imported before.
    """
    path = run.path / "imported.csv"
    now = {
        (i.well, str(i.site), str(i.t), str(i.z or 0), i.level): (
            str(i.path.absolute()),
            "" if i.plane is None else str(i.plane),
        )
        for i in images
    }
    before: dict[tuple[str, ...], tuple[str, ...]] = {}
    if path.exists():
        with path.open(encoding="utf-8", newline="") as file:
            before = {tuple(line[:5]): tuple(line[5:]) for line in list(csv.reader(file))[1:]}
    for place, source in now.items():
        if before.get(place, source) != source:
            told = f"is now {place[4]} of {place[0]}_{place[1]}, which was {' page '.join(before[place])} before; choose another --out"
            raise ProblemsError([Problem(told, source[0])])
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["well", "site", "t", "z", "level", "file", "page"])
        lines.writerows([*place, *source] for place, source in (before | now).items())


def write(
    run: RunFolder,
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
    images: Sequence[ForeignImage],
    say: Callable[[str], None],
    *,
    bits: Mapping[str, int],
    camera_known: bool,
) -> tuple[int, int]:
    """Write all frames that are not there yet, site by site; return how many images are in the run, and how many are left out.

    Raises
    ------
    ProblemsError
        If no image could be written.
    """
    by_place: dict[Place, ForeignImage] = {(i.well, i.site, i.t, i.z or 0, i.level): i for i in images}
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
                    _write_site(recorder, protocol, profile, site, visit, index, by_place, bits)
                index += protocol.frames_per_site
    finally:
        recorder.close()
    records = run.ledger.read()
    counting = finished_sites(records, protocol.frames_per_site)
    records = [record for record in records if counting.get(record.site_key) == record.attempt]
    skipped = [record for record in records if record.state == "skipped"]
    left_out = [record for record in skipped if record.reason != _ABSENT]
    missing = len(skipped) - len(left_out)
    for record in left_out[:_MOST_LINES]:
        say(f"warning: {record.level} of {record.well}_{record.site}: {record.reason}; left out")
    if uncounted := len(left_out[_MOST_LINES:]):
        say(f"warning: {uncounted} more images cannot be read; left out")
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
    return written, len(left_out)


def _write_site(
    recorder: Recorder,
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
    site: Site,
    visit: VisitRecord,
    index: int,
    by_place: dict[Place, ForeignImage],
    bits: Mapping[str, int],
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
            image = read_counts(found, shape, bits.get(found.level))
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


def read_counts(found: ForeignImage, shape: tuple[int, ...], bits: int | None = None) -> NDArray[np.uint16]:
    """Return an image of other software as counts, shape (Y, X).

    Parameters
    ----------
    bits : int, optional
        Bits of a value in most files of its light level: one of 8 among those of 16 has been stretched, and is no measurement.

    Raises
    ------
    ProblemsError
        If it cannot be read, has another size, or values that are no counts of 16 bit.
    """
    path = found.path
    image = read_plane(path) if found.plane is None else read_plane(path, plane=found.plane)
    if image.shape != shape:
        told = f"has {image.shape[1]} x {image.shape[0]} px; the others, or the profile, have {shape[1]} x {shape[0]}"
        raise ProblemsError([Problem(told, str(path))])
    if image.dtype.kind == "f" or image.min() < 0 or image.max() > 65535:
        raise ProblemsError([Problem(f"holds values of {image.dtype} that are no counts of 16 bit", str(path))])
    if bits is not None and (image.dtype.itemsize == 1) != (bits <= 8):
        told = f"has {image.dtype.itemsize * 8} bits, most images of {found.level} have {bits}"
        raise ProblemsError([Problem(told, str(path))])
    return image.astype(np.uint16)
