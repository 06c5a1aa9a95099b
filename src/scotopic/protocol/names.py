from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationInfo


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the known name nearest to `name`, or nothing if none is near."""
    folded = {k.casefold(): k for k in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]!r}?" if near else ""


def rounded(value: float) -> str:
    """Return a number with three significant digits, written out: 3000, 0.125."""
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")


def beside_the_file(path: str, info: ValidationInfo) -> str:
    """Take a path that a YAML file names relative to that file's folder; for `AfterValidator`."""
    return str(Path(info.context["folder"]) / path) if info.context else path
