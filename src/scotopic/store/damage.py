"""Which files of a run are damaged, of those that a report rests on; `verify` compares the images with the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import contradicts_its_name, read_bytes
from scotopic.store.seals import damaged, has_seal, is_intact

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from scotopic.store.plate import PlateStore
    from scotopic.store.run_folder import RunFolder

_SEALED = (
    "status/*.json",
    "models/latest.json",
    "models/checkpoint.safetensors",
    "nuclei/**/*.parquet",
    "report.json",
    "report.html",
)
_METADATA = ("zarr.json", "*/zarr.json", "labels/*/zarr.json", "labels/*/*/zarr.json")
"""Of a field, and its masks."""


def damaged_files(run: RunFolder) -> Iterator[Problem]:
    """Yield what is damaged in a run apart from its images.

    Lines of the ledger and the like, status, tables, models, report, the copies of what it was begun with, masks, and the
    metadata of the plate. Files of earlier versions have no checksum: of those only what cannot be read is found.

    Raises
    ------
    ProblemsError
        If the run cannot be opened.
    """
    for lines in (run.ledger, run.visits, run.light_checks, run.live, run.reference_lines):
        try:
            lines.read()
        except ProblemsError as error:
            yield from error.problems
    for name in run.copies:
        try:
            run.copy(name)
        except ProblemsError as error:
            yield from error.problems
    all_have_seals = has_seal(read_bytes(run.path / "job.json"))
    for path in sorted(each for pattern in _SEALED for each in run.path.glob(pattern)):
        data = read_bytes(path)
        if not is_intact(data) or (all_have_seals and not has_seal(data)):
            yield damaged(path)
    for path in sorted(run.models_path.glob("*.safetensors")):
        if contradicts_its_name(path, read_bytes(path)):
            yield damaged(path)
    yield from run.nuclei.damaged_csv()
    try:
        plate = run.plate(run.read_protocol(), run.read_profile())
    except ProblemsError as error:
        yield from error.problems
        return
    yield from _damaged_in(plate)


def _damaged_in(plate: PlateStore) -> Iterator[Problem]:
    """Yield which metadata and which masks of a plate are damaged."""
    folders: list[tuple[Path, tuple[str, ...]]] = [(plate.path, ("zarr.json", "*/zarr.json", "*/*/zarr.json"))]
    for well, sites in plate.fields.items():
        folders += [(plate.field_path(well, int(site)), _METADATA) for site in sites]
    for folder, patterns in folders:
        for path in sorted(each for pattern in patterns for each in folder.glob(pattern)):
            if not is_intact(path.read_bytes()):
                yield damaged(path)
    for well, sites in plate.fields.items():
        for site in sites:
            yield from plate.damaged_labels(well, int(site))
