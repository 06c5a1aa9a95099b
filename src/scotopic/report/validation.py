"""The validation: a network, the reference masks and the classical method on wells that were never trained on."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

from scotopic import __version__
from scotopic.report.findings import (
    Findings,
    HeldOutSites,
    Network,
    find_by_reference,
    find_classically,
    find_truth,
)
from scotopic.report.ground_truth import ground_truth, stability
from scotopic.report.recommendation import recommend, savings
from scotopic.report.rows import Comparisons, rows_of
from scotopic.report.schema import PaperRow, Report

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.report.schema import Level
    from scotopic.store import RunFolder


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
    sites, findings = HeldOutSites(run), Findings()
    training = run.read_status("train")
    missing = [sites.missing] if sites.missing else []
    network = specimen = None
    if model_path is None:
        missing.append(f"there is no model: {training.get('message', 'the run was not trained on')}")
    elif sites.frames:
        network = Network(sites, model_path)
        images = sum(1 for _ in sites.of_channel(network.channel))
        say(f"the network on {images} images of {len(sites.frames)} held-out sites")
        network.find(findings)
    if sites.frames:
        find_by_reference(sites, findings)
        say("the classical method on the same images")
        find_classically(sites, findings)
    if setup is not None:
        specimen = find_truth(sites, setup, findings)
    levels, judged = _compared(sites, findings, network, say)
    ledger = run.ledger.read()
    levels_by_channel = {
        channel: {level.name for level in sites.protocol.levels_of(channel)} for channel in sites.protocol.channels
    }
    return Report(
        protocol=sites.protocol.name,
        model=None if model_path is None else model_path.name.split(".")[0],
        held_out_wells=sites.wells,
        sites=len(sites.frames),
        levels=tuple(levels),
        missing=tuple(missing),
        **judged,
        ground_truth=ground_truth(run),
        stability=stability(run),
        timing={
            "prediction_per_frame": round(median(findings.prediction_s), 4) if findings.prediction_s else None,
            "training": training.get("seconds"),
        },
        dose={
            "signal": round(sum(record.signal_dose_ms for record in ledger), 3),
            "sample": round(run.sample_dose_ms(), 3),
        },
        sample_dose_by_channel={
            channel: round(sum(r.sample_dose_ms for r in ledger if r.level in names), 3)
            for channel, names in levels_by_channel.items()
        },
        calibrations=dict(sites.profile.calibration_facts(sites.protocol.channels)),
        versions={"scotopic": __version__, "numpy": version("numpy"), "scikit-image": version("scikit-image")},
        specimen=specimen,
        model_card=network.card if network else None,
        training=tuple(training.get("checks", ())),
    )


def _compared(
    sites: HeldOutSites, findings: Findings, network: Network | None, say: Callable[[str], None]
) -> tuple[list[Level], dict[str, Any]]:
    """Return the rows of the report, and what follows from the network's: recommendation and the white paper's table."""
    if not sites.frames:
        return [], {}
    say("comparing, with and without each well")
    comparisons = Comparisons(sites, findings)
    rows = rows_of(sites, comparisons)
    own = [row for row in rows if row.source == "network"]
    if network is None or not own or own[0].name != sites.protocol.reference.name:
        return rows, {}
    recommendation, thinned = recommend(sites, findings, comparisons, own, partial(network.find_thinned, findings))
    by_network = sorted([*own, *thinned], key=lambda row: -row.relative_dose)
    level, light, time = savings(recommendation, by_network, sites.protocol, sites.profile)
    return [*by_network, *rows[len(own) :]], {
        "recommendation": recommendation,
        "recommended_level": level,
        "light_saving_factor": light,
        "time_saving_factor": time,
        "as_in_the_paper": _as_in_the_paper(comparisons, [row.name for row in own]),
    }


def _as_in_the_paper(comparisons: Comparisons, levels: Sequence[str]) -> tuple[PaperRow, ...]:
    """Return the network's figures from two wells a light level."""
    rows = []
    for level, wells in comparisons.paper_wells().items():
        if level not in levels:
            continue
        mine, bright = (comparisons.summary(("network", name), wells) for name in (level, levels[0]))
        off = None if level == levels[0] or not bright.count else 100 * (mine.count / bright.count - 1)
        g1 = None if mine.g2_percent is None else 100 - mine.g2_percent
        rows.append(
            PaperRow(
                name=level,
                wells=wells,
                nuclei_count=mine.count,
                count_deviation_percent=off,
                g1_percent=g1,
                g2_percent=mine.g2_percent,
            )
        )
    return tuple(rows)
