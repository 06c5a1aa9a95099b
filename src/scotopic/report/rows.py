"""The rows of the report: figures of each source at each light level, how they compare, and how sure they are."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from scotopic.nuclei import SPLIT_DNA_CONTENT, NoFitError, evenly_lit, fit_cell_cycle, matching, pooled
from scotopic.report.intervals import Estimate, estimate
from scotopic.report.schema import Against, Level

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scotopic.nuclei import Comparison
    from scotopic.protocol.profile import Camera
    from scotopic.reference import SiteKey
    from scotopic.report.findings import Findings, HeldOutSites, Labels, Row
    from scotopic.report.schema import Partner, Source

_LEAST_MATCHED = 3
"""Pairs that a correlation takes."""


@dataclass(frozen=True)
class Summary:
    """Figures of a population of nuclei."""

    count: int
    g2_percent: float | None
    why: str
    """Why there is no split into G1 and G2; empty where there is one."""
    median_area_um2: float | None
    mean_intensity: float | None
    """Photo-electrons per dose."""


@dataclass
class Population:
    """The nuclei that a source has at one light level, by site."""

    labels: Labels
    nuclei: pd.DataFrame
    """Table of all of them, evenly lit, with a column `well`; of the truth its own, without those at the border."""
    is_truth: bool = False
    channel: str = ""
    """Channel of its images."""
    is_stained: bool = True
    """Whether they show the stain of the DNA; else their intensities say nothing of nuclei."""
    _split: dict[tuple[str, ...], tuple[float | None, str]] = field(default_factory=dict)
    """Share of G2 in these wells, or why there is none."""

    @property
    def whole(self) -> pd.DataFrame:
        """Nuclei that do not touch the border."""
        return self.nuclei if self.is_truth else self.nuclei[~self.nuclei["touches_border"].astype(bool)]

    def summary(self, wells: Sequence[str]) -> Summary:
        """Return the figures of some wells, whose share of G2 has been worked out."""
        here = self.whole[self.whole["well"].isin(wells)] if len(self.whole) else self.whole
        share, why = self._split[tuple(wells)]
        intensity = None
        if not self.is_truth and self.is_stained and len(here):
            intensity = float((here["mean_intensity_e"] / here["relative_dose"]).mean())
        return Summary(
            sum(int(np.unique(labels).size - 1) for key, labels in self.labels.items() if key[0] in wells)
            if self.is_truth
            else int(self.nuclei["well"].isin(wells).sum()),
            None if share is None else 100 * share,
            why,
            float(here["area_um2"].median()) if len(here) else None,
            intensity,
        )

    def dna(self, wells: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return integrated intensities of some wells, and the noise of each, photo-electrons."""
        nuclei = self.whole[self.whole["well"].isin(wells)]
        return nuclei["integrated_intensity_e"].to_numpy(), nuclei["integrated_noise_e"].to_numpy()


