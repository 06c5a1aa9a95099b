from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import yaozarrs

from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import is_remote
from scotopic.store.ledger import finished_sites
from scotopic.store.light import light_verdicts
from scotopic.store.pixels import read_frame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from scotopic.protocol import ImagingProtocol
    from scotopic.store.ledger import FrameRecord
    from scotopic.store.light import FrameKey
    from scotopic.store.plate import PlateStore
    from scotopic.store.run_folder import RunFolder


def verify(run: RunFolder, progress: Callable[[int, int], None] | None = None) -> list[Problem]:
    """Read a run again, every pixel, and compare it with its ledger.

    Each planned frame must be written or skipped with a reason, each written frame must have the checksum that the
    ledger holds, the last visit of a site must be the only one that counts, and the plate must validate.

    Parameters
    ----------
    progress : callable, optional
        Called with (frames read, frames to read).

    Returns
    -------
    list of Problem
        Empty if the run is sound and complete.
    """
    protocol, profile = run.read_protocol(), run.read_profile()
    try:
        records = run.ledger.read()
    except ProblemsError as error:
        return list(error.problems)
    problems: list[Problem] = []
    current = _current_frames(records, protocol.frames_per_site)
    planned = {
        (site.well, site.index, t, level.name, z)
        for site in protocol.sites_in_travel_order(profile.camera.fov_um)
        for t in range(protocol.time_points)
        for level in protocol.light_levels
        for z in range(protocol.planes)
    }
    if missing := planned - current.keys():
        well, site, t, level, _ = min(missing)
        problems.append(
            Problem(
                f"{len(missing)} of {len(planned)} planned frames are missing, for example {level} of {well}_{site} at time point {t}"
            )
        )
    if strange := current.keys() - planned:
        problems.append(Problem(f"{len(strange)} frames in the ledger were never planned, for example {min(strange)}"))
    try:
        plate = run.plate(protocol, profile)
    except ProblemsError as error:
        return [*problems, *error.problems]
    written = [record for record in current.values() if record.state == "written"]
    for number, record in enumerate(sorted(written, key=lambda r: r.index)):
        place = f"{record.level} of {record.well}_{record.site}, t {record.t}, z {record.z}"
        try:
            image = read_frame(plate, record)
            copies = list(plate.wrong_copies(record.well, record.site, record.level, record.t, record.z, image))
        except ProblemsError as error:
            problems += error.problems
        except OSError as error:  # the rest is read nevertheless
            problems.append(Problem(f"{place} cannot be read: {_one_line(error)}", str(plate.path)))
        else:
            field = str(plate.field_path(record.well, record.site))
            problems += [Problem(f"{place}: its copy of 1/{n} of the size is wrong", field) for n in copies]
        if progress is not None:
            progress(number + 1, len(written))
    for r in current.values():
        what = f"{r.level} of {r.well}_{r.site} was {r.state.replace('_', ' ')}"
        if r.state != "written" and not r.reason:
            problems.append(Problem(f"{what} without a reason"))
        if r.state != "written" and plate.has_pixels(r.well, r.site, r.level, r.t, r.z):
            problems.append(Problem(f"{what}, but shows pixels", str(plate.path)))
    problems += [*_wrong_lines(records, protocol), *_missing_masks(run, plate)]
    if unlisted := {record.well for record in written} - plate.listed_wells:
        problems.append(Problem(f"does not name the wells {', '.join(sorted(unlisted))}", str(plate.path)))
    if written:
        try:
            _validate(plate.path)
        except Exception as error:
            problems.append(Problem(f"is not a valid OME-Zarr plate: {_one_line(error)}", str(plate.path)))
    return list(dict.fromkeys(problems))


