"""The validation: a network, the reference masks and the classical method on wells that were never trained on."""

from __future__ import annotations

from importlib.metadata import version
from statistics import median
from typing import TYPE_CHECKING

from scotopic import __version__
from scotopic.report.findings import (
    Findings,
    HeldOutSites,
    find_by_network,
    find_by_reference,
    find_classically,
    find_truth,
)
from scotopic.report.rows import rows_of
from scotopic.report.schema import Report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from scotopic.protocol.simulator_setup import SimulatorSetup
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
    card = specimen = None
    if model_path is None:
        missing.append(f"there is no model: {training.get('message', 'the run was not trained on')}")
    elif sites.frames:
        say(f"the network on {len(sites)} images of {len(sites.frames)} held-out sites")
        card = find_by_network(sites, model_path, findings)
    if sites.frames:
        find_by_reference(sites, findings)
        say("the classical method on the same images")
        find_classically(sites, findings)
    if setup is not None:
        specimen = find_truth(sites, setup, findings)
    ledger = run.ledger.read()
    return Report(
        protocol=sites.protocol.name,
        model=None if model_path is None else model_path.name.split(".")[0],
        held_out_wells=sites.wells,
        sites=len(sites.frames),
        levels=tuple(rows_of(sites, findings)),
        missing=tuple(missing),
        timing={
            "prediction_per_frame": round(median(findings.prediction_s), 4) if findings.prediction_s else None,
            "training": training.get("seconds"),
        },
        dose={
            "signal": round(sum(record.signal_dose_ms for record in ledger), 3),
            "sample": round(run.sample_dose_ms(), 3),
        },
        versions={"scotopic": __version__, "numpy": version("numpy"), "scikit-image": version("scikit-image")},
        specimen=specimen,
        model_card=card,
    )
