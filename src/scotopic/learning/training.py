"""The training of a run: one loop, readable from top to bottom, that a kill costs a minute at most."""

from __future__ import annotations

import math
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scotopic.learning.batches import make_batch
from scotopic.learning.checking import LevelCheck, check_levels
from scotopic.learning.checkpoint import read_checkpoint, restore, write_checkpoint
from scotopic.learning.network import STRIDE, NucleusNet, freeze_normalisation, loss
from scotopic.learning.optimizer import Muon
from scotopic.learning.pairs import load_site, peak_electrons
from scotopic.learning.prediction import DTYPES, MapMaker

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scotopic.learning.pairs import Pairs, TrainingSite
    from scotopic.protocol import TrainingSettings
    from scotopic.reference import Frames, SiteKey
    from scotopic.store import RunFolder

_CROPS, _CROP_PX = 4, 160
"""Few crops a step: on a processor two steps of four take as long as one of eight, and teach more."""
_LEARNING_RATE, _WEIGHT_DECAY, _WARM_UP_STEPS, _LARGEST_GRADIENT = 3e-3, 1e-4, 100, 1.0
_NORMALISATION_FROZEN = 0.25
"""Share of the budget after which normalisation is that of prediction."""
_CHECKPOINT_S = 60.0
_STATUS_S = 2.0
_POOL_MPX = 60.0
"""Sites held at a time, in megapixels: 1.1 GB with their targets."""
_STEPS_A_SITE = 10
"""Where there are more sites than the pool holds, one is exchanged every so many steps."""
_CHECK_MPX, _FINAL_CHECK_MPX = 1.0, 8.0
"""Validation sites that are checked at each checkpoint, and at the end, in megapixels at most."""
_PEAK_SITES = 24
_TIMED_STEPS = 2


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    """Steps done."""
    seconds: float = 0.0
    """Time trained, checks included; what came between a kill and the next start is left out."""
    checks: list[dict[str, Any]] = field(default_factory=list)
    """One a checkpoint: `step`, `seconds`, `loss`, and `f1` by light level."""


@dataclass(frozen=True)
class Trained:
    """A network at the end of its training."""

    network: NucleusNet
    peak_e: float
    """Photo-electrons of a bright nucleus at full light, which images are normalised by."""
    checks: dict[str, LevelCheck]
    """Light level -> cut-offs and scores on the validation wells."""
    validation: list[TrainingSite]
    progress: Progress
    dtype: str


