from __future__ import annotations

from typing import TYPE_CHECKING

import yaozarrs

from scotopic.protocol import Problem
from scotopic.store.ledger import checksum, finished_sites

if TYPE_CHECKING:
    from collections.abc import Callable

    from scotopic.store.ledger import FrameRecord
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
    except ValueError as error:
        return [Problem(str(error))]
    problems = []
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
    plate = run.plate(protocol, profile)
    written = [record for record in current.values() if record.state == "written"]
    for number, record in enumerate(sorted(written, key=lambda r: r.index)):
        place = f"{record.level} of {record.well}_{record.site}, t {record.t}, z {record.z}"
        try:
            image = plate.read(record.well, record.site, record.level, record.t, record.z)
        except (OSError, ValueError, KeyError) as error:
            problems.append(Problem(f"{place} cannot be read: {error}", str(plate.path)))
            continue
        if checksum(image) != record.checksum:
            problems.append(Problem(f"{place} is not what the camera gave (checksum)", str(plate.path)))
        if progress is not None:
            progress(number + 1, len(written))
    problems += [
        Problem(f"{r.level} of {r.well}_{r.site} was skipped without a reason")
        for r in current.values()
        if r.state == "skipped" and not r.reason
    ]
    if unlisted := {record.well for record in written} - plate.listed_wells:
        problems.append(Problem(f"does not name the wells {', '.join(sorted(unlisted))}", str(plate.path)))
    if written:
        try:
            yaozarrs.validate_zarr_store(str(plate.path))
        except Exception as error:
            problems.append(Problem(f"is not a valid OME-Zarr plate: {error}", str(plate.path)))
    return problems


def _current_frames(
    records: list[FrameRecord], frames_per_site: int
) -> dict[tuple[str, int, int, str, int], FrameRecord]:
    """Return the record that counts of each frame of each finished site."""
    finished = finished_sites(records, frames_per_site)
    return {(r.well, r.site, r.t, r.level, r.z): r for r in records if finished.get(r.site_key) == r.attempt}
