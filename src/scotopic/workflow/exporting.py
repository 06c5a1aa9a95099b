"""Masks and tables of a run for other programs: label images, LoadData for CellProfiler, GeoJSON for QuPath, tables for ngio."""

from __future__ import annotations

import csv
import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile

from scotopic.protocol import Problem, ProblemsError
from scotopic.reference import REFERENCE, finished_frames, read_frame
from scotopic.store import LIVE, live_labels, site_name
from scotopic.workflow.segmentation import opened_run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from scotopic.store import FrameRecord, PlateStore, RunFolder

_IDS = uuid.UUID("6ed955c6-1a94-4f0a-8f3f-2c0b6d0f7c1a")
"""Names of nuclei in GeoJSON follow from this, so that the same export twice is the same file."""


@dataclass(frozen=True)
class LabelledImage:
    """The nuclei of one image: masks and measurements."""

    record: FrameRecord
    labels: NDArray[np.uint32]
    """Shape (Y, X); 0 is background."""
    labels_name: str
    """Of the plate's labels."""
    table: pd.DataFrame
    """A row a nucleus, with its `label`."""
    number: int
    """Of the light level in the protocol."""

    @property
    def name(self) -> str:
        """Name of files: site and light level."""
        return f"{site_name(*self.record.site_key)}_{self.record.level}"


def export_run(
    run_path: Path, out: Path, say: Callable[[str], None] = print, *, source: str = REFERENCE, images: bool = False
) -> int:
    """Write the nuclei of a run into a folder, for programs that do not know scotopic.

    `nuclei.csv` and `nuclei.parquet`, one row a nucleus and light level; `images.csv`, one row an image with its number of nuclei, 0
    included; `masks/` as TIFF of 16 or 32 bit;
    `cellprofiler.csv` for CellProfiler's module LoadData, objects `Nuclei` and, with images, the image `DNA`; `qupath/` as GeoJSON, which
    QuPath opens by dragging it onto the image; with `images`, `images/` as TIFF.

    Parameters
    ----------
    source : str
        Who found the nuclei: `reference`, `live`, or the hash of a model that was validated.

    Returns
    -------
    int
        Number of images.

    Raises
    ------
    ProblemsError
        If there is no run, no such nuclei, or the folder holds something.
    """
    import pandas as pd

    run = opened_run(run_path)
    protocol = run.read_protocol()
    stained = {level.name for level in protocol.levels_of(protocol.channel)}
    if out.exists() and any(out.iterdir()):
        raise ProblemsError([Problem("is not empty; choose another folder", str(out))])
    found = _labelled(run, source)
    first = next(found, None)
    if first is None:
        raise _nothing(run, source)
    for folder in ("masks", "qupath", *(["images"] if images else [])):
        (out / folder).mkdir(parents=True, exist_ok=True)
    rows, tables, counts = [], [], []
    for image in (first, *found):
        dtype = np.uint16 if image.labels.max() <= 65535 else np.uint32
        tifffile.imwrite(out / "masks" / f"{image.name}.tif", image.labels.astype(dtype), compression="zlib")
        if images:
            tifffile.imwrite(out / "images" / f"{image.name}.tif", read_frame(run.path, image.record))
        geometry = json.dumps({"type": "FeatureCollection", "features": list(_features(image))})
        (out / "qupath" / f"{image.name}.geojson").write_text(geometry, encoding="utf-8")
        if image.record.level in stained:
            rows.append(_load_data(out, image, images=images))
        tables.append(image.table)
        counts.append({**_place(image.record), "nuclei": int(np.unique(image.labels[image.labels > 0]).size)})
    pd.DataFrame(counts).to_csv(out / "images.csv", index=False)
    if rows:  # a level of another channel shows no DNA, which is what its columns are called
        with (out / "cellprofiler.csv").open("w", encoding="utf-8", newline="") as file:
            lines = csv.DictWriter(file, list(rows[0]))
            lines.writeheader()
            lines.writerows(rows)
    table = pd.concat(tables, ignore_index=True)
    table.to_csv(out / "nuclei.csv", index=False)
    table.to_parquet(out / "nuclei.parquet", index=False)
    say(f"exported {len(tables):,} images with {len(table):,} nuclei of {source}: {out}")
    return len(tables)


