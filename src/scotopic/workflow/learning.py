"""Training: the network learns from the finished sites of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError
from scotopic.workflow.segmentation import opened_run, segment_run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def train(
    run_path: Path,
    say: Callable[[str], None],
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    again: bool = False,
) -> bool:
    """Train a network on a run; killed at any moment, the same call goes on from the last checkpoint.

    Reference masks that are missing are made first.

    Parameters
    ----------
    minutes, steps : float or int, optional
        Budget, instead of the protocol's.
    seed : int, optional
        Seed of weights and crops, instead of the protocol's.
    again : bool
        Train another model although there is one.

    Returns
    -------
    bool
        Whether the run has a model now.

    Raises
    ------
    ProblemsError
        If there is no run, nothing can be learned from it, or another process trains on it.
    """
    run = opened_run(run_path)
    with run.training_lock():
        if run.latest_model() is not None and not again and not run.checkpoint_path.exists():
            say(f"there is a model already: {run.latest_model()} (--again trains another one)")
            return True
        segment_run(run_path, say)
        from scotopic.learning.pairs import find_pairs
        from scotopic.learning.promotion import model_of, promote
        from scotopic.learning.training import train as train_network

        settings = run.read_protocol().training
        if minutes is not None or steps is not None:
            settings = settings.model_copy(update={"minutes": minutes or settings.minutes, "steps": steps})
        if seed is not None:
            settings = settings.model_copy(update={"seed": seed})
        try:
            pairs = find_pairs(run)
        except ValueError as error:
            run.write_status("train", state="nothing to learn", message=str(error))
            raise ProblemsError([Problem(str(error), str(run_path))]) from error
        say(
            f"training on {len(pairs.training)} sites of {len(pairs.training_wells)} wells, checking on "
            f"{len(pairs.validation)} of {', '.join(pairs.validation_wells)}"
            + (f"; {len(pairs.refused)} sites refused by the gate" * bool(pairs.refused))
        )
        trained = train_network(run, pairs, settings, say)
        model = model_of(run, pairs, settings, trained, specimen_of(run_path))
        outcome = promote(run, model, trained)
        f1 = {level: round(check.f1, 4) for level, check in trained.checks.items()}
        run.write_status(
            "train",
            state="completed",
            model=outcome.hash,
            promoted=outcome.promoted,
            reason=outcome.reason,
            f1=f1,
            step=trained.progress.step,
            seconds=round(trained.progress.seconds, 1),
            checks=trained.progress.checks,
            dtype=trained.dtype,
        )
        run.checkpoint_path.unlink(missing_ok=True)
        scores = ", ".join(f"{value:.3f} at {level}" for level, value in f1.items())
        say(f"model {outcome.hash}: F1 against the reference masks of the validation wells {scores}")
        if not outcome.promoted:
            say(f"not promoted: {outcome.reason}")
        return True


def specimen_of(run_path: Path) -> str | None:
    """Return the fingerprint of what lay on a simulated microscope; nothing for a real one."""
    run = opened_run(run_path)
    profile = run.read_profile()
    if profile.simulator is None:
        return None
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.simulator import make_specimen

    return make_specimen(SimulatorSetup.of(profile, run.read_protocol())).fingerprint
