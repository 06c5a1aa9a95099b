"""The validation: a network, the reference masks and the classical method on wells that were never trained on."""

from __future__ import annotations

import time
from collections import defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed

from scotopic import __version__
from scotopic.nuclei import NoFitError, evenly_lit, fit_cell_cycle, matching, measure, pooled, reference_segmentation
from scotopic.reference import REFERENCE, finished_frames, origin_um, read_frame
from scotopic.report.schema import Against, Figure, Level, Report
from scotopic.simulator import Field, make_specimen

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.protocol import ImagingProtocol, MicroscopeProfile
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.store import FrameRecord, RunFolder

SiteKey = tuple[str, int, int]
Row = tuple[str, str]
"""Source and light level."""


@dataclass
class _Findings:
    """What was found on the held-out sites, by row."""

    labels: dict[Row, dict[SiteKey, NDArray[Any]]] = field(default_factory=lambda: defaultdict(dict))
    tables: dict[Row, list[pd.DataFrame]] = field(default_factory=lambda: defaultdict(list))
    truth: dict[SiteKey, NDArray[Any]] = field(default_factory=dict)
    truth_areas: list[float] = field(default_factory=list)
    truth_dna: list[float] = field(default_factory=list)


def validate(
    run: RunFolder, model_path: Path | None, setup: SimulatorSetup | None, say: Callable[[str], None]
) -> Report:
    """Segment and measure the held-out wells at every light level, and compare.

    Network masks go into the plate and its tables into the run, both under the hash of the model's file.

    Parameters
    ----------
    run : RunFolder
        Run with reference masks.
    model_path : Path, optional
        Model file; without it the report says that there is none.
    setup : SimulatorSetup, optional
        Set-up of a simulated microscope, which knows the truth.
    """
    protocol, profile = run.read_protocol(), run.read_profile()
    references = run.references()
    frames = {
        key: levels
        for key, levels in sorted(finished_frames(run).items())
        if key[0] in protocol.held_out_wells and key in references
    }
    missing: list[str] = []
    if not protocol.held_out_wells:
        missing.append("no well is held out: nothing can be validated")
    elif not frames:
        missing.append("no site of a held-out well is finished, with reference masks")
    findings = _Findings()
    plate = run.plate(protocol, profile)
    jobs = [(key, level, r) for key, levels in frames.items() for level, r in levels.items()]
    seconds, card = [], None
    if model_path is None:
        missing.append(
            "there is no model: " + str(run.read_status("train").get("message", "the run was not trained on"))
        )
    elif frames:
        from scotopic.learning.model import Model, model_hash
        from scotopic.learning.prediction import Predictor

        model = Model.load(model_path)
        card = model.card
        predictor = Predictor(model, profile.camera)
        source = model_hash(model_path)
        say(f"segmenting {len(jobs)} frames of {len(frames)} held-out sites with {source} ({predictor.dtype})")
        with run.masks_lock():
            for key, levels in frames.items():
                parts = []
                for level, record in levels.items():
                    image = read_frame(run.path, record)
                    begun = time.perf_counter()
                    labels = predictor(image, _dose(levels, record, protocol)).labels
                    seconds.append(time.perf_counter() - begun)
                    findings.labels["network", level][key] = labels
                    name = f"network_{source}_{protocol.light_levels.index(_level(protocol, level))}"
                    plate.write_labels(record.well, record.site, name, record.t, 0, labels)
                    table = _measured(labels, image, record, profile, level, _dose(levels, record, protocol))
                    findings.tables["network", level].append(table)
                    parts.append(table)
                run.nuclei.folder(source).mkdir(parents=True, exist_ok=True)
                run.nuclei.write(source, *key, pd.concat(parts, ignore_index=True))
    for key, levels in frames.items():
        masks = plate.read_labels(key[0], key[1], REFERENCE, key[2])
        for level, record in levels.items():
            findings.labels["reference", level][key] = masks
            findings.tables["reference", level].append(
                _measured(masks, read_frame(run.path, record), record, profile, level, _dose(levels, record, protocol))
            )
    if jobs:
        say("the classical method on the same dark images")
    done = Parallel(n_jobs=-1, return_as="generator")(
        delayed(_classical)(run.path, record, protocol, profile) for _, _, record in jobs
    )
    for (key, level, record), labels in zip(jobs, done, strict=True):
        findings.labels["classical", level][key] = labels
        findings.tables["classical", level].append(
            _measured(
                labels, read_frame(run.path, record), record, profile, level, _dose(frames[key], record, protocol)
            )
        )
    if setup is not None:
        _add_truth(findings, frames, setup)
    ledger = run.ledger.read()
    training = run.read_status("train")
    return Report(
        protocol=protocol.name,
        model=None if model_path is None else model_path.name.split(".")[0],
        held_out_wells=tuple(well for well in protocol.held_out_wells if any(key[0] == well for key in frames)),
        sites=len(frames),
        levels=tuple(_rows(findings, frames, protocol, profile)),
        missing=tuple(missing),
        timing={
            "prediction_per_frame": round(float(np.median(seconds)), 4) if seconds else 0.0,
            "training": float(training.get("seconds", 0.0)),
        },
        dose={
            "signal": round(sum(r.signal_dose_ms for r in ledger), 3),
            "sample": round(sum(r.sample_dose_ms for r in ledger), 3),
        },
        versions={"scotopic": __version__, "numpy": version("numpy"), "scikit-image": version("scikit-image")},
        specimen=None if setup is None else make_specimen(setup).fingerprint,
        model_card=None if card is None else card.model_dump(mode="json"),
    )