def _missing_masks(run: RunFolder, plate: PlateStore) -> Iterator[Problem]:
    try:
        references = run.references()
    except ProblemsError as error:
        yield from error.problems
        return
    for (well, site, t), reference in references.items():
        if not plate.has_labels(well, site, "reference") or (
            reference.nuclei and not plate.has_label_pixels(well, site, "reference", t, reference.z)
        ):
            yield Problem(f"the masks of {well}_{site}, t {t}, are missing", str(plate.path))


def _validate(plate: Path) -> None:
    """Validate a plate's metadata and structure with yaozarrs.

    In an object store it (0.3.4) looks for the images of labels in the wrong place: that alone is no error there.

    Raises
    ------
    OSError, ValueError
        What is wrong with it.
    """
    remote = is_remote(plate)
    options = {"anon": False} if remote else None  # it would take a bucket for a public one
    try:
        yaozarrs.validate_zarr_store(yaozarrs.open_group(str(plate), options))
    except ValueError as error:  # its own kind has no public name
        found = {each["type"] for each in error.errors()} if hasattr(error, "errors") else set()
        if not remote or found != {"label_image_source_not_found"}:
            raise


def wrong_light(run: RunFolder) -> list[Problem]:
    """Return the frames whose images prove a wrong light, and those that have no proof although they should.

    Raises
    ------
    ProblemsError
        If ledger or proofs cannot be read.
    """
    protocol, profile = run.read_protocol(), run.read_profile()
    if not profile.verification.light_check:
        return []
    records = run.ledger.read()
    verdicts = light_verdicts(run.light_checks.read(), finished_sites(records, protocol.frames_per_site))
    current = _current_frames(records, protocol.frames_per_site).values()
    unlit = {r.site_key for r in current if r.level == protocol.reference.name and r.state == "left_out"}
    provable = {level.name for level in protocol.levels_of(protocol.channel)}
    lit = [r for r in current if r.state == "written" and r.z == 0 and r.level in provable and r.site_key not in unlit]
    dim = [r for r in lit if r.level != protocol.reference.name]
    problems = []
    for told, frames in (
        ("have the wrong light by the images' proof", [r for r in lit if verdicts.get(_frame(r)) == "wrong"]),
        ("have no proof of their light in light.jsonl", [r for r in dim if _frame(r) not in verdicts]),
    ):
        if frames:
            first = frames[0]
            example = f"{first.level} of {first.well}_{first.site}, t {first.t}"
            problems.append(Problem(f"{len(frames)} frames {told}, for example {example}"))
    return problems


def _frame(record: FrameRecord) -> FrameKey:
    return record.well, record.site, record.t, record.level


def _one_line(error: Exception) -> str:
    return " ".join(f"{error or type(error).__name__}".split())


def _wrong_lines(records: list[FrameRecord], protocol: ImagingProtocol) -> Iterator[Problem]:
    """Yield what the lines of a ledger say that cannot be: the same frame twice in a visit, another light than planned."""
    lines = Counter((*r.site_key, r.attempt, r.level, r.z) for r in records if r.state != "given_up")
    if twice := [key for key, count in lines.items() if count > 1]:
        well, site, t, attempt, level, z = twice[0]
        yield Problem(
            f"{len(twice)} frames have more than one line, for example {level} of {well}_{site}, t {t}, z {z}, visit {attempt}"
        )
    levels = {level.name: (level.exposure_ms, level.led_percent) for level in protocol.light_levels}
    for r in records:
        asked = r.exposure_ms, r.led_percent
        if r.level in levels and asked != levels[r.level]:
            yield Problem(
                f"{r.level} of {r.well}_{r.site} was asked for with {asked[0]:g} ms at {asked[1]:g} %, which is not this level"
            )


def _current_frames(
    records: list[FrameRecord], frames_per_site: int
) -> dict[tuple[str, int, int, str, int], FrameRecord]:
    """Return the record that counts of each frame of each finished site."""
    finished = finished_sites(records, frames_per_site)
    return {(r.well, r.site, r.t, r.level, r.z): r for r in records if finished.get(r.site_key) == r.attempt}
