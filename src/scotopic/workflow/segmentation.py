"""Nuclei of images and of runs, found by standard image analysis and measured."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.protocol import MicroscopeProfile, NucleiSettings, Problem, ProblemsError, read_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from scotopic.nuclei import SiteQuality
    from scotopic.protocol.profile import Camera
    from scotopic.store import RunFolder

_IMAGES = (".png", ".tif", ".tiff")


def segment_run(run_path: Path, say: Callable[[str], None], *, workers: int = -1, again: bool = False) -> int:
    """Make the reference masks of a run's finished sites, into the run, and measure them at every light level.

    Sites that have masks are left as they are; a run that still grows may be segmented again and again.

    Parameters
    ----------
    workers : int
        Processes; -1 for as many as the machine has cores.
    again : bool
        Make masks anew where there are some.

    Returns
    -------
    int
        Number of nuclei of all finished sites.

    Raises
    ------
    ProblemsError
        If there is no run, or nothing in it is finished; or another process makes masks of it.
    """
    from scotopic.reference import make_references, write_tables

    run_folder = opened_run(run_path)
    for record in make_references(run_folder, workers=workers, again=again):
        say(_told(record.name, record.nuclei, record.reasons))
    records = list(run_folder.references().values())
    if not records:
        raise ProblemsError([Problem("has no finished site yet", str(run_path))])
    if uncorrected := write_tables(run_folder):
        say(uncorrected)
    unfit = sum(not record.usable for record in records)
    nuclei = sum(record.nuclei for record in records)
    say(
        f"reference masks: {len(records)} sites, {nuclei:,} nuclei" + (f"; {unfit} not fit to learn from" * bool(unfit))
    )
    return nuclei


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
        raise ProblemsError([Problem("holds no run: there is no job.json in it", str(run_path))])
    return run


def segment(
    sources: Sequence[Path],
    out: Path,
    say: Callable[[str], None],
    *,
    profile_path: Path | None = None,
    workers: int = -1,
) -> int:
    """Find and measure the nuclei of images, or of a run's reference images, into a folder of their own.

    Writes `labels/<name>.png` (16 bit), `overlays/<name>.png`, one table of all nuclei, `nuclei.csv` and
    `nuclei.parquet`, and `quality.csv`: which images are good enough to learn from, why not, and what was measured.

    Parameters
    ----------
    sources : sequence of Path
        Images, folders of images, and run folders.
    profile_path : Path, optional
        Microscope profile: pixel size and camera, for micrometres and photo-electrons. A run has its own.
    workers : int
        Processes; -1 for as many as the machine has cores.

    Returns
    -------
    int
        Number of nuclei.

    Raises
    ------
    ProblemsError
        If there is no image, or one cannot be read.
    """
    import pandas as pd
    from joblib import Parallel, delayed

    profile = read_model(profile_path, MicroscopeProfile) if profile_path else None
    fields = [field for source in sources for field in fields_of(source, profile)]
    names = [field.name for field in fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProblemsError([Problem(f"name more than one image: {', '.join(twice[:5])}", str(sources[0]))])
    for folder in ("labels", "overlays"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    tables, verdicts, shapes = [], [], set()
    found = Parallel(n_jobs=min(workers, len(fields)), return_as="generator")(
        delayed(_segment_field)(field, out) for field in fields
    )
    for field, (table, quality, shape) in zip(fields, found, strict=True):
        table.insert(0, "image", field.name)
        tables.append(table)
        shapes.add(shape)
        reasons = "; ".join(quality.reasons)
        verdicts.append({"image": field.name, "usable": quality.usable, "reasons": reasons, **quality.figures})
        say(_told(field.name, len(table), quality.reasons))
    count = write_nuclei(out, tables, shapes, say)
    pd.DataFrame(verdicts).to_csv(out / "quality.csv", index=False)
    if profile is None and any(field.camera is None for field in fields):
        say("no --microscope: areas are in pixels, intensities in counts")
    return count


def write_nuclei(
    out: Path, tables: Sequence[pd.DataFrame], shapes: set[tuple[int, ...]], say: Callable[[str], None]
) -> int:
    """Write the nuclei of all images into one table, with uneven illumination taken out, and return their number."""
    import pandas as pd

    from scotopic.nuclei import evenly_lit

    nuclei, uncorrected = evenly_lit(pd.concat(tables, ignore_index=True), shapes)
    if uncorrected:
        say(uncorrected)
    nuclei.to_csv(out / "nuclei.csv", index=False)
    nuclei.to_parquet(out / "nuclei.parquet", index=False)
    return len(nuclei)


def _told(name: str, nuclei: int, reasons: Sequence[str]) -> str:
    return f"{name}: {nuclei} nuclei" + (f"; not fit to learn from: {'; '.join(reasons)}" if reasons else "")


@dataclass(frozen=True)
class _Field:
    """One image to be segmented, by any process."""

    name: str
    read: Callable[[], NDArray[Any]]
    camera: Camera | None
    settings: NucleiSettings
    origin_um: tuple[float, float] = (0.0, 0.0)
    channel: str | None = None
    """Channel, where it is known."""


def _segment_field(field: _Field, out: Path) -> tuple[pd.DataFrame, SiteQuality, tuple[int, ...]]:
    """Write labels and overlay of an image; return the table of its nuclei, the verdict on it, and its shape."""
    import imageio.v3 as iio

    from scotopic.nuclei import judge, measure, reference_segmentation
    from scotopic.pictures import overlay

    image = field.read()
    pixel_size_um = field.camera.pixel_size_um if field.camera else 1.0
    labels = reference_segmentation(image, pixel_size_um=pixel_size_um, settings=field.settings.segmentation)
    iio.imwrite(out / "labels" / f"{field.name}.png", labels.astype(np.uint16))
    iio.imwrite(out / "overlays" / f"{field.name}.png", overlay(image, labels))
    table = measure(labels, image, pixel_size_um=pixel_size_um, origin_um=field.origin_um, camera=field.camera)
    return table, judge(labels, image, table, field.settings.quality), image.shape


def fields_of(source: Path, profile: MicroscopeProfile | None, light: str | None = None) -> list[_Field]:
    """Return the images that a path stands for; of a run those of a light level, of the reference level without it.

    Raises
    ------
    ProblemsError
        If there are none.
    """
    if (source / "job.json").exists():
        return _fields_of_run(source, light)
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in _IMAGES) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        allowed = f"an image ({', '.join(_IMAGES)}), a folder of them, or a run"
        raise ProblemsError([Problem(f"holds nothing to segment; allowed: {allowed}", str(source))])
    camera = profile.camera if profile else None
    return [_Field(file.name.split(".")[0], partial(_read_image, file), camera, NucleiSettings()) for file in files]


def _fields_of_run(source: Path, light: str | None) -> list[_Field]:
    from scotopic.reference import finished_frames, origin_um, read_frame
    from scotopic.store import RunFolder

    run_folder = RunFolder(source)
    protocol, profile = run_folder.read_protocol(), run_folder.read_profile()
    reference = light or protocol.reference.name
    fields = []
    for (well, site, t), frames in finished_frames(run_folder).items():
        if reference in frames:
            name = f"{well}_{site}" + (f"_t{t}" if protocol.time_points > 1 else "")
            read = partial(read_frame, source, frames[reference])
            origin = origin_um(frames[reference], profile.camera)
            fields.append(_Field(name, read, profile.camera, protocol.nuclei, origin, protocol.channel))
    if not fields:
        raise ProblemsError([Problem("has no finished site yet", str(source))])
    return fields


def _read_image(path: Path) -> NDArray[Any]:
    """Read one grey plane.

    Raises
    ------
    ProblemsError
        If it cannot be read, or is more than one plane.
    """
    import imageio.v3 as iio

    try:
        image = np.asarray(iio.imread(path))
    except (OSError, ValueError) as error:
        raise ProblemsError([Problem(f"cannot be read as an image: {error}", str(path))]) from error
    if image.ndim != 2:
        raise ProblemsError([Problem(f"has the shape {image.shape}; allowed: one grey plane", str(path))])
    return image
