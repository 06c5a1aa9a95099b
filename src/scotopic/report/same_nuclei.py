"""The same nuclei at two light levels: how well area and DNA of each agree, and who changes from G1 to G2.

Called by `rows`. Figures of populations hide errors that cancel; what is compared nucleus by nucleus cannot.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import brentq
from scipy.stats import median_abs_deviation

from scotopic.nuclei import SPLIT_DNA_CONTENT
from scotopic.report.intervals import Estimate, estimate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from scotopic.nuclei import CellCycle
    from scotopic.report.intervals import Kind

_LEAST_MATCHED = 3
"""Pairs that a correlation takes."""


def agreement(subsets: Sequence[pd.DataFrame]) -> dict[str, Estimate]:
    """Return correlation and bias of area and intensity of matched nuclei, and the spread of their DNA.

    Parameters
    ----------
    subsets : sequence of DataFrame
        Matched nuclei of all wells, then of all wells but one each: columns `area`, `their_area`, `intensity`,
        `their_intensity` (integrated, per dose).
    """
    figures: dict[str, list[float | None]] = defaultdict(list)
    for matched in subsets:
        for name in ("area", "intensity"):
            mine, theirs = matched[name].to_numpy(float), matched[f"their_{name}"].to_numpy(float)
            known = np.isfinite(mine) & np.isfinite(theirs)
            mine, theirs = mine[known], theirs[known]
            enough = mine.size >= _LEAST_MATCHED and np.ptp(mine) > 0 and np.ptp(theirs) > 0
            figures[f"{name}_correlation"].append(float(np.corrcoef(mine, theirs)[0, 1]) if enough else None)
            positive = theirs > 0
            ratio = mine[positive] / theirs[positive]
            middle = float(np.median(ratio)) if ratio.size else None
            figures[f"{name}_bias_percent"].append(None if middle is None else 100 * (middle - 1))
            if name == "intensity":
                figures["dna_spread_percent"].append(_spread_percent(ratio))
    return {name: estimate(values, _kind(name)) for name, values in figures.items()}


def _kind(figure: str) -> Kind:
    if "bias" in figure:
        return "deviation_percent"
    return "positive" if "spread" in figure else "difference"


def _spread_percent(ratio: NDArray[np.float64]) -> float | None:
    """Return the robust coefficient of variation of a ratio."""
    if ratio.size < _LEAST_MATCHED or (middle := float(np.median(ratio))) <= 0:
        return None
    return 100 * float(median_abs_deviation(ratio, scale="normal")) / middle


@dataclass(frozen=True)
class DnaScale:
    """What the same nuclei say of intensities at a low light, in terms of those at full light."""

    ratio: float
    """Median ratio of integrated intensities per dose."""
    extra: float
    """Spread of that ratio beyond the noise that is known of each nucleus, relative: contours that differ."""


def dna_scale(matched: pd.DataFrame) -> DnaScale | None:
    """Return the scale of a low light; nothing with too few matched nuclei.

    Parameters
    ----------
    matched : DataFrame
        Matched nuclei with `intensity`, `noise` and `their_intensity`, `their_noise`, all per dose.
    """
    some = matched[(matched["intensity"] > 0) & (matched["their_intensity"] > 0)]
    if len(some) < _LEAST_MATCHED:
        return None
    ratio = (some["intensity"] / some["their_intensity"]).to_numpy(float)
    middle = float(np.median(ratio))
    known = ((some["noise"] / some["intensity"]) ** 2 + (some["their_noise"] / some["their_intensity"]) ** 2).to_numpy(
        float
    )

    def too_wide(extra: float) -> float:
        """Return how much wider the ratios lie than their noise and `extra` say."""
        errors = (ratio / middle - 1) / np.sqrt(known + extra**2 + 1e-12)
        return float(median_abs_deviation(errors, scale="normal")) - 1

    most = 1.0
    return DnaScale(
        middle, 0.0 if too_wide(0) <= 0 else most if too_wide(most) >= 0 else float(brentq(too_wide, 0, most))
    )


def g2_percent(fit: CellCycle, nuclei: pd.DataFrame, scale: DnaScale | None = None) -> float | None:
    """Return the share of nuclei above a DNA content of 1.5, with the peaks of the fit at full light.

    One fit serves both light levels, so that what differs is the nuclei: peaks, their width and where S lies are the
    sample's, whatever the light. Only the shares are found again, with the noise of this light.

    Parameters
    ----------
    fit : CellCycle
        Fit at full light, of all wells.
    nuclei : DataFrame
        Nuclei of some wells, with `intensity` and `noise` per dose.
    scale : DnaScale, optional
        Of the low light; none for full light itself.
    """
    intensity, noise = nuclei["intensity"].to_numpy(float), nuclei["noise"].to_numpy(float)
    if scale is not None:
        intensity, noise = (
            intensity / scale.ratio,
            np.hypot(noise, scale.extra * np.maximum(intensity, 0)) / scale.ratio,
        )
    share = fit.g2_of_two_in(intensity, noise)
    return None if share is None else 100 * share


def changes(fit: CellCycle, matched: pd.DataFrame, scale: DnaScale) -> tuple[int, int]:
    """Return how many of the same nuclei change from G1 to G2, and from G2 to G1, when sorted at a DNA content of 1.5."""
    border = SPLIT_DNA_CONTENT * fit.g1_intensity
    mine: NDArray[np.bool_] = (matched["intensity"] / scale.ratio > border).to_numpy()
    theirs: NDArray[np.bool_] = (matched["their_intensity"] > border).to_numpy()
    return int((mine & ~theirs).sum()), int((~mine & theirs).sum())
