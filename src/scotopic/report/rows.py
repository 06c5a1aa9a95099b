"""The rows of the report: figures of each source at each light level, how they compare, and how sure they are."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from scotopic.nuclei import SPLIT_DNA_CONTENT, NoFitError, evenly_lit, fit_cell_cycle, matching, photon_limit, pooled
from scotopic.report.intervals import Estimate, estimate
from scotopic.report.same_nuclei import agreement, changes, dna_scale, g2_percent
from scotopic.report.schema import Against, Level

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from numpy.typing import NDArray

    from scotopic.nuclei import CellCycle, Comparison
    from scotopic.protocol.profile import Camera
    from scotopic.reference import SiteKey
    from scotopic.report.findings import Findings, HeldOutSites, Labels, Row
    from scotopic.report.schema import Judged, Partner, Source

_JUDGED: dict[Judged, str] = {
    "count_percent": "count_deviation_percent",
    "missed_percent": "miss_percent",
    "false_percent": "false_percent",
    "g2_points": "g2_deviation_points",
    "area_percent": "median_area_deviation_percent",
    "intensity_percent": "mean_intensity_deviation_percent",
    "dna_percent": "intensity_bias_percent",
    "dna_spread_percent": "dna_spread_percent",
}
"""Tolerance -> figure of `Against`."""
_LIMIT_AT = (0.5, 0.7)
"""Overlaps (IoU) that the photon limit is stated at."""


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
    fit: CellCycle | None = None
    """Fit of the cell cycle to the nuclei of all wells, if there is one."""
    why: str = ""
    """Why there is none."""
    _shares: dict[tuple[str, ...], float | None] = field(default_factory=dict)

    def at(self, sites: Collection[SiteKey]) -> Population:
        """Return the nuclei at some sites, sorted by the same fit."""
        labels = {key: each for key, each in self.labels.items() if key in sites}
        if len(labels) == len(self.labels) or not len(self.nuclei):
            return self
        there = pd.MultiIndex.from_frame(self.nuclei[["well", "site", "t"]]).isin(list(labels))
        return replace(self, labels=labels, nuclei=self.nuclei[there], _shares={})

    @property
    def whole(self) -> pd.DataFrame:
        """Nuclei that do not touch the border."""
        return self.nuclei if self.is_truth else self.nuclei[~self.nuclei["touches_border"].astype(bool)]

    def summary(self, wells: Sequence[str]) -> Summary:
        """Return the figures of some wells."""
        here = self.whole[self.whole["well"].isin(wells)] if len(self.whole) else self.whole
        share = self.g2_share(tuple(wells))
        intensity = None
        if not self.is_truth and self.is_stained and len(here):
            intensity = float((here["mean_intensity_e"] / here["relative_dose"]).mean())
        return Summary(
            sum(int(np.unique(labels).size - 1) for key, labels in self.labels.items() if key[0] in wells)
            if self.is_truth
            else int(self.nuclei["well"].isin(wells).sum()),
            None if share is None else 100 * share,
            self.why,
            float(here["area_um2"].median()) if len(here) else None,
            intensity,
        )

    def g2_share(self, wells: tuple[str, ...]) -> float | None:
        """Return the share of nuclei of some wells above a DNA content of 1.5; of the truth, of those that an image could sort.

        Wells share the stain, and so the peaks of the fit to all of them: only the shares are a well's own.
        """
        if wells not in self._shares:
            nuclei = self.whole[self.whole["well"].isin(wells)] if len(self.whole) else self.whole
            if self.is_truth:
                self._shares[wells] = _true_share(nuclei)
            elif self.fit is None:
                self._shares[wells] = None
            else:
                self._shares[wells] = self.fit.g2_of_two_in(*_dna(nuclei))
        return self._shares[wells]


class Comparisons:
    """All populations of a validation, and how each compares with its partners, with and without each of the wells."""

    def __init__(self, sites: HeldOutSites, findings: Findings) -> None:
        self._sites, self._camera = sites, sites.profile.camera
        self._reference = sites.protocol.reference.name
        self.wells = sites.wells
        self._sources: dict[Row, Population] = {}
        self._truth = _truth(findings) if findings.truth else None
        self._matchings: dict[tuple[Row, Partner], dict[SiteKey, Comparison]] = {}
        self._figures: dict[tuple[Row, Partner], dict[str, Estimate]] = {}
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
            is_stained = channel == stain
            why = "" if is_stained else f"{channel} does not show DNA"
            self._sources[row] = Population(findings.labels[row], nuclei, False, channel, is_stained, why=why)
        stained = [self._sources[row] for row in rows if self._sources[row].is_stained]
        fits = Parallel(n_jobs=-1)(delayed(_fitted)(*_dna(population.whole)) for population in stained)
        for population, (fit, why) in zip(stained, fits, strict=True):
            population.fit, population.why = fit, why

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
        """Return the figures of a row, of all wells or of some."""
        return self._sources[row].summary(self.wells if wells is None else wells)

    def level(self, row: Row, *, relative_dose: float, sample_dose: float, measured: bool = True) -> Level:
        """Return a row of the report."""
        nuclei = self._sources[row].nuclei
        summaries = [self.summary(row, wells) for wells in self._subsets(set(nuclei["well"]) if len(nuclei) else ())]
        g2 = estimate([each.g2_percent for each in summaries], "percent")
        g1 = estimate([None if each.g2_percent is None else 100 - each.g2_percent for each in summaries], "percent")
        area = estimate([each.median_area_um2 for each in summaries], "positive")
        intensity = estimate([each.mean_intensity for each in summaries], "positive")
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
            best_recall=self._best_recall(relative_dose)
            if row[0] == "network" and self._sources[row].is_stained
            else {},
        )

    def _best_recall(self, dose: float) -> dict[str, float]:
        """Return the photon limit of the nuclei that the network finds at full light."""
        full = self._sources.get(("network", self._reference))
        nuclei = None if full is None else full.whole
        if nuclei is None or not len(nuclei):
            return {}
        camera = self._camera
        chances = photon_limit(
            nuclei["area_um2"] / camera.pixel_size_um**2,
            nuclei["mean_intensity_e"],
            nuclei["background_e"],
            camera.read_noise_e,
            dose,
            thresholds=_LIMIT_AT,
        )
        return {f"{at:g}": float(chance.mean()) for at, chance in zip(_LIMIT_AT, chances, strict=True)}

    def _subsets(self, with_nuclei: Collection[str]) -> list[tuple[str, ...]]:
        """Return all wells, and all but each one of those with nuclei: a well with nothing in it is no repeat of the experiment."""
        return [self.wells, *(tuple(w for w in self.wells if w != out) for out in self.wells if out in with_nuclei)]

    def _subsets_of(self, row: Row, partner: Partner) -> list[tuple[str, ...]]:
        return self._subsets({key[0] for key, each in self._compared(row, partner).items() if each.at(0.5).n_true})

    def wells_with_nuclei(self, row: Row) -> int:
        """Return in how many wells a row has nuclei."""
        return int(self._sources[row].nuclei["well"].nunique()) if len(self._sources[row].nuclei) else 0

    def sites(self, row: Row) -> int:
        """Return at how many sites a row has images."""
        return len(self._sources[row].labels)

    def errors(self, row: Row) -> dict[Judged, Estimate]:
        """Return how the figures of a row of the network are off those at full light, by the names of the tolerances."""
        figures = self._compared_figures(row, "network_100")
        return {name: figures[figure] for name, figure in _JUDGED.items()}

    def count(self, row: Row) -> int:
        """Return the number of nuclei of a row."""
        return len(self._sources[row].nuclei)

    def f1(self, row: Row, partner: Partner) -> float | None:
        """Return the F1 of a row against a partner, at an IoU of 0.5; nothing where there is nothing to be found."""
        return _f1(pooled(self._compared(row, partner).values()), 0.5)

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

    def _compared_figures(self, row: Row, partner: Partner) -> dict[str, Estimate]:
        """Return all figures of a comparison, made once."""
        if (row, partner) not in self._figures:
            matched = self._matched(row, partner)
            self._figures[row, partner] = (
                self._deviations(row, partner)
                | self._scores(row, partner)
                | agreement([matched[matched["well"].isin(wells)] for wells in self._subsets_of(row, partner)])
            )
            if partner == "truth":  # photo-electrons over DNA content say nothing by themselves
                self._figures[row, partner] |= dict.fromkeys(
                    ("intensity_bias_percent", "dna_spread_percent"), Estimate(None)
                )
        return self._figures[row, partner]

    def _deviations(self, row: Row, partner: Partner) -> dict[str, Estimate]:
        """Return how the figures of populations differ, on the sites that both have."""
        sites, subsets = self._compared(row, partner).keys(), self._subsets_of(row, partner)
        low, full = self._sources[row].at(sites), self._partner(partner).at(sites)
        pairs = [(low.summary(wells), full.summary(wells)) for wells in subsets]
        shares = [(a.g2_percent, b.g2_percent) for a, b in pairs]
        if partner == "network_100" and row[0] == "network":
            shares = self._g2_by_one_fit(row, low, full, subsets)
        return {
            "g2_deviation_points": estimate([_difference(a, b) for a, b in shares], "difference"),
            "median_area_deviation_percent": estimate(
                [_percent(a.median_area_um2, b.median_area_um2) for a, b in pairs], "deviation_percent"
            ),
            "mean_intensity_deviation_percent": estimate(
                [_percent(a.mean_intensity, b.mean_intensity) for a, b in pairs], "deviation_percent"
            ),
        }

    def _g2_by_one_fit(
        self, row: Row, low: Population, full: Population, subsets: Sequence[tuple[str, ...]]
    ) -> list[tuple[float | None, float | None]]:
        """Return the share of G2 of a low light and of full light, of all wells and without each, by the fit at full light.

        None where this light alone would give no fit: on the next plate nothing else is known.
        """
        scale = dna_scale(self._matched(row, "network_100"))
        if full.fit is None or low.fit is None or scale is None:
            return [(None, None)] * len(subsets)
        mine, theirs = _measures(low), _measures(full)
        return [
            (
                g2_percent(full.fit, mine[mine["well"].isin(wells)], scale),
                g2_percent(full.fit, theirs[theirs["well"].isin(wells)]),
            )
            for wells in subsets
        ]

    def _scores(self, row: Row, partner: Partner) -> dict[str, Estimate]:
        """Return count, F1, missed and false nuclei; none of them where there is nothing to be found: nothing is no success."""
        compared = self._compared(row, partner)
        by_subset = [
            pooled(each for key, each in compared.items() if key[0] in wells)
            for wells in self._subsets_of(row, partner)
        ]
        half = [each.at(0.5) for each in by_subset]
        total = half[0].n_true + half[0].n_pred
        missed = [100 * (1 - each.recall) if each.n_true else None for each in half]
        false = [100 * (1 - each.precision) if each.n_pred else None for each in half]
        mean_f1 = [each.mean_f1 if each.at(0.5).n_true + each.at(0.5).n_pred else None for each in by_subset]
        return {
            "count_deviation_percent": estimate([_percent(b.n_pred, b.n_true) for b in half], "deviation_percent"),
            "f1_at_0.5": estimate([_f1(each, 0.5) for each in by_subset], "share", total),
            "f1_at_0.7": estimate([_f1(each, 0.7) for each in by_subset], "share", total),
            "mean_f1": estimate(mean_f1, "share"),
            "miss_percent": estimate(missed, "percent", half[0].n_true),
            "false_percent": estimate(false, "percent", half[0].n_pred),
        }

    def _against(self, row: Row, partner: Partner) -> Against:
        compared = pooled(self._compared(row, partner).values())
        matched = self._matched(row, partner)
        figures: dict[str, Any] = {name: each.figure() for name, each in self._compared_figures(row, partner).items()}
        figures |= {"splits": compared.splits, "merges": compared.merges, "matched": len(matched)}
        fit, scale = self._partner(partner).fit, dna_scale(matched) if partner == "network_100" else None
        if fit is not None and scale is not None:
            figures["g1_to_g2"], figures["g2_to_g1"] = changes(fit, matched, scale)
        return Against.model_validate(figures)

    def _matched(self, row: Row, partner: Partner) -> pd.DataFrame:
        """Return areas and intensities of the nuclei that both have, a line each, with their well."""
        pairs = [
            each.pairs.assign(well=key[0], site=key[1], t=key[2]) for key, each in self._compared(row, partner).items()
        ]
        columns = ["well", *(f"{whose}{name}" for name in ("area", "intensity", "noise") for whose in ("", "their_"))]
        if not pairs:
            return pd.DataFrame(columns=columns)
        place = ["well", "site", "t"]
        mine, theirs = _measures(self._sources[row]), _measures(self._partner(partner))
        both = (
            pd.concat(pairs, ignore_index=True)
            .merge(mine, left_on=[*place, "pred"], right_on=[*place, "label"])
            .merge(theirs.rename(columns={name: f"their_{name}" for name in ("area", "intensity", "noise")}),
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


def _fitted(intensity: NDArray[Any], noise: NDArray[Any]) -> tuple[CellCycle | None, str]:
    """Return the fit of the cell cycle, or why there is none."""
    try:
        return fit_cell_cycle(intensity, noise), ""
    except NoFitError as error:
        return None, str(error)


def _truth(findings: Findings) -> Population:
    return Population(findings.truth, pd.concat(findings.true_nuclei, ignore_index=True), is_truth=True)


def _dna(nuclei: pd.DataFrame) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return integrated intensities, and the noise of each, photo-electrons."""
    return nuclei["integrated_intensity_e"].to_numpy(), nuclei["integrated_noise_e"].to_numpy()


