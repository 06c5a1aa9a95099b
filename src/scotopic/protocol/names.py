from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return "did you mean 'x'?" for the known name nearest to `name`, or nothing if none is near."""
    folded = {k.casefold(): k for k in known}
    near = get_close_matches(name.casefold(), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]!r}?" if near else ""


def rounded(value: float) -> str:
    """Return a number with three significant digits, written out: 3000, 0.125."""
    return np.format_float_positional(value, precision=3, unique=False, fractional=False, trim="-")
