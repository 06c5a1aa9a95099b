"""Ground truth of a run: masks from the bright images, and the same nuclei measured at every light level."""

from __future__ import annotations

import os
from contextlib import ExitStack
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from scotopic.nuclei import evenly_lit, judge, measure_levels, reference_segmentation
from scotopic.photons import focus_score
from scotopic.protocol import Problem, ProblemsError
from scotopic.store import ReferenceRecord, RunFolder, finished_sites, light_verdicts
from scotopic.store import read_frame as read_pixels

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.photons import CameraMaps
    from scotopic.protocol import ImagingProtocol, MicroscopeProfile
    from scotopic.protocol.profile import Camera
    from scotopic.store import FrameRecord, PlateStore

REFERENCE = "reference"
"""Name of these masks in the plate's labels and of their tables."""
_CLUSTER_S, _RETRIES = 10, 3
_FLAGS = ["clump", "debris", "mitotic"]
"""What a nucleus looks like is said by its bright image, at every level."""


SiteKey = tuple[str, int, int]
"""Well, site and time point."""
Frames = dict[str, "FrameRecord"]
"""Light level -> line of the ledger, of one plane of a site."""


def finished_frames(run: RunFolder) -> dict[SiteKey, Frames]:
    """Return the written frames of every finished site, of one plane: that of its masks, or the sharpest bright one."""
    planes = {key: record.z for key, record in run.references().items()}
    frames = {}
    for key, stack in _finished_stacks(run).items():
        z = planes.get(key)
        frames[key] = stack[_sharpest(run.path, stack) if z is None else z]
    return frames


def _finished_stacks(run: RunFolder) -> dict[SiteKey, dict[int, Frames]]:
    """Return the written frames of every finished site, by plane."""
    protocol, records = run.read_protocol(), run.ledger.read()
    finished = finished_sites(records, protocol.frames_per_site)
    stacks: dict[SiteKey, dict[int, Frames]] = {}
    for record in records:
        if finished.get(record.site_key) == record.attempt and record.state == "written":
            stacks.setdefault(record.site_key, {}).setdefault(record.z, {})[record.level] = record
    return stacks


def _sharpest(run_path: Path, stack: dict[int, Frames]) -> int:
    """Return the plane of a site whose bright image is the sharpest; the lowest, where there is none."""
    protocol, profile, *_ = _opened_run(run_path)
    bright = {z: frames[protocol.reference.name] for z, frames in stack.items() if protocol.reference.name in frames}
    if len(bright) < 2:
        return min(bright or stack)
    return max(bright, key=lambda z: focus_score(read_corrected(run_path, bright[z]), profile.camera.noise))


def sites_of_wrong_light(run: RunFolder) -> dict[str, set[SiteKey]]:
    """Return, by light level, the finished sites whose image at it is proved to be of the wrong light, or dark."""
    finished = finished_sites(run.ledger.read(), run.read_protocol().frames_per_site)
    verdicts = light_verdicts(run.light_checks.read(), finished)
    found: dict[str, set[SiteKey]] = {level.name: set() for level in run.read_protocol().light_levels}
    for (well, site, t, level), verdict in verdicts.items():
        if verdict == "wrong":
            found[level].add((well, site, t))
    return found


