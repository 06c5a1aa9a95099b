"""How good a network is on the validation wells, and which cut-offs make its counts come out even there."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np

from scotopic.learning.batches import ramp
from scotopic.learning.instances import best_score, find_candidates, nuclei_of, visible
from scotopic.learning.model import CutOff
from scotopic.nuclei import matching, pooled

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from scotopic.learning.pairs import TrainingSite
    from scotopic.learning.prediction import MapMaker

_PROBABILITY = tuple(np.arange(0.025, 0.71, 0.025).round(3).tolist())
"""Cut-offs of the object probability that are tried."""
_FOREGROUND = (0.2, 0.35, 0.5)
"""Cut-offs of the foreground that are tried."""
_MOST_TRIED = 8
"""Cut-offs of the object probability that are compared, of those with which counts are even: each takes a look at all sites."""
_MOST_PEAKS, _A_FEW = 4, 50
"""Objects that are looked at, for each of the reference masks and for each image: more are none that a cut-off could keep."""
_EMPTY_FIELDS, _DARK_FIELDS, _EMPTY_PX, _EMPTY_LIGHT = 24, 8, 512, 0.4
"""Fields without nuclei that a network is shown, how many of them without any light, their side, and the most light of the others in
parts of a bright nucleus."""
_ABOVE_NOISE, _FEW_IMAGES_LOST = 0.05, 10
"""How far above the best object in them one must be at least; but so high that more than this percentage of the images with nuclei
would count as empty it is never."""
_NEAR_THE_REFERENCE, _AS_EVEN = 0.05, 0.003
"""Counts that are further from what is wanted than the nearest by less than this share of it are as good as that. At the brightest
level the reference's count is wanted, which misses some nuclei itself; below it, that of the brightest level."""


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


def check_levels(
    make_maps: MapMaker, sites: Sequence[TrainingSite], *, look_at_emptiness: bool = True
) -> dict[str, LevelCheck]:
    """Choose cut-offs for each light level, and score the network with them.

    At the brightest level those with the best F1 (at an IoU of 0.5) are taken, of those with which the network counts about as
    many nuclei as the reference masks have. At the others, those with the best mean F1 of those with which it counts as
    many as at the brightest, or as nearly so as it can: a count must not change with the light.

    At the dimmest light noise makes objects. So that an empty field stays empty, the network is shown some at each level
    (`look_at_emptiness`), and what it finds there at best is less than what an image with nuclei must have.
    """
    doses = {level: site.doses[level] for site in sites for level in site.doses}
    checks: dict[str, LevelCheck] = {}
    brightest: LevelCheck | None = None
    for level in sorted(doses, key=lambda level: -doses[level]):
        there = [site for site in sites if level in site.images]
        checks[level] = _check_level(make_maps, there, level, brightest, look_at_emptiness)
        brightest = brightest or checks[level]
    return checks


def _check_level(
    make_maps: MapMaker,
    sites: Sequence[TrainingSite],
    level: str,
    brightest: LevelCheck | None,
    look_at_emptiness: bool,
) -> LevelCheck:
    maps = [make_maps(site.images[level], site.doses[level]) for site in sites]
    of_each = [int(np.unique(site.labels).size - 1) for site in sites]
    candidates = [
        find_candidates(m, _PROBABILITY[0], _MOST_PEAKS * n + _A_FEW) for m, n in zip(maps, of_each, strict=True)
    ]
    there = sum(of_each)
    wanted = round(there * brightest.nuclei / max(brightest.reference_nuclei, 1)) if brightest else there
    dose = float(np.mean([site.doses[level] for site in sites]))
    presence = 0.0
    if look_at_emptiness:
        with_nuclei = [best_score(m) for m, n in zip(maps, of_each, strict=True) if n]
        presence = _presence(_best_without_nuclei(make_maps, dose), with_nuclei)

    def compare(probability: float, foreground: float) -> LevelCheck:
        cut_off = CutOff(dose=dose, probability=probability, foreground=foreground, presence=presence)
        each = pooled(
            matching(site.labels, nuclei_of(m, c, **cut_off.model_dump(exclude={"dose"}))[0])
            for m, c, site in zip(maps, candidates, sites, strict=True)
        )
        half = each.at(0.5)
        return LevelCheck(level, cut_off, half.f1, each.mean_f1, half.n_pred, there)

    counts = {
        (probability, foreground): int((found >= probability).sum())
        for foreground in _FOREGROUND
        for found in [
            np.concatenate([c.scores[visible(m, c, foreground)] for m, c in zip(maps, candidates, strict=True)])
        ]
        for probability in _PROBABILITY
    }
    if brightest is None:
        about = even_pairs(counts, wanted, _NEAR_THE_REFERENCE)
        return max((compare(*pair) for pair in _some(about)), key=lambda check: (check.f1, check.mean_f1))
    return max((compare(*pair) for pair in _some(even_pairs(counts, wanted))), key=lambda check: check.mean_f1)


def even_pairs(
    counts: Mapping[tuple[float, float], int], wanted: int, as_even: float = _AS_EVEN
) -> list[tuple[float, float]]:
    """Return the cut-offs with which as many nuclei are counted as wanted, or as nearly so as they can be."""
    off = {pair: abs(count - wanted) for pair, count in counts.items()}
    return [pair for pair, each in off.items() if each <= min(off.values()) + as_even * wanted]


def _some(pairs: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return a few of many, of each cut-off of the foreground the most different."""
    some = []
    for _, group in groupby(pairs, key=lambda pair: pair[1]):
        same = list(group)
        some += same[:: -(-len(same) // _MOST_TRIED)]
    return some


def _presence(without_nuclei: float, with_nuclei: Sequence[float]) -> float:
    """Return the least probability of the best object of an image with nuclei: more than noise and stray light reach.

    Half-way between the best object of fields without nuclei and the worst of images with nuclei, where these lie apart: the next
    field may have one a little better, the next image one a little worse.

    Parameters
    ----------
    without_nuclei : float
        Probability of the best object of all fields without nuclei.
    with_nuclei : sequence of float
        Probability of the best object of each image with nuclei.
    """
    presence = min(without_nuclei + _ABOVE_NOISE, 0.95)
    if not with_nuclei:
        return presence
    worst = float(np.percentile(with_nuclei, _FEW_IMAGES_LOST, method="lower"))
    return min(max(presence, (without_nuclei + worst) / 2), worst)


def _best_without_nuclei(make_maps: MapMaker, dose: float) -> float:
    """Return the probability of the best object in fields of darkness, background, slopes and steps of light."""
    rng = np.random.default_rng(0)
    shape, full = (_EMPTY_PX, _EMPTY_PX), np.float32(make_maps.peak_e * dose)
    best = 0.0
    for number in range(_EMPTY_FIELDS):
        even, stray = np.float32(_EMPTY_LIGHT * (number >= _DARK_FIELDS)) * rng.random(2, np.float32)
        counts = make_maps.camera.expose(full * (even + stray * ramp(shape, rng)), rng)
        best = max(best, best_score(make_maps(counts, dose)))
    return best
