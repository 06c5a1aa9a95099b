"""How good a network is on the validation wells, and which cut-offs make its counts come out even there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scotopic.learning.instances import find_candidates, nuclei_of, visible
from scotopic.learning.model import CutOff
from scotopic.nuclei import matching, pooled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scotopic.learning.pairs import TrainingSite
    from scotopic.learning.prediction import MapMaker

_PROBABILITY = tuple(np.arange(0.025, 0.71, 0.025).round(3).tolist())
"""Cut-offs of the object probability that are tried."""
_FOREGROUND = (0.2, 0.35, 0.5)
"""Cut-offs of the foreground that are tried."""
_MOST_TRIED = 3
"""Cut-offs of the object probability that are compared, of those with which counts are even: each takes a look at all sites."""
_AS_EVEN = 0.01
"""Counts that are further from the reference's than the nearest by less than this share of it are as good as that."""


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

    For each cut-off of the foreground, those of the object probability are found with which the network counts as many
    nuclei as the reference masks have, or as nearly so as it can. Of all these pairs the one with the best mean F1 is taken.
    """
    doses = {level: site.doses[level] for site in sites for level in site.doses}
    return {
        level: _check_level(make_maps, [site for site in sites if level in site.images], level)
        for level in sorted(doses, key=lambda level: -doses[level])
    }


def _check_level(make_maps: MapMaker, sites: Sequence[TrainingSite], level: str) -> LevelCheck:
    maps = [make_maps(site.images[level], site.doses[level]) for site in sites]
    candidates = [find_candidates(each, _PROBABILITY[0]) for each in maps]
    wanted = sum(int(np.unique(site.labels).size - 1) for site in sites)
    dose = float(np.mean([site.doses[level] for site in sites]))

    def compare(probability: float, foreground: float) -> LevelCheck:
        each = pooled(
            matching(site.labels, nuclei_of(m, c, probability=probability, foreground=foreground)[0])
            for m, c, site in zip(maps, candidates, sites, strict=True)
        )
        half, cut_off = each.at(0.5), CutOff(dose=dose, probability=probability, foreground=foreground)
        return LevelCheck(level, cut_off, half.f1, each.mean_f1, half.n_pred, wanted)

    def tried(foreground: float) -> list[float]:
        found = [c.scores[visible(m, c, foreground)] for m, c in zip(maps, candidates, strict=True)]
        even = even_cut_offs(np.concatenate(found), wanted)
        return even[:: -(-len(even) // _MOST_TRIED)]

    pairs = ((probability, foreground) for foreground in _FOREGROUND for probability in tried(foreground))
    return max((compare(*pair) for pair in pairs), key=lambda check: check.mean_f1)


def even_cut_offs(scores: np.ndarray, wanted: int) -> list[float]:
    """Return the cut-offs above which there are as many scores as wanted, or as nearly so as there can be."""
    off = np.abs(np.array([int((scores >= cut_off).sum()) for cut_off in _PROBABILITY]) - wanted)
    return [p for p, each in zip(_PROBABILITY, off, strict=True) if each <= off.min() + _AS_EVEN * wanted]