def make_references(
    run: RunFolder, *, workers: int = -1, again: bool = False, dask: str | None = None
) -> Iterator[ReferenceRecord]:
    """Make masks of the finished sites that have none, and yield what became of each.

    A site whose bright image is proved to be of the wrong light, or dark, gets none: it would pass for an empty one.

    Sites are shared out to processes; each writes labels and table of a site before the site counts as done, so that a
    kill at any moment costs the sites under way and no more.

    Parameters
    ----------
    workers : int
        Processes; 1 for this one alone, -1 for as many as the machine has cores.
    again : bool
        Also where there are masks.
    dask : str, optional
        Share them out to a Dask cluster, a well at a time: the address of its scheduler, whose workers see the run
        under the same path; or `local` for a cluster of so many processes here.

    Raises
    ------
    ProblemsError
        If another process makes masks of this run, or no cluster is found.
    """
    with run.masks_lock():
        run.nuclei.folder(REFERENCE).mkdir(parents=True, exist_ok=True)
        run.reference_lines.cut_torn_line()
        reference = run.read_protocol().reference.name
        stacks = _finished_stacks(run)  # read before the proofs, which each finished site has
        done = ({} if again else run.references()).keys() | sites_of_wrong_light(run)[reference]
        pending = [
            stack
            for key, stack in stacks.items()
            if key not in done and any(reference in frames for frames in stack.values())
        ]
        shared = (
            _by_processes(run.path, pending, workers) if dask is None else _by_dask(run.path, pending, workers, dask)
        )
        for record in shared:
            run.reference_lines.append([record])
            yield record


def _by_processes(run_path: Path, stacks: Sequence[dict[int, Frames]], workers: int) -> Iterator[ReferenceRecord]:
    jobs = (delayed(_make_reference)(run_path, stack) for stack in stacks)
    yield from Parallel(n_jobs=min(workers, max(len(stacks), 1)), return_as="generator")(jobs)


def _by_dask(
    run_path: Path, stacks: Sequence[dict[int, Frames]], workers: int, address: str
) -> Iterator[ReferenceRecord]:
    """Share out by well: enough tasks for a cluster, and few enough for its scheduler; a lost worker costs the wells it had."""
    try:
        from distributed import Client, LocalCluster, as_completed
    except ImportError as error:
        raise ProblemsError([Problem('needs Dask: pip install "scotopic[dask]"', key="--dask")]) from error
    wells: dict[str, list[dict[int, Frames]]] = {}
    for stack in stacks:
        wells.setdefault(_well_of(stack), []).append(stack)
    with ExitStack() as opened:
        if address == "local":
            count = workers if workers > 0 else os.cpu_count()
            cluster = LocalCluster(n_workers=count, threads_per_worker=1, dashboard_address="127.0.0.1:0")
            address = opened.enter_context(cluster).scheduler_address
        try:
            client = opened.enter_context(Client(address, timeout=_CLUSTER_S, set_as_default=False))
        except (OSError, ValueError) as error:
            told = f"= {address!r}: no Dask scheduler answers there (for example tcp://192.168.1.2:8786, or local)"
            raise ProblemsError([Problem(told, key="--dask")]) from error
        path = run_path.absolute()
        futures = [client.submit(_of_well, path, each, pure=False, retries=_RETRIES) for each in wells.values()]
        for _, records in as_completed(futures, loop=client.loop, with_results=True):
            yield from records


def _well_of(stack: dict[int, Frames]) -> str:
    return next(iter(next(iter(stack.values())).values())).well


def _of_well(run_path: Path, stacks: Sequence[dict[int, Frames]]) -> list[ReferenceRecord]:
    return [_make_reference(run_path, stack) for stack in stacks]


def write_tables(run: RunFolder) -> str:
    """Write the nuclei of all sites with masks into one table, with uneven illumination taken out.

    Returns
    -------
    str
        Why the illumination could not be estimated; empty if it was.
    """
    protocol, profile = run.read_protocol(), run.read_profile()
    camera, measured = profile.camera, profile.light_source(protocol.channel).illumination
    tables = [run.nuclei.read(REFERENCE, *key) for key in sorted(run.references())]
    nuclei = pd.concat(tables, ignore_index=True)
    bright = nuclei["level"] == protocol.reference.name
    nuclei, uncorrected = evenly_lit(nuclei, {(camera.height_px, camera.width_px)}, trusted=bright, measured=measured)
    run.nuclei.write_all(REFERENCE, nuclei)
    return uncorrected


def origin_um(record: FrameRecord, camera: Camera) -> tuple[float, float]:
    """Return where the centre of the first pixel of a frame lies, x and y in micrometres."""
    half = (camera.width_px - 1) / 2 * camera.pixel_size_um, (camera.height_px - 1) / 2 * camera.pixel_size_um
    return record.xy_um[0] - half[0], record.xy_um[1] - half[1]