class Comparisons:
    """All populations of a validation, and how each compares with its partners, with and without each of the wells."""

    def __init__(self, sites: HeldOutSites, findings: Findings) -> None:
        self._sites, self._camera = sites, sites.profile.camera
        self._reference = sites.protocol.reference.name
        self.wells = sites.wells
        self.subsets = [self.wells, *(tuple(w for w in self.wells if w != left_out) for left_out in self.wells)]
        """All wells, and all but one each."""
        self._sources: dict[Row, Population] = {}
        self._truth = _truth(findings) if findings.truth else None
        self._matchings: dict[tuple[Row, Partner], dict[SiteKey, Comparison]] = {}
        protocol = sites.protocol
        self._channels = {level.name: protocol.channel_of(level) for level in protocol.light_levels}
        names = [level.name for channel in protocol.channels for level in protocol.levels_of(channel)]
        sources: tuple[Source, ...] = ("network", "reference", "classical")
        self.add(
            findings, [(source, name) for source in sources for name in names if findings.tables.get((source, name))]
        )

    @property
    def rows(self) -> list[Row]:
        """Sources and light levels that there are figures of."""
        return list(self._sources)

    def add(self, findings: Findings, rows: Sequence[Row]) -> None:
        """Take in what sources have found at some light levels, and split it into G1 and G2."""
        if not rows:
            return
        bright = findings.tables.get(("reference", self._reference)) or findings.tables[rows[0]]
        light = pd.concat(bright, ignore_index=True)
        stain = self._sites.protocol.channel
        for row in rows:
            nuclei, channel = pd.concat(findings.tables[row], ignore_index=True), self._channels.get(row[1], stain)
            if channel == stain:
                measured = self._sites.profile.light_source(stain).illumination
                nuclei = _evenly_lit(nuclei, light, self._camera, measured)
            self._sources[row] = Population(findings.labels[row], nuclei, channel=channel, is_stained=channel == stain)
        two = [wells for wells in dict.fromkeys(self.paper_wells().values()) if wells not in self.subsets]
        jobs = [(row, wells) for row in rows for wells in self.subsets + (two if row[0] == "network" else [])]
        stained = [(row, wells) for row, wells in jobs if self._sources[row].is_stained]
        shares = Parallel(n_jobs=-1)(delayed(_g2_share)(*self._sources[row].dna(wells)) for row, wells in stained)
        split = dict(zip(stained, shares, strict=True))
        for row, wells in jobs:
            why = f"{self._sources[row].channel} does not show DNA"
            self._sources[row]._split[wells] = split.get((row, wells), (None, why))  # noqa: SLF001 - its maker
        if self._truth is not None:
            for wells in self.subsets:
                self._truth._split[wells] = _true_share(self._truth, wells)  # noqa: SLF001

    def paper_wells(self) -> dict[str, tuple[str, ...]]:
        """Return the two wells of each light level, in turn, as the white paper took them; nothing with fewer than two."""
        wells, protocol = self.wells, self._sites.protocol
        levels = [level for level in protocol.light_levels if protocol.channel_of(level) == protocol.channel]
        if len(wells) < 2:
            return {}
        return {
            level.name: tuple(dict.fromkeys(wells[(2 * number + i) % len(wells)] for i in range(2)))
            for number, level in enumerate(levels)
        }

    def summary(self, row: Row, wells: Sequence[str] | None = None) -> Summary:
        """Return the figures of a row, of all wells or of some whose split was worked out."""
        return self._sources[row].summary(self.wells if wells is None else wells)

    def level(self, row: Row, *, relative_dose: float, sample_dose: float, measured: bool = True) -> Level:
        """Return a row of the report."""
        summaries = [self.summary(row, wells) for wells in self.subsets]
        g2 = estimate([each.g2_percent for each in summaries], "percent")
        g1 = estimate([None if each.g2_percent is None else 100 - each.g2_percent for each in summaries], "percent")
        area = estimate([each.median_area_um2 for each in summaries], "number")
        intensity = estimate([each.mean_intensity for each in summaries], "number")
        own = {"g1_percent": g1, "g2_percent": g2, "median_area_um2": area, "mean_intensity": intensity}
        return Level(
            name=row[1],
            channel=self._sources[row].channel,
            source=row[0],
            measured=measured,
            relative_dose=relative_dose,
            sample_dose=sample_dose,
            nuclei_count=summaries[0].count,
            cell_cycle=summaries[0].why,
            **{name: each.value for name, each in own.items()},
            confidence_95={name: each.interval() for name, each in own.items()},
            against={partner: self._against(row, partner) for partner in self._partners(row)},
        )

    def errors(self, row: Row) -> dict[str, Estimate]:
        """Return how the figures of a row of the network are off those at full light."""
        return self._deviations(row, "network_100")

    def _partners(self, row: Row) -> list[Partner]:
        partners: list[Partner] = []
        if ("network", self._reference) in self._sources and row != ("network", self._reference):
            partners.append("network_100")
        if ("reference", self._reference) in self._sources and row != ("reference", self._reference):
            partners.append("reference")
        return partners + (["truth"] if self._truth is not None else [])

    def _partner(self, partner: Partner) -> Population:
        if partner == "truth" and self._truth is not None:
            return self._truth
        return self._sources["network" if partner == "network_100" else "reference", self._reference]

    def _compared(self, row: Row, partner: Partner) -> dict[SiteKey, Comparison]:
        """Return the matchings of all sites that both have, made once."""
        if (row, partner) not in self._matchings:
            theirs = self._partner(partner).labels
            self._matchings[row, partner] = {
                key: matching(theirs[key], labels) for key, labels in self._sources[row].labels.items() if key in theirs
            }
        return self._matchings[row, partner]

    def _deviations(self, row: Row, partner: Partner) -> dict[str, Estimate]:
        mine = [self._sources[row].summary(wells) for wells in self.subsets]
        theirs = [self._partner(partner).summary(wells) for wells in self.subsets]
        both = self._counts(row, partner)
        pairs = list(zip(mine, theirs, strict=True))
        return {
            "count_deviation_percent": estimate([_percent(b.n_pred, b.n_true) for b in both], "deviation_percent"),
            "g2_deviation_points": estimate([_difference(a.g2_percent, b.g2_percent) for a, b in pairs], "difference"),
            "median_area_deviation_percent": estimate(
                [_percent(a.median_area_um2, b.median_area_um2) for a, b in pairs], "deviation_percent"
            ),
            "mean_intensity_deviation_percent": estimate(
                [_percent(a.mean_intensity, b.mean_intensity) for a, b in pairs], "deviation_percent"
            ),
        }

    def _counts(self, row: Row, partner: Partner) -> list[Any]:
        compared = self._compared(row, partner)
        return [pooled(each for key, each in compared.items() if key[0] in wells).at(0.5) for wells in self.subsets]

    def _against(self, row: Row, partner: Partner) -> Against:
        compared = self._compared(row, partner)
        by_subset = [pooled(each for key, each in compared.items() if key[0] in wells) for wells in self.subsets]
        half = [each.at(0.5) for each in by_subset]
        figures = self._deviations(row, partner) | {
            "f1_at_0.5": estimate([each.f1 for each in half], "share", half[0].n_true + half[0].n_pred),
            "f1_at_0.7": estimate([each.at(0.7).f1 for each in by_subset], "share", half[0].n_true + half[0].n_pred),
            "mean_f1": estimate([each.mean_f1 for each in by_subset], "share"),
            "miss_percent": estimate([100 * (1 - each.recall) for each in half], "percent", half[0].n_true),
            "false_percent": estimate([100 * (1 - each.precision) for each in half], "percent", half[0].n_pred),
        }
        matched = self._matched(row, partner)
        figures |= _agreement([matched[matched["well"].isin(wells)] for wells in self.subsets])
        return Against.model_validate(
            {name: each.figure() for name, each in figures.items()}
            | {"splits": by_subset[0].splits, "merges": by_subset[0].merges, "matched": len(matched)}
        )

    def _matched(self, row: Row, partner: Partner) -> pd.DataFrame:
        """Return areas and intensities of the nuclei that both have, a line each, with their well."""
        pairs = [
            each.pairs.assign(well=key[0], site=key[1], t=key[2]) for key, each in self._compared(row, partner).items()
        ]
        columns = ["well", "area", "their_area", "intensity", "their_intensity"]
        if not pairs:
            return pd.DataFrame(columns=columns)
        place = ["well", "site", "t"]
        mine, theirs = _measures(self._sources[row]), _measures(self._partner(partner))
        both = (
            pd.concat(pairs, ignore_index=True)
            .merge(mine, left_on=[*place, "pred"], right_on=[*place, "label"])
            .merge(theirs.rename(columns={"area": "their_area", "intensity": "their_intensity"}),
                   left_on=[*place, "true"], right_on=[*place, "label"], suffixes=("", "_theirs"))
        )  # fmt: skip
        return both[columns]


