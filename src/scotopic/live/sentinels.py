"""Whether a network still sees what is there: live masks against reference masks of the same moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scotopic.protocol import Sentinels
    from scotopic.store import LiveRecord

_SURE = 3.3
"""Standard errors beyond a tolerance that chance reaches less than once in 2,000 times (normal distribution, one side)."""
_LEAST_NUCLEI = 30
"""Fewer nuclei, of live and reference masks together, say nothing."""


def drift(compared: Sequence[LiveRecord], settings: Sentinels) -> str:
    """Return what the last sentinels say against the network, in words; empty if it is within its tolerances.

    Misses and false finds are counted over the sentinels of a window. Their number scatters like that of a Poisson process,
    or more, if the sentinels differ more than that among themselves. A tolerance is missed where chance does not explain it.

    Parameters
    ----------
    compared : sequence of LiveRecord
        Comparisons (`state: compared`) of one level, in the order in which they were made.
    settings : Sentinels
        Window and tolerances.
    """
    last = compared[-settings.window :]
    live, reference, matched = (
        np.array([getattr(each, name) or 0 for each in last]) for name in ("nuclei", "reference_nuclei", "matched")
    )
    everything = int((live + reference).sum())
    if everything < _LEAST_NUCLEI:
        return ""
    errors = live + reference - 2 * matched
    spread = _SURE * np.sqrt(_overdispersion(errors, live + reference) * max(errors.sum(), 1))
    f1 = 1 - errors.sum() / everything
    told = f"the last {len(last)} sentinels, {int(reference.sum())} nuclei in the reference masks"
    if f1 + spread / everything < settings.least_f1:
        return f"F1 {f1:.2f} against reference masks, less than {settings.least_f1:g} ({told})"
    counted = max(int(reference.sum()), 1)
    deviation = 100 * (live.sum() - reference.sum()) / counted
    if abs(deviation) - 100 * spread / counted > settings.most_count_percent:
        return (
            f"counts {deviation:+.0f} % off the reference masks', more than {settings.most_count_percent:g} % ({told})"
        )
    return ""


def _overdispersion(errors: np.ndarray, sizes: np.ndarray) -> float:
    """Return the variance of the errors relative to that of a Poisson process; at least 1."""
    expected = errors.sum() * sizes / max(sizes.sum(), 1)
    if len(errors) < 2 or not errors.any():
        return 1.0
    return float(max(1.0, ((errors - expected) ** 2 / np.maximum(expected, 1e-9)).sum() / (len(errors) - 1)))
