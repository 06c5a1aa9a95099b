"""How good a network is on the validation wells, and which cut-offs make its counts come out even there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scotopic.learning.instances import Candidates, Maps, find_candidates, nuclei_of
from scotopic.learning.model import CutOff
from scotopic.nuclei import matching, pooled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scotopic.learning.pairs import TrainingSite
    from scotopic.learning.prediction import MapMaker

_LEAST, _MOST = 0.05, 0.7
"""Cut-offs of the object probability are looked for in this range."""
_FOREGROUND = (0.25, 0.3, 0.35, 0.4, 0.45, 0.5)
"""Cut-offs of the foreground that are tried."""


@dataclass(frozen=True)
class LevelCheck:
    """What a network does at one light level of the validation wells."""

    level: str
    cut_off: CutOff
    f1: float
    """F1 at an IoU of 0.5 against the reference masks, pooled over sites."""
    mean_f1: float
    """Mean of F1 over IoU 0.5 to 0.95."""
    nuclei: int
    """Nuclei found."""
    reference_nuclei: int
    """Nuclei of the reference masks."""


def check_levels(make_maps: MapMaker, sites: Sequence[TrainingSite]) -> dict[str, LevelCheck]:
    """Choose cut-offs for each light level, and score the network with them.

    The cut-off of the object probability is the one with which the network counts as many nuclei as the reference masks
    have; that of the foreground the one with the best mean F1.
    """
    doses = {level: site.doses[level] for site in sites for level in site.doses}
    return {
        level: _check_level(make_maps, [site for site in sites if level in site.images], level)
        for level in sorted(doses, key=lambda level: -doses[level])
    }


def _check_level(make_maps: MapMaker, sites: Sequence[TrainingSite], level: str) -> LevelCheck:
    maps = [make_maps(site.images[level], site.doses[level]) for site in sites]
    candidates = [find_candidates(each, _LEAST) for each in maps]
    truth = [int(np.unique(site.labels).size - 1) for site in sites]
    probability = even_cut_off(np.concatenate([c.scores for c in candidates]), sum(truth))
    best = max(
        (_compare(maps, candidates, sites, probability, foreground) for foreground in _FOREGROUND), key=lambda c: c[1]
    )
    foreground, mean_f1, f1, found = best
    dose = float(np.mean([site.doses[level] for site in sites]))
    cut_off = CutOff(dose=dose, probability=probability, foreground=foreground)
    return LevelCheck(level, cut_off, f1, mean_f1, found, sum(truth))


def _compare(
    maps: list[Maps],
    candidates: list[Candidates],
    sites: Sequence[TrainingSite],
    probability: float,
    foreground: float,
) -> tuple[float, float, float, int]:
    each = pooled(
        matching(site.labels, nuclei_of(m, c, probability=probability, foreground=foreground)[0])
        for m, c, site in zip(maps, candidates, sites, strict=True)
    )
    return foreground, each.mean_f1, each.at(0.5).f1, each.at(0.5).n_pred


def even_cut_off(scores: np.ndarray, wanted: int) -> float:
    """Return the cut-off above which there are as many scores as wanted, within the range that makes sense."""
    falling = np.sort(scores)[::-1]
    if wanted >= falling.size:
        return _LEAST
    between = (float(falling[wanted - 1]) + float(falling[wanted])) / 2 if wanted else _MOST
    return float(np.clip(between, _LEAST, _MOST))