def rows_of(sites: HeldOutSites, comparisons: Comparisons) -> list[Level]:
    """Return one row a source and light level that was measured, by falling light."""
    levels = []
    for source, name in comparisons.rows:
        records = [(key, site[name]) for key, site in sites.frames.items() if name in site]
        levels.append(
            comparisons.level(
                (source, name),
                relative_dose=float(np.mean([sites.relative_dose(key, record) for key, record in records])),
                sample_dose=float(np.mean([record.sample_dose_ms for _, record in records])),
            )
        )
    return levels


def _evenly_lit(
    nuclei: pd.DataFrame, light: pd.DataFrame, camera: Camera, measured: Sequence[float] | None
) -> pd.DataFrame:
    """Return nuclei with intensities corrected by the illumination that was measured, or that the nuclei in `light` show."""
    both = pd.concat([nuclei.assign(own=True), light.assign(own=False)], ignore_index=True)
    even, _ = evenly_lit(both, {(camera.height_px, camera.width_px)}, trusted=~both["own"], measured=measured)
    return even[even["own"]]


def _g2_share(intensity: NDArray[Any], noise: NDArray[Any]) -> tuple[float | None, str]:
    """Return the share of nuclei in G2, or why there is none."""
    try:
        return fit_cell_cycle(intensity, noise).g2_of_two, ""
    except NoFitError as error:
        return None, str(error)


