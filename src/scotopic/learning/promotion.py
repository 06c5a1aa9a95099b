"""Whether a new model takes the place of the one before."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from scotopic import __version__
from scotopic.learning.checking import check_levels
from scotopic.learning.model import Model, ModelCard, model_name
from scotopic.learning.prediction import MapMaker

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scotopic.learning.training import Trained
    from scotopic.protocol import TrainingSettings
    from scotopic.store import RunFolder

_NOISE = 0.002
"""F1 that two trainings of the same kind differ by: less is not worse."""


@dataclass(frozen=True)
class Promotion:
    """What became of a model."""

    hash: str
    promoted: bool
    reason: str
    """Why it was not promoted; empty if it was."""
    learned: bool = True
    """Whether it agrees with the reference masks at full light as far as the protocol wants."""
    validation_nuclei: int = 0
    """Nuclei of the reference masks that it was checked on."""


def model_of(
    run: RunFolder, settings: TrainingSettings, trained: Trained, specimens: Sequence[str | None] = (None,)
) -> Model:
    """Return a trained network with its card.

    Parameters
    ----------
    specimens : sequence of str or None
        Fingerprint of the simulated specimen of each run that was learned from.
    """
    protocol, profile = run.read_protocol(), run.read_profile()
    camera, full_light = profile.camera, protocol.full_light(protocol.inputs(settings.input_levels)[0])
    card = ModelCard(
        run=protocol.name,
        specimen=specimens[0],
        channel=protocol.channel_of(full_light),
        pixel_size_um=camera.pixel_size_um,
        objective=profile.objective,
        camera=camera.noise,
        reference_exposure_ms=full_light.exposure_ms,
        reference_led_percent=full_light.led_percent,
        levels={level: check.cut_off.dose for level, check in trained.checks.items()},
        peak_e=trained.peak_e,
        field_e=trained.field_e,
        network=trained.network.shape,
        cut_offs=tuple(check.cut_off for check in trained.checks.values()),
        further_runs=tuple(each.path.name for each in trained.pairs.runs[1:]),
        learned=tuple(trained.pairs.learned_from(specimens)),
        training_wells=trained.pairs.training_wells,
        validation_wells=trained.pairs.validation_wells,
        held_out_wells=protocol.held_out_wells,
        training_sites=len(trained.pairs.training),
        steps=trained.progress.step,
        seed=settings.seed,
        dtype=trained.dtype,
        f1=trained.f1,
        versions={"scotopic": __version__, "torch": torch.__version__, "numpy": version("numpy")},
    )
    return Model(card, trained.network)


def promote(run: RunFolder, model: Model, trained: Trained, least_f1: float) -> Promotion:
    """Write a model into the run, and name it the latest unless it has not learned, or is worse than the one before at some level.

    Both are compared on the same validation wells, by F1 at an IoU of 0.5.

    Parameters
    ----------
    least_f1 : float
        Least F1 at its brightest level.
    """
    path = model.save(run.models_path)
    name = model_name(path)
    brightest = max(trained.checks.values(), key=lambda check: check.cut_off.dose)
    if brightest.f1 < least_f1 or not brightest.reference_nuclei:
        found = f"its F1 is {brightest.f1:.3f} at {brightest.level}, at least {least_f1:g} is needed"
        why = found if brightest.reference_nuclei else "the validation wells have no nuclei to check it on"
        reason = f"it has not learned yet: {why}"
        return Promotion(name, False, reason, learned=False, validation_nuclei=brightest.reference_nuclei)
    before = run.latest_model()
    old = Model.load(before) if before is not None and before != path else None
    if old is not None and old.card.channel == model.card.channel:
        then = check_levels(
            MapMaker(old.network, old.card.seen_by(old.card.camera), old.card.peak_e), trained.validation
        )
        worse = [
            f"{trained.checks[level].f1:.3f} at {level}, before {then[level].f1:.3f}"
            for level in then
            if level in trained.checks and trained.checks[level].f1 < then[level].f1 - _NOISE
        ]
        if worse:
            return Promotion(name, promoted=False, reason=f"worse than {old.hash}: {'; '.join(worse)}")
    run.note_latest_model(path.name, model.card.f1)
    return Promotion(name, promoted=True, reason="")
