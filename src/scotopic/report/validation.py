"""The validation: a network, the reference masks and the classical method on wells that were never trained on."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING, Any

from scotopic import __version__
from scotopic.protocol import Problem, ProblemsError
from scotopic.report.findings import (
    Findings,
    HeldOutSites,
    Network,
    find_by_reference,
    find_classically,
    find_truth,
)
from scotopic.report.ground_truth import ground_truth, stability
from scotopic.report.recommendation import Recommender, has_learned
from scotopic.report.rows import Comparisons, rows_of
from scotopic.report.schema import Learned, PaperRow, Purpose, Recommendation, Report
from scotopic.simulator import make_specimen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from scotopic.learning.model import Model
    from scotopic.protocol import ImagingProtocol
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.report.schema import Level, Outcome, Relation
    from scotopic.simulator import Specimen
    from scotopic.store import RunFolder


def validate(
    run: RunFolder, model_path: Path | None, setup: SimulatorSetup | None, say: Callable[[str], None]
) -> Report:
    """Segment and measure the held-out wells at every light level, and compare.

    Network masks go into the plate and its tables into the run, both under the hash of the model's content.

    Parameters
    ----------
    run : RunFolder
        Run with reference masks.
    model_path : Path, optional
        Model file; without it the report says that there is none.
    setup : SimulatorSetup, optional
        Set-up of a simulated microscope, which knows the truth.

    Raises
    ------
    ProblemsError
        If the model cannot be read, or has learned from all held-out wells.
    """
    specimen = None if setup is None else make_specimen(setup)
    model, relation, seen_wells = _known_to(run, model_path, specimen)
    sites, findings = HeldOutSites(run, seen_wells), Findings()
    if model is not None and seen_wells and set(seen_wells) >= set(sites.protocol.held_out_wells):
        told = f"has learned from {', '.join(sites.protocol.held_out_wells)} of this plate: what it finds there proves nothing"
        raise ProblemsError([Problem(f"{told}; hold out other wells, or judge it on another plate", str(model_path))])
    training = run.read_status("train", strict=True)
    missing = [sites.missing] if sites.missing else []
    network = None
    if model is None and training.get("learned", True):
        missing.append(f"there is no model: {training.get('message', 'the run was not trained on')}")
    elif model is not None and sites.frames:
        network = Network(sites, model)
        images = sum(1 for _ in sites.of_channel(network.channel))
        say(f"the network on {images} images of {len(sites.frames)} held-out sites")
        network.find(findings)
    if sites.frames:
        find_by_reference(sites, findings)
        say("the classical method on the same images")
        find_classically(sites, findings)
    if setup is not None and specimen is not None:
        find_truth(sites, setup, specimen, findings)
    levels, judged = _compared(sites, findings, network, say)
    if model is None and not training.get("learned", True):
        judged["recommendation"] = _unlearned(sites.protocol, training)
    ledger = run.ledger.read()
    levels_by_channel = {
        channel: {level.name for level in sites.protocol.levels_of(channel)} for channel in sites.protocol.channels
    }
    return Report(
        protocol=sites.protocol.name,
        model=None if model is None else model.hash,
        held_out_wells=sites.wells,
        sites=len(sites.frames),
        planned_sites=sites.planned,
        left_out=sites.left_out,
        seen=None if model is None else relation,
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
        specimen=None if specimen is None else specimen.fingerprint,
        model_card=network.card if network else None,
        training=tuple(training.get("checks", ())),
    )


def _known_to(
    run: RunFolder, model_path: Path | None, specimen: Specimen | None
) -> tuple[Model | None, Relation, tuple[str, ...]]:
    """Return the model, whether it has learned from the plate of this run, and the wells that it has seen there."""
    if model_path is None:
        return None, "unknown", ()
    from scotopic.learning.model import Model, PlateIdentity

    model = Model.load(model_path)
    fingerprint = None if specimen is None else specimen.fingerprint
    plate = PlateIdentity(run_id=run.run_id, plate_id=run.read_protocol().plate_id, specimen=fingerprint)
    is_own = model_path.resolve().parent == run.models_path.resolve()
    return model, *model.card.seen_wells(plate, is_own=is_own)


def _unlearned(protocol: ImagingProtocol, training: dict[str, Any]) -> Recommendation:
    """Return the verdict on a training that has given no model, for its networks had not learned."""
    found = list((training.get("f1") or {}).values()) if training.get("validation_nuclei") != 0 else []
    f1 = found[0] if found else None
    least = protocol.training.least_f1
    learned = Learned(f1=f1, least_f1=least, wells="validation", steps=training.get("step"))
    return _says_nothing(protocol, learned, "not learned")


def _says_nothing(protocol: ImagingProtocol, learned: Learned, outcome: Outcome) -> Recommendation:
    settings = protocol.validation
    outcomes = {
        name: Purpose(outcome=outcome, tolerances=each.model_dump()) for name, each in settings.by_purpose.items()
    }
    return Recommendation(purpose=settings.purpose, purposes=outcomes, confidence=settings.confidence, learned=learned)


def _compared(
    sites: HeldOutSites, findings: Findings, network: Network | None, say: Callable[[str], None]
) -> tuple[list[Level], dict[str, Any]]:
    """Return the rows of the report, and what follows from the network's: recommendation and the white paper's table."""
    if not sites.frames:
        return [], {}
    say("comparing, with and without each well")
    comparisons = Comparisons(sites, findings)
    rows = rows_of(sites, comparisons)
    # By what was measured: with a bent LED curve the brightest setting need not come first.
    own = sorted((row for row in rows if row.source == "network"), key=lambda row: -row.relative_dose)
    if network is None or not own:
        return rows, {}
    learned = has_learned(comparisons, own, sites.protocol.training.least_f1, network.card)
    if own[0].name != sites.protocol.reference.name:  # of another channel: its light is not the stain's
        outcome: Outcome = "no nuclei" if learned.f1 is None else "not learned"
        return rows, {} if learned.is_enough else {"recommendation": _says_nothing(sites.protocol, learned, outcome)}
    recommender = Recommender(sites, findings, comparisons, own, partial(network.find_thinned, findings))
    recommendation = recommender.recommend(learned)
    by_network = sorted([*own, *recommender.thinned.values()], key=lambda row: -row.relative_dose)
    return [*by_network, *rows[len(own) :]], {
        "recommendation": recommendation,
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
