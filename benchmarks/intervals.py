"""Whether confidence intervals over wells cover the truth as often as they promise.

usage: intervals.py [--plates 2000] [--wells 6]

Plates are simulated with wells that differ (cell number, share of G2, size, brightness) and with errors at low light that differ
between wells; each figure of the report is worked out with its interval and held against the value that a plate of endless
wells would give. Beside the jackknife of the report a percentile bootstrap over wells. Limit: 93 to 97 % of 95 % intervals.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np
from machine import machine

from scotopic.report.intervals import Kind, estimate

if TYPE_CHECKING:
    from collections.abc import Callable

MISSED, FALSE, LARGER, DIMMER, G2 = 0.03, 0.01, 1.01, 0.98, 0.36
NUCLEI = 550
RESAMPLED = 500


def well(rng: np.random.Generator, nuclei: float = NUCLEI) -> dict[str, np.ndarray]:
    """Return sums of a well: what figures are made of. Areas and intensities are kept whole."""
    n = int(rng.poisson(nuclei * np.exp(0.2 * rng.standard_normal())))
    missed = rng.binomial(n, rng.beta(60 * MISSED, 60 * (1 - MISSED)))
    false = rng.poisson(n * FALSE * rng.gamma(4, 1 / 4))
    area = 180 * np.exp(0.03 * rng.standard_normal() + 0.35 * rng.standard_normal(n))
    kept = np.arange(n) >= missed
    dark_area = area[kept] * LARGER * np.exp(0.01 * rng.standard_normal() + 0.1 * rng.standard_normal(kept.sum()))
    intensity = 4000 * np.exp(0.05 * rng.standard_normal() + 0.3 * rng.standard_normal(n))
    dark = intensity[kept] * DIMMER * np.exp(0.01 * rng.standard_normal()) + 300 * rng.standard_normal(kept.sum())
    is_g2 = rng.random(n) < np.clip(G2 + 0.04 * rng.standard_normal(), 0, 1)
    seen_g2 = is_g2[kept] ^ (rng.random(kept.sum()) < 0.05)
    return {
        "n": np.array([n, n - missed + false, missed, false]),
        "area": area, "dark_area": dark_area, "intensity": intensity, "dark": dark, "g2": is_g2, "seen_g2": seen_g2,
    }  # fmt: skip


def joined(wells: list[dict[str, np.ndarray]], name: str) -> np.ndarray:
    return np.concatenate([each[name] for each in wells])


def total(wells: list[dict[str, np.ndarray]]) -> np.ndarray:
    return np.sum([each["n"] for each in wells], 0)


def f1(wells: list[dict[str, np.ndarray]]) -> float:
    n, found, missed, _ = total(wells)
    return float(2 * (n - missed) / (n + found))


FIGURES: dict[str, tuple[Kind, Callable[[list[dict[str, np.ndarray]]], float]]] = {
    "count, %": ("deviation_percent", lambda w: 100 * (total(w)[1] / total(w)[0] - 1)),
    "missed, %": ("percent", lambda w: 100 * total(w)[2] / total(w)[0]),
    "false, %": ("percent", lambda w: 100 * total(w)[3] / total(w)[1]),
    "F1": ("share", f1),
    "G2, %": ("percent", lambda w: 100 * float(joined(w, "seen_g2").mean())),
    "G2, points": ("difference", lambda w: 100 * float(joined(w, "seen_g2").mean() - joined(w, "g2").mean())),
    "median area": ("positive", lambda w: float(np.median(joined(w, "dark_area")))),
    "median area, %": (
        "deviation_percent",
        lambda w: 100 * float(np.median(joined(w, "dark_area")) / np.median(joined(w, "area")) - 1),
    ),
    "intensity, %": (
        "deviation_percent",
        lambda w: 100 * float(joined(w, "dark").mean() / joined(w, "intensity").mean() - 1),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plates", type=int, default=2000)
    parser.add_argument("--wells", type=int, default=6)
    asked = parser.parse_args()
    print(f"# {machine()}; {asked.plates} plates of {asked.wells} wells")
    rng = np.random.default_rng(1)
    endless = [well(rng) for _ in range(4000)]
    truth = {name: figure(endless) for name, (_, figure) in FIGURES.items()}
    covered: dict[str, list[tuple[bool, bool]]] = defaultdict(list)
    for _ in range(asked.plates):
        wells = [well(rng) for _ in range(asked.wells)]
        subsets = [wells, *([w for w in wells if w is not left_out] for left_out in wells)]
        for name, (kind, figure) in FIGURES.items():
            low, high = estimate([figure(each) for each in subsets], kind).interval() or (np.nan, np.nan)
            covered[name].append((low <= truth[name] <= high, False))
    # The bootstrap of the figures that are quick to work out, on plates of their own.
    quick = ["count, %", "missed, %", "F1"]
    for number in range(asked.plates):
        wells = [well(rng, NUCLEI) for _ in range(asked.wells)]
        drawn = rng.integers(asked.wells, size=(RESAMPLED, asked.wells))
        for name in quick:
            values = [FIGURES[name][1]([wells[i] for i in row]) for row in drawn]
            low, high = np.percentile(values, [2.5, 97.5])
            covered[name][number] = covered[name][number][0], bool(low <= truth[name] <= high)
    for name, each in covered.items():
        jackknife, bootstrap = np.mean(each, axis=0)
        beside = f", percentile bootstrap {bootstrap:.1%}" if name in quick else ""
        print(f"{name:<15} truth {truth[name]:8.3f}: 95 % intervals cover {jackknife:.1%} (limit 93 to 97 %){beside}")


if __name__ == "__main__":
    main()