def placed(table: pd.DataFrame, record: FrameRecord, relative_dose: float) -> pd.DataFrame:
    """Return a table of nuclei with the place and the light of their frame as first columns, as all tables of a run have."""
    place: dict[str, Any] = {name: getattr(record, name) for name in ("well", "site", "t", "z", "level")}
    place["relative_dose"] = relative_dose
    return table.assign(**place)[[*place, *table.columns]]


def read_frame(run_path: Path, record: FrameRecord) -> NDArray[np.uint16]:
    """Return the image of a line of the ledger, shape (Y, X), in counts. For any process.

    Raises
    ------
    ProblemsError
        If it is damaged.
    """
    return read_pixels(_opened_run(run_path)[2], record)


def read_corrected(run_path: Path, record: FrameRecord) -> NDArray[np.uint16]:
    """Return the image of a line of the ledger as a camera of equal pixels would have given it. For any process.

    Raises
    ------
    ProblemsError
        If it is damaged.
    """
    _, profile, plate, maps = _opened_run(run_path)
    image = read_pixels(plate, record)
    return image if maps is None else maps.corrected(image, profile.camera.noise)


def _opened_run(run_path: Path) -> tuple[ImagingProtocol, MicroscopeProfile, PlateStore, CameraMaps | None]:
    """Open a run once in each process, and anew where another one has come into its place."""
    return _opened(run_path, (run_path / "job.json").stat().st_mtime)


@lru_cache(maxsize=8)
def _opened(
    run_path: Path, _changed: float
) -> tuple[ImagingProtocol, MicroscopeProfile, PlateStore, CameraMaps | None]:
    run = RunFolder(run_path)
    protocol, profile = run.read_protocol(), run.read_profile()
    return protocol, profile, run.plate(protocol, profile), run.camera_maps()


def _make_reference(run_path: Path, stack: dict[int, Frames]) -> ReferenceRecord:
    """Make, judge and write the masks of one site, in its sharpest plane, and measure them at every light level."""
    protocol, profile, plate, _ = _opened_run(run_path)
    settings, camera = protocol.nuclei, profile.camera
    frames = stack[_sharpest(run_path, stack)]
    bright = frames[protocol.reference.name]
    image = read_corrected(run_path, bright)
    labels = reference_segmentation(image, pixel_size_um=camera.pixel_size_um, settings=settings.segmentation)
    own = {level.name for level in protocol.levels_of(protocol.channel)}  # of another channel intensities are no DNA
    frames = {level: record for level, record in frames.items() if level in own}
    images = {
        level: image if record is bright else read_corrected(run_path, record) for level, record in frames.items()
    }
    origin = origin_um(bright, camera)
    tables = measure_levels(labels, images, pixel_size_um=camera.pixel_size_um, origin_um=origin, camera=camera)
    quality = judge(labels, image, tables[bright.level], settings.quality)
    plate.write_labels(bright.well, bright.site, REFERENCE, bright.t, bright.z, labels)
    table = _of_site(tables, frames, bright)
    RunFolder(run_path).nuclei.write(REFERENCE, *bright.site_key, table)
    return ReferenceRecord(
        well=bright.well,
        site=bright.site,
        t=bright.t,
        z=bright.z,
        attempt=bright.attempt,
        nuclei=int(labels.max()),
        reasons=quality.reasons,
        figures={name: value if np.isfinite(value) else None for name, value in quality.figures.items()},
    )


def _of_site(tables: dict[str, pd.DataFrame], frames: Frames, bright: FrameRecord) -> pd.DataFrame:
    """Return the tables of a site's light levels as one, each with its place and its light."""
    parts = []
    for level, table in tables.items():
        of_bright = tables[bright.level]
        dose = frames[level].relative_to(bright)
        parts.append(placed(table.assign(**{flag: of_bright[flag] for flag in _FLAGS}), frames[level], dose))
    return pd.concat(parts, ignore_index=True)