def _true_share(nuclei: pd.DataFrame) -> float | None:
    if not {"dna_content", "phase"} <= set(nuclei):
        return None
    # Dim nuclei (dead, out of focus) have no phase that an image could show.
    dna = nuclei["dna_content"][nuclei["phase"] != "dim"]
    return float((dna > SPLIT_DNA_CONTENT).mean()) if len(dna) else None


def _measures(population: Population) -> pd.DataFrame:
    """Return label, area, and intensity and its noise per dose of each whole nucleus, with its place; of the truth the DNA content."""
    nuclei = population.whole
    intensity: Any = np.nan
    noise: Any = np.nan
    if population.is_truth:
        intensity = nuclei["dna_content"] if "dna_content" in nuclei else np.nan
    elif population.is_stained:
        intensity = nuclei["integrated_intensity_e"] / nuclei["relative_dose"]
        noise = nuclei["integrated_noise_e"] / nuclei["relative_dose"]
    place = nuclei[["well", "site", "t", "label"]]
    return place.assign(area=nuclei["area_um2"], intensity=intensity, noise=noise)


def _f1(comparison: Comparison, thresh: float) -> float | None:
    at = comparison.at(thresh)
    return at.f1 if at.n_true + at.n_pred else None


def _percent(value: float | None, of: float | None) -> float | None:
    return None if value is None or not of else 100 * (value / of - 1)


def _difference(value: float | None, other: float | None) -> float | None:
    return None if value is None or other is None else value - other
