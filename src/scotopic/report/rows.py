"""The rows of the report: figures of each source at each light level, and how they compare."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scotopic.nuclei import SPLIT_DNA_CONTENT, NoFitError, evenly_lit, fit_cell_cycle, matching, pooled
from scotopic.report.schema import Against, Figure, Level

if TYPE_CHECKING:
    from scotopic.protocol.profile import Camera
    from scotopic.report.findings import Findings, HeldOutSites, Labels
    from scotopic.report.schema import Partner, Source


@dataclass(frozen=True)
class Summary:
    """Figures of a population of nuclei."""

    count: int
    g1_percent: float | None
    g2_percent: float | None
    why: str
    """Why there is no split into G1 and G2; empty where there is one."""
    median_area_um2: float | None
    mean_intensity: float | None
    """Photo-electrons per dose."""


def rows_of(sites: HeldOutSites, findings: Findings) -> list[Level]:
    """Return one row a source and light level, by falling light."""
    protocol, camera = sites.protocol, sites.profile.camera
    reference = protocol.reference.name
    names = [level.name for level in sorted(protocol.light_levels, key=lambda level: -level.nominal_dose)]
    sources: tuple[Source, ...] = ("network", "reference", "classical")
    rows = [(source, name) for source in sources for name in names if findings.tables.get((source, name))]
    if not rows:
        return []
    bright = findings.tables["reference", reference] or findings.tables[rows[0]]
    light = pd.concat(bright, ignore_index=True)
    summaries = {row: _summary(pd.concat(findings.tables[row], ignore_index=True), light, camera) for row in rows}
    partners: dict[Partner, tuple[Labels, Summary]] = {}
    if ("network", reference) in summaries:
        partners["network_100"] = findings.labels["network", reference], summaries["network", reference]
    if ("reference", reference) in summaries:
        partners["reference"] = findings.labels["reference", reference], summaries["reference", reference]
    if findings.truth:
        partners["truth"] = findings.truth, _truth_summary(findings)
    own = {"network_100": ("network", reference), "reference": ("reference", reference)}
    levels = []
    for source, name in rows:
        records = [(key, site[name]) for key, site in sites.frames.items() if name in site]
        summary = summaries[source, name]
        levels.append(
            Level(
                name=name,
                source=source,
                relative_dose=float(np.mean([sites.relative_dose(key, record) for key, record in records])),
                sample_dose=float(np.mean([record.sample_dose_ms for _, record in records])),
                nuclei_count=summary.count,
                g1_percent=summary.g1_percent,
                g2_percent=summary.g2_percent,
                cell_cycle=summary.why,
                median_area_um2=summary.median_area_um2,
                mean_intensity=summary.mean_intensity,
                against={
                    partner: _against(findings.labels[source, name], summary, *theirs)
                    for partner, theirs in partners.items()
                    if own.get(partner) != (source, name)
                },
            )
        )
    return levels


def _summary(nuclei: pd.DataFrame, light: pd.DataFrame, camera: Camera) -> Summary:
    """Return the figures of a row; intensities are corrected by the illumination that the nuclei in `light` show."""
    both = pd.concat([nuclei.assign(own=True), light.assign(own=False)], ignore_index=True)
    even, _ = evenly_lit(both, {(camera.height_px, camera.width_px)}, trusted=~both["own"])
    nuclei = even[even["own"]]
    whole = nuclei[~nuclei["touches_border"].astype(bool)]
    share, why = _g2_share(whole, camera)
    return Summary(
        len(nuclei),
        None if share is None else 100 * (1 - share),
        None if share is None else 100 * share,
        why,
        float(whole["area_um2"].median()) if len(whole) else None,
        float((whole["mean_intensity_e"] / whole["relative_dose"]).mean()) if len(whole) else None,
    )


def _g2_share(nuclei: pd.DataFrame, camera: Camera) -> tuple[float | None, str]:
    """Return the share of nuclei in G2, or why there is none."""
    pixels = nuclei["area_um2"] / camera.pixel_size_um**2
    photons = np.maximum(nuclei["integrated_intensity_e"], 0) + pixels * np.maximum(nuclei["background_e"], 0)
    noise = np.sqrt(pixels * camera.read_noise_e**2 + photons)  # of the integrated signal, electrons
    try:
        return fit_cell_cycle(nuclei["integrated_intensity_e"], noise).g2_of_two, ""
    except NoFitError as error:
        return None, str(error)


def _truth_summary(findings: Findings) -> Summary:
    nuclei = pd.concat(findings.true_nuclei, ignore_index=True)
    share = None
    if {"dna_content", "phase"} <= set(nuclei):
        # Dim nuclei (dead, out of focus) have no phase that an image could show.
        dna = nuclei["dna_content"][nuclei["phase"] != "dim"]
        share = float((dna > SPLIT_DNA_CONTENT).mean()) if len(dna) else None
    return Summary(
        sum(int(np.unique(labels).size - 1) for labels in findings.truth.values()),
        None if share is None else 100 * (1 - share),
        None if share is None else 100 * share,
        "",
        float(nuclei["area_um2"].median()) if len(nuclei) else None,
        None,
    )


def _against(mine: Labels, summary: Summary, theirs: Labels, partner: Summary) -> Against:
    """Compare label images on the sites that both have, and the figures of both."""
    both = pooled(matching(theirs[key], labels) for key, labels in mine.items() if key in theirs)
    half = both.at(0.5)
    g2 = None if summary.g2_percent is None or partner.g2_percent is None else summary.g2_percent - partner.g2_percent
    return Against.model_validate(
        {
            "count_deviation_percent": _percent(half.n_pred, half.n_true),
            "g2_deviation_points": Figure(value=g2),
            "median_area_deviation_percent": _percent(summary.median_area_um2, partner.median_area_um2),
            "mean_intensity_deviation_percent": _percent(summary.mean_intensity, partner.mean_intensity),
            "f1_at_0.5": Figure(value=half.f1),
            "f1_at_0.7": Figure(value=both.at(0.7).f1),
            "mean_f1": Figure(value=both.mean_f1),
            "miss_percent": Figure(value=100 * (1 - half.recall)),
            "false_percent": Figure(value=100 * (1 - half.precision)),
        }
    )


def _percent(value: float | None, of: float | None) -> Figure:
    return Figure(value=None if value is None or not of else 100 * (value / of - 1))