def train(run: RunFolder, pairs: Pairs, settings: TrainingSettings, say: Callable[[str], None]) -> Trained:
    """Train on the pairs of a run, from its last checkpoint if there is one, until the budget is used up.

    The same pairs, steps, seed, threads and number format give the same weights: all chance of a step follows from seed
    and step.

    Parameters
    ----------
    run : RunFolder
        Run; `models/checkpoint.safetensors` and `status/train.json` are written.
    pairs : Pairs
        Sites to learn from and to check on.
    settings : TrainingSettings
        Budget, seed, threads, number format.
    say : callable
        Takes each line that the user is told.
    """
    torch.set_num_threads(settings.threads or os.cpu_count() or 1)
    camera = run.read_profile().camera
    pool = _Pool(run, pairs.training, settings.seed)
    validation = _loaded(run, pairs.validation, _FINAL_CHECK_MPX)
    peak_e = peak_electrons(run, pool.at(0)[:_PEAK_SITES])
    torch.manual_seed(settings.seed)
    network = NucleusNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch knows it
    optimizer = Muon(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    identity = {"pairs": _named(pairs), "settings": settings.model_dump(mode="json")}
    progress, dtype = Progress(), str(settings.dtype)
    if (saved := read_checkpoint(run.checkpoint_path)) is not None and saved[1]["identity"] == identity:
        restore(saved[0], network, optimizer)
        progress, dtype = Progress(**saved[1]["progress"]), saved[1]["dtype"]
        say(f"training goes on at step {progress.step:,}")

    def step(number: int, share_done: float, dtype: str) -> float:
        network.train()
        if share_done > _NORMALISATION_FROZEN:
            freeze_normalisation(network)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(number, share_done)
        sites = pool.at(number)
        size = min(_CROP_PX, *(n // STRIDE * STRIDE for n in sites[0].targets.foreground.shape))
        rng = np.random.default_rng((settings.seed, number))
        batch = make_batch(sites, camera, peak_e, rng, count=_CROPS, size=size)
        planes, *targets = (torch.from_numpy(np.ascontiguousarray(part)) for part in batch)
        with torch.autocast("cpu", dtype=DTYPES[dtype], enabled=dtype != "float32"):
            said = network(planes.contiguous(memory_format=torch.channels_last))
        value = loss(said, *targets)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        return float(value.detach())

    if dtype == "auto":
        dtype = _faster(lambda name: step(0, 0.0, name))
        torch.manual_seed(settings.seed)
        network.load_state_dict(NucleusNet().state_dict())
        optimizer = Muon(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    began = time.monotonic() - progress.seconds
    checked_s, told_s, losses = progress.seconds, -math.inf, [math.nan]
    some = _within(validation, _CHECK_MPX)

    def save() -> None:
        state = {"identity": identity, "dtype": dtype, "progress": asdict(progress)}
        write_checkpoint(run.checkpoint_path, network, optimizer, state)

    try:
        while (done := _share_done(settings, progress)) < 1:
            losses.append(step(progress.step, done, dtype))
            progress.step += 1
            progress.seconds = time.monotonic() - began
            if progress.seconds - told_s >= _STATUS_S:
                told_s = progress.seconds
                _write_status(run, "training", progress, settings, dtype=dtype, loss=float(np.nanmean(losses[-50:])))
            if progress.seconds - checked_s >= _CHECKPOINT_S:
                network.eval()
                made = MapMaker(network, camera, peak_e, dtype=dtype)
                scores = check_levels(made, some, look_at_emptiness=False)
                progress.seconds = checked_s = time.monotonic() - began
                progress.checks.append(_check_line(progress, float(np.nanmean(losses)), scores))
                losses = losses[-1:]
                save()
                say(_told(progress, settings))
    except BaseException:  # no checkpoint here: a step may be half done, and the last one is a minute old at most
        _write_status(run, "interrupted", progress, settings, dtype=dtype)
        raise
    say(
        f"{progress.step:,} steps done; choosing cut-offs on {len(validation)} sites of {_listed(pairs.validation_wells)}"
    )
    network.eval()
    checks = check_levels(MapMaker(network, camera, peak_e, dtype=dtype), validation)
    progress.checks.append(_check_line(progress, float(np.nanmean(losses)), checks))
    return Trained(network, peak_e, checks, validation, progress, dtype)


class _Pool:
    """The sites that are learned from, as many at a time as fit; in a growing window over a shuffled order."""

    def __init__(self, run: RunFolder, frames: dict[SiteKey, Frames], seed: int) -> None:
        self._run, self._frames = run, frames
        keys = list(frames)
        self._order = [keys[i] for i in np.random.default_rng((seed, 1)).permutation(len(keys))]
        self._held: dict[SiteKey, TrainingSite] = {}
        camera = run.read_profile().camera
        self._most = max(1, int(_POOL_MPX * 1e6 / (camera.width_px * camera.height_px)))

    def at(self, step: int) -> list[TrainingSite]:
        """Return the sites of a step: which ones follows from the step alone, so that a resumed training has the same."""
        size = len(self._order)
        first = step // _STEPS_A_SITE if size > self._most else 0
        wanted = [self._order[(first + i) % size] for i in range(min(self._most, size))]
        if list(self._held) != wanted:
            held = self._held
            self._held = {key: held.get(key) or load_site(self._run, key, self._frames[key]) for key in wanted}
        return list(self._held.values())


def _loaded(run: RunFolder, frames: dict[SiteKey, Frames], most_mpx: float) -> list[TrainingSite]:
    """Return sites spread evenly over those given, as many as allowed."""
    camera = run.read_profile().camera
    keys = sorted(frames)
    count = min(len(keys), max(2, int(most_mpx * 1e6 / (camera.width_px * camera.height_px))))
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, count).round().astype(int)]
    return [load_site(run, key, frames[key]) for key in chosen]


def _within(sites: Sequence[TrainingSite], most_mpx: float) -> list[TrainingSite]:
    count = max(1, int(most_mpx * 1e6 / sites[0].labels.size))
    return list(sites[:: max(1, -(-len(sites) // count))])


def _named(pairs: Pairs) -> dict[str, list[str]]:
    """Return which visit of which site is learned from and checked on, so that a checkpoint fits it or does not."""
    parts = {"training": pairs.training, "validation": pairs.validation}
    return {
        part: [f"{key} {next(iter(levels.values())).attempt} {sorted(levels)}" for key, levels in frames.items()]
        for part, frames in parts.items()
    }


def _learning_rate(step: int, done: float) -> float:
    """Warm up, then fall along a cosine to nothing."""
    return _LEARNING_RATE * min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _share_done(settings: TrainingSettings, progress: Progress) -> float:
    if settings.steps is not None:
        return progress.step / settings.steps
    return progress.seconds / (60 * settings.minutes)


def _faster(step: Callable[[str], object]) -> str:
    """Time both number formats: many processors emulate bfloat16, ten times slower."""
    seconds = {}
    for name in DTYPES:
        step(name)
        begun = time.perf_counter()
        for _ in range(_TIMED_STEPS):
            step(name)
        seconds[name] = time.perf_counter() - begun
    return min(seconds, key=lambda name: seconds[name])


def _check_line(progress: Progress, value: float, checks: dict[str, LevelCheck]) -> dict[str, Any]:
    f1 = {level: round(check.f1, 4) for level, check in checks.items()}
    return {"step": progress.step, "seconds": round(progress.seconds, 1), "loss": round(value, 4), "f1": f1}


def _seconds_left(progress: Progress, settings: TrainingSettings) -> float | None:
    done = _share_done(settings, progress)
    return progress.seconds * (1 - done) / done if done else None


def _told(progress: Progress, settings: TrainingSettings) -> str:
    """Return one line on how far a training is."""
    check = progress.checks[-1]
    f1 = ", ".join(f"{value:.3f} at {level}" for level, value in check["f1"].items())
    left = _seconds_left(progress, settings) or 0
    time_left = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
    return f"step {progress.step:,}, {time_left} left, loss {check['loss']:.3f}; F1 on validation wells {f1}"


def _write_status(run: RunFolder, state: str, progress: Progress, settings: TrainingSettings, **more: Any) -> None:
    left = _seconds_left(progress, settings)
    run.write_status(
        "train",
        state=state,
        **asdict(progress),
        seconds_left=None if left is None else round(left, 1),
        settings=settings.model_dump(mode="json"),
        **more,
    )


def _listed(wells: Sequence[str]) -> str:
    return ", ".join(wells[:6]) + (f" and {len(wells) - 6} more" if len(wells) > 6 else "")