def _level(protocol: ImagingProtocol, name: str) -> Any:
    return next(level for level in protocol.light_levels if level.name == name)


def _dose(levels: dict[str, FrameRecord], record: FrameRecord, protocol: ImagingProtocol) -> float:
    """Return the light of an image relative to the site's reference image, or to the protocol's if there is none."""
    bright = levels.get(protocol.reference.name)
    return record.signal_dose_ms / (bright.signal_dose_ms if bright else protocol.reference.nominal_dose)


def _measured(
    labels: NDArray[Any],
    image: NDArray[Any],
    record: FrameRecord,
    profile: MicroscopeProfile,
    level: str,
    dose: float,
) -> pd.DataFrame:
    camera = profile.camera
    table = measure(
        labels, image, pixel_size_um=camera.pixel_size_um, origin_um=origin_um(record, camera), camera=camera
    )
    place: dict[str, Any] = {
        "well": record.well,
        "site": record.site,
        "t": record.t,
        "level": level,
        "relative_dose": dose,
    }
    return table.assign(**place)[[*place, *table.columns]]


def _classical(
    run_path: Path, record: FrameRecord, protocol: ImagingProtocol, profile: MicroscopeProfile
) -> NDArray[np.int32]:
    """Find nuclei in an image by standard image analysis, for any process."""
    image = read_frame(run_path, record)
    return reference_segmentation(
        image, pixel_size_um=profile.camera.pixel_size_um, settings=protocol.nuclei.segmentation
    )


def _add_truth(findings: _Findings, frames: dict[SiteKey, dict[str, FrameRecord]], setup: SimulatorSetup) -> None:
    specimen = make_specimen(setup)
    for key, levels in frames.items():
        x_um, y_um = setup.placement.to_plate(*next(iter(levels.values())).xy_um)
        truth = specimen.truth(Field(x_um, y_um, setup.width_px, setup.height_px, setup.pixel_size_um))
        if truth is None:
            continue
        findings.truth[key] = truth.labels
        inside = truth.nuclei[~truth.nuclei["touches_border"]]
        findings.truth_areas += inside["area_um2"].tolist()
        if "dna_content" in inside and "phase" in inside:
            findings.truth_dna += inside["dna_content"][~inside["phase"].isin(["dim"])].tolist()


@dataclass(frozen=True)
class _Summary:
    count: int
    g1_percent: float | None
    g2_percent: float | None
    why: str
    median_area_um2: float | None
    mean_intensity: float | None


def _summary(tables: list[pd.DataFrame], light_of: pd.DataFrame, profile: MicroscopeProfile) -> _Summary:
    """Return the figures of a row; intensities are corrected by the illumination that the brightest row shows."""
    camera = profile.camera
    nuclei = pd.concat(tables, ignore_index=True)
    count = len(nuclei)
    both = pd.concat([nuclei.assign(own=True), light_of.assign(own=False)], ignore_index=True)
    even, _ = evenly_lit(both, {(camera.height_px, camera.width_px)}, trusted=~both["own"])
    nuclei = even[even["own"]]
    whole = nuclei[~nuclei["touches_border"].astype(bool)]
    dose = float(nuclei["relative_dose"].mean()) if count else 1.0
    g1 = g2 = None
    why = ""
    try:
        # Noise of the integrated signal: read noise and photons of signal and background, over the nucleus' pixels.
        pixels = whole["area_um2"] / camera.pixel_size_um**2
        signal = np.maximum(whole["integrated_intensity"], 0) + pixels * np.maximum(whole["background"], 0)
        fit = fit_cell_cycle(whole["integrated_intensity"], np.sqrt(pixels * camera.read_noise_e**2 + signal))
        g2 = 100 * fit.g2_of_two
        g1 = 100 - g2
    except NoFitError as error:
        why = str(error)
    return _Summary(
        count,
        g1,
        g2,
        why,
        float(whole["area_um2"].median()) if len(whole) else None,
        float(whole["mean_intensity"].mean() / dose) if len(whole) else None,
    )


