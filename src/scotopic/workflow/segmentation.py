"""Nuclei of images and of runs, found by standard image analysis and measured."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from scotopic.nuclei.images import SUFFIXES, image_files, image_name, read_plane
from scotopic.protocol import MicroscopeProfile, NucleiSettings, Problem, ProblemsError, read_model
from scotopic.workflow.nuclei_folder import NucleiFolder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from scotopic.nuclei import SiteQuality
    from scotopic.protocol.profile import Camera
    from scotopic.store import ReferenceRecord, RunFolder

logger = logging.getLogger(__name__)
LOOK_S = 5.0
"""Between two looks at a run that is being acquired."""


def segment_run(
    run_path: Path,
    say: Callable[[str], None] = print,
    *,
    workers: int = -1,
    again: bool = False,
    dask: str | None = None,
) -> int:
    """Make the reference masks of a run's finished sites, into the run, and measure them at every light level.

    Sites that have masks are left as they are; a run that still grows may be segmented again and again.

    Parameters
    ----------
    workers : int
        Processes; -1 for as many as the machine has cores.
    again : bool
        Make masks anew where there are some.
    dask : str, optional
        Address of a Dask scheduler to share the wells out to, or `local`.

    Returns
    -------
    int
        Number of nuclei of all finished sites.

    Raises
    ------
    ProblemsError
        If there is no run, or nothing in it is finished; or another process makes masks of it.
    """
    from scotopic.reference import make_references, sites_of_wrong_light, write_tables

    run_folder = opened_run(run_path)
    for record in make_references(run_folder, workers=workers, again=again, dask=dask):
        say(_told(record.name, record.nuclei, record))
    records = list(run_folder.references().values())
    dark = sites_of_wrong_light(run_folder)[run_folder.read_protocol().reference.name]
    if dark:
        say(f"{len(dark)} sites get no masks: their bright images are dark, or of the wrong light")
    if not records:
        raise ProblemsError(
            [Problem("has no finished site" + " of the right light" * bool(dark) + " yet", str(run_path))]
        )
    if uncorrected := write_tables(run_folder):
        say(uncorrected)
    unfit = sum(not record.usable for record in records)
    nuclei = sum(record.nuclei for record in records)
    say(
        f"reference masks: {len(records)} sites, {nuclei:,} nuclei" + (f"; {unfit} not fit to learn from" * bool(unfit))
    )
    return nuclei


def follow_run(run_path: Path, *, workers: int = -1) -> None:
    """Make the reference masks of the sites that come, and those of the last ones too; one core stays with the microscope.

    Raises
    ------
    ProblemsError
        If there is no run.
    """
    from scotopic.reference import make_references

    run = opened_run(run_path)
    most = max(1, (os.cpu_count() or 1) - 1)
    growing = True
    while growing:
        growing = run.is_locked()
        try:
            for _ in make_references(run, workers=most if workers == -1 else workers):
                pass
        except ProblemsError:  # another process makes masks: its are as good, and what it leaves is made later
            logger.debug("no masks were made in this turn", exc_info=True)
        if growing:
            time.sleep(LOOK_S)


def no_run(path: Path) -> str:
    """Return why there is no run in a folder, in words."""
    from scotopic.store.files import is_remote

    if not is_remote(path) and not path.exists():
        return "is not there"
    if path.is_file():
        return "is a file, and no run (for images --out must be given)"
    return "holds no run: there is no job.json in it"


def opened_run(run_path: Path) -> RunFolder:
    """Return the run in a folder.

    Raises
    ------
    ProblemsError
        If there is none.
    """
    from scotopic.store import RunFolder

    run = RunFolder(run_path)
    if not run.exists:
        raise ProblemsError([Problem(no_run(run_path), str(run_path))])
    return run


@dataclass(frozen=True)
class Segmented:
    """What became of images."""

    nuclei: int
    """Number of nuclei."""
    left_out: tuple[Problem, ...] = ()
    """Images that could not be segmented, and why."""


def segment(
    sources: Sequence[Path],
    out: Path,
    say: Callable[[str], None] = print,
    *,
    profile_path: Path | None = None,
    workers: int = -1,
    overwrite: bool = False,
) -> Segmented:
    """Find and measure the nuclei of images, or of a run's reference images, into a folder of their own.

    Writes `labels/<name>.png` (16 bit; `.tif` of 32 bit for more than 65,535 nuclei), `overlays/<name>.png`, one table of
    all nuclei, `nuclei.csv` and `nuclei.parquet`, their number in each image, `images.csv`, and `quality.csv`: which images are good enough to learn from, why not,
    and what was measured. What an earlier `segment` has written there is extended. An image that cannot be read is left
    out, and the rest is done.

    Parameters
    ----------
    sources : sequence of Path
        Images, folders of images, and run folders.
    profile_path : Path, optional
        Microscope profile: pixel size and camera, for micrometres and photo-electrons. A run has its own.
    workers : int
        Processes; -1 for as many as the machine has cores.
    overwrite : bool
        Replace labels and tables in `out`, whoever made them.

    Raises
    ------
    ProblemsError
        If there is no image, or none that can be read; or `out` holds labels or tables that no `segment` wrote.
    """
    from joblib import Parallel, delayed

    profile = read_model(profile_path, MicroscopeProfile) if profile_path else None
    fields = [field for source in sources for field in fields_of(source, profile)]
    refuse_same_names(fields, sources[0])
    folder = NucleiFolder(out, {"method": "reference", **units_of(fields)}, overwrite=overwrite)
    folder.open()
    tables, verdicts, images = [], [], {}
    left_out: list[Problem] = []
    found = Parallel(n_jobs=min(workers, len(fields)), return_as="generator")(
        delayed(_segment_field)(field, folder) for field in fields
    )
    for field, result in zip(fields, found, strict=True):
        if isinstance(result, ProblemsError):
            left_out += result.problems
            continue
        table, quality, shape = result
        tables.append(placed(table, field))
        images[field.name] = shape
        reasons = "; ".join(quality.reasons)
        verdicts.append({"image": field.name, "usable": quality.usable, "reasons": reasons, **quality.figures})
        say(_told(field.name, len(table), quality))
    if not tables:
        folder.leave()
        raise ProblemsError(left_out)
    count = folder.write_tables(tables, verdicts, images, say)
    if profile is None and any(field.camera is None for field in fields):
        say("no --microscope: areas are in pixels, intensities in counts")
    return Segmented(count, tuple(left_out))


def refuse_same_names(fields: Sequence[Field], source: Path) -> None:
    """Refuse images whose labels would have the same name.

    Raises
    ------
    ProblemsError
        If there are any.
    """
    names = [field.name for field in fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProblemsError([Problem(f"name more than one image: {', '.join(twice[:5])}", str(source))])


def units_of(fields: Sequence[Field]) -> dict[str, str]:
    """Return the units that the tables of images have, which all of a folder must share.

    Raises
    ------
    ProblemsError
        If some have a camera and some have none.
    """
    known = {field.camera is not None for field in fields}
    if len(known) > 1:
        raise ProblemsError(
            [Problem("must be given where images of a run and others are segmented together", key="--microscope")]
        )
    return {"units": "micrometres, photo-electrons" if known == {True} else "pixels, counts"}


def placed(table: pd.DataFrame, field: Field) -> pd.DataFrame:
    """Return a table with the name of its image, and its place in the run, as first columns."""
    place = {"image": field.name, **field.place}
    labels = {f"label_{name}" if name in {*place, *table} else name: value for name, value in field.labels.items()}
    return table.assign(**place, **labels)[[*place, *labels, *table.columns]]


def _told(name: str, nuclei: int, quality: SiteQuality | ReferenceRecord) -> str:
    missed = int(quality.figures.get("unlabelled_objects") or 0)
    return (
        f"{name}: {nuclei} nuclei"
        + (
            f"; {missed} more things as bright as nuclei have no label"
            if missed > 1
            else "; one more thing as bright as nuclei has no label"
            if missed
            else ""
        )
        + (f"; not fit to learn from: {'; '.join(quality.reasons)}" if quality.reasons else "")
    )


@dataclass(frozen=True)
class Field:
    """One image to be segmented, by any process."""

    name: str
    read: Callable[[], NDArray[Any]]
    camera: Camera | None
    settings: NucleiSettings
    origin_um: tuple[float, float] = (0.0, 0.0)
    channel: str | None = None
    """Channel, where it is known."""
    place: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Where it is from, for the columns of its table: of an image of a run well, site, t, z and level."""
    labels: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Labels of its well."""


def _segment_field(
    image_field: Field, folder: NucleiFolder
) -> tuple[pd.DataFrame, SiteQuality, tuple[int, ...]] | ProblemsError:
    """Write labels and overlay of an image; return the table of its nuclei, the verdict, and its shape; or why not."""
    from scotopic.nuclei import judge, measure, reference_segmentation, unlabelled
    from scotopic.pictures import overlay

    try:
        image = image_field.read()
    except ProblemsError as error:
        return error
    camera = image_field.camera
    size = camera.pixel_size_um if camera else None
    labels = reference_segmentation(image, pixel_size_um=size, settings=image_field.settings.segmentation)
    folder.write_image(image_field.name, labels, overlay(image, labels, unlabelled(image, labels)))
    table = measure(labels, image, pixel_size_um=size, origin_um=image_field.origin_um, camera=camera)
    return table, judge(labels, image, table, image_field.settings.quality), image.shape


def fields_of(source: Path, profile: MicroscopeProfile | None, light: str | None = None) -> list[Field]:
    """Return the images that a path stands for; of a run those of a light level, of the reference level without it.

    Raises
    ------
    ProblemsError
        If there are none.
    """
    if (source / "job.json").exists():
        return _fields_of_run(source, light)
    files = image_files(source) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        allowed = f"an image ({', '.join(SUFFIXES)}), a folder of them, or a run"
        raise ProblemsError([Problem(f"holds nothing to segment; allowed: {allowed}", str(source))])
    camera = profile.camera if profile else None
    return [Field(image_name(file), partial(read_plane, file), camera, NucleiSettings()) for file in files]


def _fields_of_run(source: Path, light: str | None) -> list[Field]:
    from scotopic.reference import finished_frames, origin_um, read_corrected
    from scotopic.store import RunFolder, site_name

    run_folder = RunFolder(source)
    protocol, profile = run_folder.read_protocol(), run_folder.read_profile()
    name = light or protocol.reference.name
    channels = {level.name: protocol.channel_of(level) for level in protocol.light_levels}
    if name not in channels:
        raise ProblemsError([Problem(f"has no light level {name!r}; there are: {', '.join(channels)}", str(source))])
    fields = []
    for (well, site, t), frames in finished_frames(run_folder).items():
        if (record := frames.get(name)) is not None:
            place = {"well": well, "site": site, "t": t, "z": record.z, "level": record.level}
            fields.append(
                Field(
                    site_name(well, site, t) if protocol.time_points > 1 else f"{well}_{site}",
                    partial(read_corrected, source, record),
                    profile.camera,
                    protocol.nuclei,
                    origin_um(record, profile.camera),
                    channels[record.level],
                    place,
                    protocol.well_labels(well),
                )
            )
    if not fields:
        raise ProblemsError([Problem("has no finished site yet", str(source))])
    return fields
