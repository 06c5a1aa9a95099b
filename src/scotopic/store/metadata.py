"""Metadata of a plate's groups, as other programs read them, each with a seal of its own but for the list of masks."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from yaozarrs import v05

from scotopic.protocol import ProblemsError
from scotopic.store.seals import BLANK, KEY, damaged, read_json, sealed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def ome_part(path: Path, part: str) -> dict[str, Any]:
    """Return a part of a group's OME metadata.

    Raises
    ------
    ProblemsError
        If the file is damaged.
    """
    try:
        return dict(read_json(path)["attributes"]["ome"][part])
    except (KeyError, TypeError) as error:
        raise ProblemsError([damaged(path)]) from error


def translated(text: str, corner_um: list[float]) -> str:
    """Add the stage position of the first pixel, z, y and x, to the translations of a field's metadata."""
    data = json.loads(text)
    multiscales = data.get("attributes", {}).get("ome", {}).get("multiscales", [])
    for dataset in multiscales[0]["datasets"] if multiscales else ():
        translation = dataset["coordinateTransformations"][1]["translation"]
        for axis in (-1, -2, -3):
            translation[axis] += corner_um[axis]
    return with_seal(data)  # indented it would take ten times as long


def with_seal(metadata: dict[str, Any], indent: int | None = None) -> str:
    """Return metadata of Zarr with a seal among their attributes, where other programs expect what they do not know."""
    attributes = metadata.get("attributes", {}) | {"scotopic": {KEY: BLANK}}
    return sealed(json.dumps(metadata | {"attributes": attributes}, indent=indent).encode()).decode()


def labels_group(names: Iterable[str]) -> str:
    """Return the metadata of the group of all masks of a field."""
    ome = v05.LabelsGroup(labels=list(names)).model_dump(mode="json", exclude_none=True, by_alias=True)
    return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}, indent=1)


def listed_labels(path: Path) -> list[str]:
    """Return the label groups that a list names; none if it is not there, or cannot be read."""
    try:
        return list(map(str, json.loads(path.read_bytes())["attributes"]["ome"]["labels"]))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return []


def group_text(model: v05.Plate | v05.Well) -> str:
    """Return the metadata of a plate or a well."""
    ome = json.loads(model.model_dump_json(exclude_none=True, by_alias=True))
    if "plate" in ome:
        ome["plate"]["version"] = ome["version"]  # other readers look for it here
    attributes = {"ome": ome}
    return with_seal({"zarr_format": 3, "node_type": "group", "attributes": attributes}, indent=1)