def tables_into_plate(run_path: Path, say: Callable[[str], None] = print, *, source: str = REFERENCE) -> int:
    """Write the tables of a run into its plate, beside the masks that they measure, as ngio and Fractal read them.

    A feature table a light level in each field: `reference_0` for the first one of the protocol. They are replaced if
    they are there already.

    Returns
    -------
    int
        Number of tables.

    Raises
    ------
    ProblemsError
        If there is no run or no such nuclei, or ngio is not installed.
    """
    try:
        from ngio import open_ome_zarr_container
        from ngio.tables import FeatureTable
    except ImportError as error:
        raise ProblemsError([Problem('needs ngio: pip install "scotopic[ngio]"', key="--into-plate")]) from error
    run = opened_run(run_path)
    plate = run.plate(run.read_protocol(), run.read_profile())
    count = 0
    for image in _labelled(run, source):
        field = open_ome_zarr_container(plate.field_path(image.record.well, image.record.site))
        table = image.table.set_index("label")
        field.add_table(
            f"{source}_{image.number}" + (f"_t{image.record.t}" if image.record.t else ""),
            FeatureTable(table, reference_label=image.labels_name),
            backend="parquet",
            overwrite=True,
        )
        count += 1
    if not count:
        raise _nothing(run, source)
    say(f"{count:,} tables of {source} are in {plate.path}")
    return count


def _nothing(run: RunFolder, source: str) -> ProblemsError:
    folder = run.nuclei.folder("")
    there = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    told = (
        f"has no nuclei of {source!r}; there are those of {', '.join(there) or 'nobody: `scotopic segment` makes some'}"
    )
    return ProblemsError([Problem(told, str(run.path))])


def _labelled(run: RunFolder, source: str) -> Iterator[LabelledImage]:
    """Yield the images whose nuclei a source has found."""
    protocol = run.read_protocol()
    plate = run.plate(protocol, run.read_profile())
    if not run.nuclei.folder(source).is_dir():
        return
    seen_live = (
        {(r.well, r.site, r.t, r.level) for r in run.live.read() if r.state == "segmented"} if source == LIVE else set()
    )
    for key, frames in sorted(finished_frames(run).items()):
        if not (run.nuclei.folder(source) / f"{site_name(*key)}.parquet").exists():
            continue
        table = run.nuclei.read(source, *key)
        for number, level in enumerate(protocol.light_levels):
            name = _labels_name(source, number)
            record = frames.get(level.name)
            # That nothing was found is a result too: an image without nuclei has masks, if not a chunk of pixels.
            was_seen = source != LIVE or (*key, level.name) in seen_live
            if record is not None and was_seen and plate.has_labels(record.well, record.site, name):
                yield _labelled_image(plate, record, name, table[table["level"] == level.name], number)


def _labelled_image(
    plate: PlateStore, record: FrameRecord, name: str, table: pd.DataFrame, number: int
) -> LabelledImage:
    labels = plate.read_labels(record.well, record.site, name, record.t, record.z)
    return LabelledImage(record, labels, name, table.reset_index(drop=True), number)


def _place(record: FrameRecord) -> dict[str, Any]:
    return {"well": record.well, "site": record.site, "t": record.t, "level": record.level}


def _labels_name(source: str, number: int) -> str:
    """Return the name of a source's masks at a light level, by its number in the protocol."""
    if source == REFERENCE:
        return REFERENCE
    return live_labels(number) if source == LIVE else f"network_{source}_{number}"


def _load_data(out: Path, image: LabelledImage, *, images: bool) -> dict[str, Any]:
    """Return a line of CellProfiler's LoadData."""
    record = image.record
    line: dict[str, Any] = {
        "Metadata_Well": record.well,
        "Metadata_Site": record.site,
        "Metadata_T": record.t,
        "Metadata_Level": record.level,
        "Image_ObjectsFileName_Nuclei": f"{image.name}.tif",
        "Image_ObjectsPathName_Nuclei": str((out / "masks").absolute()),
    }
    if images:
        line |= {"Image_FileName_DNA": f"{image.name}.tif", "Image_PathName_DNA": str((out / "images").absolute())}
    return line


_NO_MEASUREMENT = ("well", "site", "t", "z", "level", "label")


def _features(image: LabelledImage) -> Iterator[dict[str, Any]]:
    """Yield the nuclei as detections of QuPath: outlines in pixels from the image's corner, and measurements."""
    from skimage.measure import find_contours, regionprops

    rows = image.table.set_index("label")
    for region in regionprops(image.labels.astype(np.int64)):
        contours = find_contours(np.pad(region.image, 1).astype(np.uint8), 0.5)
        outline = max(contours, key=len)  # the outer one; holes are not drawn
        corner = np.array(region.bbox[:2]) - 0.5  # of pixels: one of padding, and half from its centre to its corner
        ring = np.round((outline + corner)[:, ::-1], 2).tolist()
        measured = rows.loc[region.label] if region.label in rows.index else None
        values = {} if measured is None else measured.drop(labels=list(_NO_MEASUREMENT), errors="ignore").to_dict()
        yield {
            "type": "Feature",
            "id": str(uuid.uuid5(_IDS, f"{image.name} {region.label}")),
            "geometry": {"type": "Polygon", "coordinates": [ring]},
            "properties": {
                "objectType": "detection",
                "name": str(region.label),
                "classification": {"name": "Nucleus", "color": [0, 160, 255]},
                "measurements": {name: float(value) for name, value in values.items() if np.isfinite(value)},
            },
        }
