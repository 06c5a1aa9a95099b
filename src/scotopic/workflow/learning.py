"""Training: the network learns from the finished sites of a run."""

from __future__ import annotations

import time
from contextlib import closing, nullcontext, suppress
from typing import TYPE_CHECKING, Any

import psutil

from scotopic.protocol import Problem, ProblemsError, TrainingSettings
from scotopic.workflow.command import Command
from scotopic.workflow.run_log import run_log
from scotopic.workflow.segmentation import LOOK_S, opened_run, segment_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Self

    from scotopic.learning.pairs import Pairs
    from scotopic.learning.promotion import Promotion
    from scotopic.learning.training import Trained
    from scotopic.store import RunFolder

_NICE = 10
_BEGUN_AGAIN_S = 60.0
"""A process that makes masks and ends too early is begun again no sooner."""
NOTHING_TO_LEARN = "nothing to learn"
"""State of a training that ended for want of usable sites."""


def train(
    run_path: Path,
    say: Callable[[str], None] = print,
    *,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    input_levels: Sequence[str] = (),
    also: Sequence[Path] = (),
    follow: bool = False,
    tensorboard: bool = False,
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
    input_levels : sequence of str
        Light levels to learn to look at, all of one channel, instead of the protocol's.
    also : sequence of Path
        Further runs to learn from, of the same light levels, pixels and camera. Wells that are held out in one are in none.
    follow : bool
        Begin while the run is still acquired, and take in the sites that come.
    tensorboard : bool
        Write event files into the run's `models/tensorboard`.
    again : bool
        Train another model although there is one.

    Returns
    -------
    bool
        Whether there is a model that has learned.

    Raises
    ------
    ProblemsError
        If there is no run, nothing can be learned from it, or another process trains on it.
    RuntimeError
        If the device that is asked for is not there.
    """
    run, others = opened_run(run_path), [opened_run(path) for path in also]
    if follow and others:
        raise ProblemsError([Problem("is for complete runs, not with --follow", key="--also")])
    with run.training_lock(), run_log(say, run.path) as log:
        say = log.say
        if run.latest_model() is not None and not again and not run.checkpoint_path.exists():
            say(f"there is a model already: {run.latest_model()} (--again trains another one)")
            return True
        settings = run.read_protocol().training
        changes: dict[str, Any] = {} if seed is None else {"seed": seed}
        if minutes is not None or steps is not None:
            changes |= {"minutes": minutes or settings.minutes, "steps": steps}
        settings = TrainingSettings.model_validate(settings.model_dump() | changes)  # within the bounds of a protocol's
        if input_levels:
            settings = settings.model_copy(update={"input_levels": tuple(input_levels)})
            try:
                run.read_protocol().inputs(input_levels)
            except ValueError as error:
                raise ProblemsError([Problem(str(error), key="--input-level")]) from error
        if follow:
            give_way()
        with _Growth(run, settings.input_levels, say) if follow and run.is_locked() else nullcontext() as grow:
            try:
                inputs = settings.input_levels
                pairs = _pairs_of_all([run, *others], inputs, say) if grow is None else grow.first()
            except ProblemsError as error:
                run.write_status("train", state=NOTHING_TO_LEARN, message=error.problems[0].message)
                raise
            say(
                f"training on {len(pairs.training)} sites of {len(pairs.training_wells)} wells, checking on "
                f"{len(pairs.validation)} of {', '.join(pairs.validation_wells)}"
                + (f"; {len(pairs.refused)} sites refused by the gate" * bool(pairs.refused))
            )
            return _train(run, pairs, settings, say, grow=grow, tensorboard=tensorboard)


def _train(
    run: RunFolder,
    pairs: Pairs,
    settings: TrainingSettings,
    say: Callable[[str], None],
    *,
    grow: _Growth | None,
    tensorboard: bool,
) -> bool:
    """Train, and return whether the network has learned."""
    from scotopic.learning.curves import Curves
    from scotopic.learning.pairs import NothingToLearnError
    from scotopic.learning.promotion import model_of, promote
    from scotopic.learning.training import train as train_network

    def offer(trained: Trained) -> Promotion:
        outcome = promote(
            run,
            model_of(run, settings, trained, [specimen_of(each.path) for each in trained.pairs.runs]),
            trained,
            settings.least_f1,
        )
        scores = ", ".join(f"{value:.3f} at {level}" for level, value in trained.f1.items())
        say(f"model {outcome.hash}: F1 against the reference masks of the validation wells {scores}")
        if not outcome.promoted:
            say(f"not promoted: {outcome.reason}")
        return outcome

    with closing(Curves(run.models_path / "tensorboard")) if tensorboard else nullcontext() as curves:
        try:
            trained = train_network(run, pairs, settings, say, grow=grow, offer=offer, curves=curves)
        except NothingToLearnError as error:
            run.write_status("train", state=NOTHING_TO_LEARN, message=str(error))
            raise ProblemsError([Problem(str(error), str(run.path))]) from error
    outcome = offer(trained)
    run.write_status(
        "train",
        state="completed",
        model=outcome.hash,
        promoted=outcome.promoted,
        reason=outcome.reason,
        learned=outcome.learned,
        validation_nuclei=outcome.validation_nuclei if not outcome.learned else None,
        f1=trained.f1,
        step=trained.progress.step,
        seconds=round(trained.progress.seconds, 1),
        offers=trained.progress.offers,
        checks=trained.progress.checks,
        dtype=trained.dtype,
    )
    run.checkpoint_path.unlink(missing_ok=True)
    return outcome.learned


def _pairs_of_all(runs: Sequence[RunFolder], inputs: Sequence[str], say: Callable[[str], None]) -> Pairs:
    """Return what there is to learn from in several runs.

    Raises
    ------
    ProblemsError
        If there is nothing in one of them, or they cannot be learned from together.
    """
    from scotopic.learning.pairs import NothingToLearnError, difference, merged

    run, *others = runs
    problems = [Problem(told, str(other.path)) for other in others if (told := difference(run, other, inputs))]
    problems += [
        Problem("is given twice", str(path))
        for path in {each.path.resolve() for each in runs}
        if sum(each.path.resolve() == path for each in runs) > 1
    ]
    if problems:
        raise ProblemsError(problems)
    parts = [_pairs_of(each, inputs, say) for each in runs]
    if not others:
        return parts[0]
    try:
        return merged(parts)
    except NothingToLearnError as error:
        raise ProblemsError([Problem(str(error), str(run.path))]) from error


def _pairs_of(run: RunFolder, inputs: Sequence[str], say: Callable[[str], None]) -> Pairs:
    """Make the masks that are missing, and return what there is to learn from."""
    from scotopic.learning.pairs import NothingToLearnError, find_pairs

    segment_run(run.path, say)
    try:
        return find_pairs(run, inputs)
    except NothingToLearnError as error:
        raise ProblemsError([Problem(str(error), str(run.path))]) from error


class _Growth:
    """What a growing plate has to learn from, whenever it is asked; it grows until its last site has masks.

    A process beside makes them.
    """

    def __init__(self, run: RunFolder, inputs: Sequence[str], say: Callable[[str], None]) -> None:
        self._run, self._inputs, self._say = run, inputs, say
        self._pairs: Pairs | None = None
        self._masks = self._begin()

    def _begin(self) -> Command:
        self._begun_s = time.monotonic()
        return Command("segment", self._run.path, self._say, "--reference", "--follow")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._masks.__exit__()

    def first(self) -> Pairs:
        """Wait until there is something to learn from.

        Raises
        ------
        ProblemsError
            If there is nothing, and the plate is complete.
        """
        self._run.write_status("train", state="waiting", message="for the first sites")
        while self._look() and self._pairs is None:
            time.sleep(LOOK_S)
        return self._known()

    def __call__(self) -> tuple[Pairs, bool]:
        """Return what there is by now, and whether more is to come."""
        growing = self._look()
        return self._known(), growing

    def _known(self) -> Pairs:
        if self._pairs is None:
            raise AssertionError("a complete plate has pairs, or `_look` says that there are none")
        return self._pairs

    def _look(self) -> bool:
        """Take in what has come, and return whether more is to come."""
        from scotopic.learning.pairs import NothingToLearnError, find_pairs

        acquired = not self._run.is_locked()  # asked first: what comes after this answer is for the next look
        if self._masks.has_ended:
            if acquired:
                self._pairs = _pairs_of(self._run, self._inputs, self._say)
                return False
            self._masks.__exit__()
            if time.monotonic() - self._begun_s > _BEGUN_AGAIN_S:
                self._masks = self._begin()  # it was killed, or could not go on
        with suppress(NothingToLearnError):  # yet; a damaged file is told
            self._pairs = find_pairs(self._run, self._inputs, growing=True)
        return True


def give_way() -> None:
    """Let other processes, that of the microscope first of all, have the processor before this one."""
    lower = getattr(psutil, "BELOW_NORMAL_PRIORITY_CLASS", _NICE)  # the class is Windows'
    psutil.Process().nice(lower)


def specimen_of(run_path: Path) -> str | None:
    """Return the fingerprint of what lay on a simulated microscope; nothing for a real one."""
    run = opened_run(run_path)
    profile = run.read_profile()
    if profile.simulator is None:
        return None
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.simulator import make_specimen

    return make_specimen(SimulatorSetup.of(profile, run.read_protocol())).fingerprint