def _truth(findings: Findings) -> Population:
    return Population(findings.truth, pd.concat(findings.true_nuclei, ignore_index=True), is_truth=True)


def _true_share(truth: Population, wells: Sequence[str]) -> tuple[float | None, str]:
    nuclei = truth.nuclei
    if not {"dna_content", "phase"} <= set(nuclei):
        return None, ""
    # Dim nuclei (dead, out of focus) have no phase that an image could show.
    dna = nuclei["dna_content"][(nuclei["phase"] != "dim") & nuclei["well"].isin(wells)]
    return (float((dna > SPLIT_DNA_CONTENT).mean()) if len(dna) else None), ""


def _measures(population: Population) -> pd.DataFrame:
    """Return label, area and intensity per dose of each whole nucleus, with its place; of the truth the DNA content."""
    nuclei = population.whole
    if population.is_truth:
        intensity: Any = nuclei["dna_content"] if "dna_content" in nuclei else np.nan
    elif not population.is_stained:
        intensity = np.nan
    else:
        intensity = nuclei["integrated_intensity_e"] / nuclei["relative_dose"]
    return nuclei[["well", "site", "t", "label"]].assign(area=nuclei["area_um2"], intensity=intensity)


def _agreement(subsets: Sequence[pd.DataFrame]) -> dict[str, Estimate]:
    """Return correlation and bias of area and intensity of matched nuclei."""
    figures: dict[str, list[float | None]] = defaultdict(list)
    for matched in subsets:
        for name in ("area", "intensity"):
            mine, theirs = matched[name].to_numpy(float), matched[f"their_{name}"].to_numpy(float)
            known = np.isfinite(mine) & np.isfinite(theirs)
            mine, theirs = mine[known], theirs[known]
            enough = mine.size >= _LEAST_MATCHED and np.ptp(mine) > 0 and np.ptp(theirs) > 0
            figures[f"{name}_correlation"].append(float(np.corrcoef(mine, theirs)[0, 1]) if enough else None)
            positive = theirs > 0
            ratio = float(np.median(mine[positive] / theirs[positive])) if positive.any() else None
            figures[f"{name}_bias_percent"].append(None if ratio is None else 100 * (ratio - 1))
    return {name: estimate(values, "difference") for name, values in figures.items()}


def _percent(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else 100 * (value / of - 1)


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