def _rows(
    findings: _Findings,
    frames: dict[SiteKey, dict[str, FrameRecord]],
    protocol: ImagingProtocol,
    profile: MicroscopeProfile,
) -> list[Level]:
    reference = protocol.reference.name
    names = [level.name for level in sorted(protocol.light_levels, key=lambda level: -level.nominal_dose)]
    rows = [(s, n) for s in ("network", "reference", "classical") for n in names if findings.tables.get((s, n))]
    if not rows:
        return []
    light_of = pd.concat(findings.tables["reference", reference] or findings.tables[rows[0]], ignore_index=True)
    summaries = {row: _summary(findings.tables[row], light_of, profile) for row in rows}
    partners: dict[str, tuple[dict[SiteKey, NDArray[Any]], _Summary]] = {}
    for name, row in (("network_100", ("network", reference)), ("reference", ("reference", reference))):
        if row in summaries:
            partners[name] = findings.labels[row], summaries[row]
    if findings.truth:
        partners["truth"] = findings.truth, _truth_summary(findings)
    levels = []
    for source, name in rows:
        records = [site[name] for site in frames.values() if name in site]
        s = summaries[source, name]
        doses = [t["relative_dose"].iloc[0] for t in findings.tables[source, name] if len(t)]
        levels.append(
            Level(
                name=name,
                source=source,
                relative_dose=float(np.mean(doses)) if doses else protocol.relative_dose(_level(protocol, name)),
                sample_dose=float(np.mean([r.sample_dose_ms for r in records])),
                nuclei_count=s.count,
                g1_percent=s.g1_percent,
                g2_percent=s.g2_percent,
                cell_cycle=s.why,
                median_area_um2=s.median_area_um2,
                mean_intensity=s.mean_intensity,
                against={
                    partner: _against(findings.labels[source, name], s, labels, theirs)
                    for partner, (labels, theirs) in partners.items()
                    if (source, name) != (partner.split("_")[0], reference)
                },
            )
        )
    return levels


def _truth_summary(findings: _Findings) -> _Summary:
    from scotopic.nuclei import SPLIT_DNA_CONTENT

    dna = np.array(findings.truth_dna)
    g2 = 100 * float((dna > SPLIT_DNA_CONTENT).mean()) if dna.size else None
    count = sum(int(np.unique(labels).size - 1) for labels in findings.truth.values())
    area = float(np.median(findings.truth_areas)) if findings.truth_areas else None
    return _Summary(count, None if g2 is None else 100 - g2, g2, "", area, None)


def _against(
    mine: dict[SiteKey, NDArray[Any]], summary: _Summary, theirs: dict[SiteKey, NDArray[Any]], partner: _Summary
) -> Against:
    shared = [key for key in mine if key in theirs]
    both = pooled(matching(theirs[key], mine[key]) for key in shared)
    at = both.at(0.5)

    def percent(value: float | None, of: float | None) -> Figure:
        return Figure(value=None if value is None or not of else 100 * (value / of - 1))

    g2 = None if summary.g2_percent is None or partner.g2_percent is None else summary.g2_percent - partner.g2_percent
    return Against.model_validate(
        {
            "count_deviation_percent": percent(at.n_pred, at.n_true),
            "g2_deviation_points": Figure(value=g2),
            "median_area_deviation_percent": percent(summary.median_area_um2, partner.median_area_um2),
            "mean_intensity_deviation_percent": percent(summary.mean_intensity, partner.mean_intensity),
            "f1_at_0.5": Figure(value=at.f1),
            "f1_at_0.7": Figure(value=both.at(0.7).f1),
            "mean_f1": Figure(value=both.mean_f1),
            "miss_percent": Figure(value=100 * (1 - at.recall)),
            "false_percent": Figure(value=100 * (1 - at.precision)),
        }
    )
