"""Profiles changed where they stand: comments, order and everything else in them stay."""

from __future__ import annotations

import io
import math
import os
from typing import TYPE_CHECKING, Any

from scotopic.protocol import MicroscopeProfile, read_model

if TYPE_CHECKING:
    from pathlib import Path


def edit_profile(
    path: Path,
    values: dict[tuple[str, ...], Any],
    what: str,
    channel: str | None,
    date: str,
    numbers: dict[str, float],
    spread: dict[str, float],
    folder: Path,
) -> dict[str, Any]:
    """Change values of a profile where they stand, with a comment that says when they were measured; return those before.

    All other lines, comments included, stay. The new text is read as a profile before it takes the place of the old one.
    """
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes, yaml.width = True, 10_000
    yaml.indent(mapping=2, sequence=4, offset=2)
    text = path.read_text(encoding="utf-8")
    root = yaml.load(text)
    before: dict[str, Any] = {}
    for key, value in values.items():
        *outer, last = key
        inner = root
        for part in outer:
            inner = inner.setdefault(part, {})
        old = inner.get(last)
        if not isinstance(value, list) and old is not None:
            before[".".join(key)] = float(old)
        inner[last] = _flow(value) if isinstance(value, list) else value
        if not isinstance(value, list):
            told = f"measured {date[:10]}" + (f", before: {old:g}" if old is not None else "")
            _add_comment(inner, last, told)
    entry = {
        "date": date,
        "values": _plain(numbers),
        "spread": _plain(spread),
        "before": _plain({name: value for name, value in before.items() if isinstance(value, int | float)}),
        "record": folder.relative_to(path.parent).as_posix(),
    }
    calibrations = root.setdefault("calibrations", {})
    if channel is None:
        calibrations[what] = entry
    else:
        calibrations.setdefault(what, {})[channel] = entry
    stream = io.StringIO()
    yaml.dump(root, stream)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(stream.getvalue(), encoding="utf-8")
    try:
        read_model(partial, MicroscopeProfile)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return before


def _add_comment(mapping: Any, key: str, told: str) -> None:
    """Say behind a value how it came; what its user had written there, and the lines below, stay."""
    there = mapping.ca.items.get(key)
    text = there[2].value if there and there[2] else ""
    first, *below = text.split("\n", 1)
    own = first.lstrip("# ").split("; measured ")[0]
    own = "" if own.startswith("measured ") else own
    mapping.yaml_add_eol_comment(f"{own}; {told}" if own else told, key)
    if below and below[0]:
        mapping.ca.items[key][2].value += "\n" + below[0]


def _flow(points: list[dict[str, float]]) -> Any:
    """Return a list of points, one a line."""
    from ruamel.yaml.comments import CommentedMap, CommentedSeq

    rows = CommentedSeq()
    for point in points:
        row = CommentedMap(point)
        row.fa.set_flow_style()
        rows.append(row)
    return rows


def _plain(numbers: dict[str, float]) -> dict[str, float]:
    return {name: float(f"{value:.6g}") for name, value in numbers.items() if not math.isnan(value)}
