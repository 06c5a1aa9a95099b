"""The training of a run, finished or growing: one loop, readable from top to bottom, that a kill costs a minute at most."""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scotopic.learning.batches import UNEVEN, make_batch
from scotopic.learning.calibration import contrast_camera
from scotopic.learning.checking import LevelCheck, check_levels
from scotopic.learning.checkpoint import read_checkpoint, restore, write_checkpoint
from scotopic.learning.device import DTYPES, chosen_device, faster_dtype
from scotopic.learning.network import STRIDE, NucleusNet, freeze_normalisation, loss
from scotopic.learning.optimizer import Muon
from scotopic.learning.pairs import peak_electrons
from scotopic.learning.prediction import MapMaker
from scotopic.nuclei import Illumination
from scotopic.protocol import ProblemsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from scotopic.learning.curves import Curves
    from scotopic.learning.pairs import LearnedKey, Pairs, TrainingSite
    from scotopic.photons import CameraNoise
    from scotopic.protocol import TrainingSettings
    from scotopic.store import RunFolder

CROPS, CROP_PX = 4, 160
"""Few crops a step: on a processor two steps of four take as long as one of eight, and teach more."""
_LEARNING_RATE, _WEIGHT_DECAY, _WARM_UP_STEPS, _LARGEST_GRADIENT = 3e-3, 1e-4, 100, 1.0
_NORMALISATION_FROZEN = 0.25
"""Share of the budget after which normalisation is that of prediction."""
_CHECKPOINT_S = 60.0
_STATUS_S = 2.0
_LOOK_S = 5.0
"""While a plate grows, between two looks at what has come."""
_POOL_MPX = 60.0
"""Sites held at a time, in megapixels: 1.1 GB with their targets."""
_STEPS_A_SITE = 10
"""Where there are more sites than the pool holds, one is exchanged every so many steps."""
_CHECK_MPX, _FINAL_CHECK_MPX = 1.0, 8.0
"""Validation sites that are checked at each checkpoint, and at the end, in megapixels at most."""
_PEAK_SITES = 24
_OF_A_GROWING_PLATE = 2 / 3
"""Share of the budget that may be used up before the plate is complete: the rest is for all of it."""
_FIRST_OFFER, _NEXT_OFFER, _OFFER_CHECK_MPX = 0.2, 1.5, 2.0
"""While a plate grows a network is offered once it has worked for this share of the budget, and again whenever it has worked so many
times longer; and what it is checked on before, in megapixels at most."""
_TAIL = 0.8
"""Where the learning rate is taken up again when validation no longer improves, as a share of the budget."""
_PATIENCE, _BETTER = 10, 0.002
"""Checks without an F1, mean of all levels, that is better than before by more than noise."""


_EVERY_PX = 8
"""Illumination is smooth: a point in so many pixels tells how uneven it is."""


@dataclass
class Progress:
    """How far a training is."""

    step: int = 0
    """Steps done."""
    spent: float = 0.0
    """Steps or seconds of the budget used up; while the plate grows, no more than its first part."""
    levelled_off: float | None = None
    """What was used up when validation no longer improved; nothing if it still does."""
    seconds: float = 0.0
    """Time trained, checks included; what came between a kill and the next start is left out."""
    offers: int = 0
    """Networks that were offered while the plate grew."""
    checks_before: int = 0
    """Checks that were made while it grew: they say nothing of whether validation still improves."""
    checks: list[dict[str, Any]] = field(default_factory=list)
    """One a checkpoint: `step`, `seconds`, `loss`, and `f1` by light level."""

    def share_done(self, settings: TrainingSettings) -> float:
        """Return how much of the budget is used up, from 0 to 1."""
        if self.levelled_off is not None:  # a quarter more, in which the learning rate falls to nothing
            return _TAIL + (1 - _TAIL) * (self.spent - self.levelled_off) / (0.25 * self.levelled_off)
        return self.spent / _budget(settings)

    def spend(self, amount: float, settings: TrainingSettings, *, growing: bool) -> None:
        """Use up some of the budget; while the plate grows, not beyond its first part."""
        most = max(self.spent, _OF_A_GROWING_PLATE * _budget(settings)) if growing else math.inf
        self.spent = min(self.spent + amount, most)

    def has_one_to_offer(self, settings: TrainingSettings) -> bool:
        """Return whether it has worked long enough for the next offer."""
        worked = self.step if settings.steps else self.seconds
        return worked >= _FIRST_OFFER * _NEXT_OFFER**self.offers * _budget(settings)


Growth = tuple["Pairs", bool]
"""What there is to learn from now, and whether the plate still grows."""


@dataclass(frozen=True)
class Trained:
    """A network at the end of its training, or while its plate still grows."""

    network: NucleusNet
    peak_e: float
    """Photo-electrons of a bright nucleus at full light, which images are normalised by."""
    field_e: float | None
    """Photo-electrons of the bare field at full light where images are in transmitted light; none of fluorescence."""
    checks: dict[str, LevelCheck]
    """Light level -> cut-offs and scores on the validation wells."""
    validation: list[TrainingSite]
    pairs: Pairs
    """What it learned from."""
    progress: Progress
    dtype: str

    @property
    def f1(self) -> dict[str, float]:
        """Light level -> F1 at an IoU of 0.5 on the validation wells."""
        return {level: round(check.f1, 4) for level, check in self.checks.items()}


def train(
    run: RunFolder,
    pairs: Pairs,
    settings: TrainingSettings,
    say: Callable[[str], None],
    *,
    grow: Callable[[], Growth] | None = None,
    offer: Callable[[Trained], object] = lambda _: None,
    curves: Curves | None = None,
) -> Trained:
    """Train on the pairs of a run, from its last checkpoint if there is one, until the budget is used up.

    The same pairs, steps, seed, threads, device and number format give the same weights: all chance of a step follows from
    seed and step. A budget in minutes ends early when validation no longer improves.

    Parameters
    ----------
    run : RunFolder
        Run; `models/checkpoint.safetensors` and `status/train.json` are written.
    pairs : Pairs
        Sites to learn from and to check on.
    settings : TrainingSettings
        Budget, seed, threads, device, number format.
    say : callable
        Takes each line that the user is told.
    grow : callable, optional
        Of a plate that grows: asked every few seconds for what there is by then.
    offer : callable
        Takes the network now and then while the plate grows, for those who segment it live.
    curves : Curves, optional
        Takes loss and scores, for TensorBoard.
    """
    threads = settings.threads or os.cpu_count() or 1
    torch.set_num_threads(threads if grow is None else max(1, threads - 1))  # one core stays with the microscope
    device = chosen_device(settings.device)
    pool = _Pool(run, pairs, settings.seed)
    validation = _loaded(run, pairs, _FINAL_CHECK_MPX)
    progress, dtype = Progress(), str(settings.dtype)
    try:
        saved = read_checkpoint(run.checkpoint_path)
    except ProblemsError as error:
        say(f"warning: {error}")
        saved = None
    if saved is not None and not _goes_on_with(saved[1], pairs, settings):
        saved = None
    some = pool.at(0)[:_PEAK_SITES]
    field_e = saved[1]["field_e"] if saved else _field_electrons(some)
    camera: CameraNoise = run.read_profile().camera
    camera = camera if field_e is None else contrast_camera(camera, field_e)
    peak_e = saved[1]["peak_e"] if saved else peak_electrons(camera, some)

    uneven = unevenness(run, pairs.inputs)

    def begin() -> tuple[NucleusNet, Muon]:
        torch.manual_seed(settings.seed)
        network = NucleusNet().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch knows it
        return network, Muon(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)

    def step(number: int, share_done: float, dtype: str) -> float:
        network.train()
        if share_done > _NORMALISATION_FROZEN:
            freeze_normalisation(network)
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(number, share_done)
        sites = pool.at(number)
        size = min(CROP_PX, *(n // STRIDE * STRIDE for n in sites[0].targets.foreground.shape))
        rng = np.random.default_rng((settings.seed, number))
        batch = make_batch(sites, camera, peak_e, rng, count=CROPS, size=size, uneven=uneven)
        planes, *targets = (torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in batch)
        with torch.autocast(device.type, dtype=DTYPES[dtype], enabled=dtype != "float32"):
            said = network(planes.contiguous(memory_format=torch.channels_last))
        value = loss(said, *targets)
        optimizer.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), _LARGEST_GRADIENT)
        optimizer.step()
        return float(value.detach())

    network, optimizer = begin()
    if saved is not None:
        restore(saved[0], network, optimizer)
        progress, dtype = Progress(**saved[1]["progress"]), saved[1]["dtype"]
        say(f"training goes on at step {progress.step:,}")
    elif dtype == "auto":
        dtype = faster_dtype(lambda name: step(0, 0.0, name), device)
        network, optimizer = begin()

    def save() -> None:
        state = {
            "pairs": _named(pairs),
            "settings": settings.model_dump(mode="json"),
            "peak_e": peak_e,
            "field_e": field_e,
        }
        write_checkpoint(
            run.checkpoint_path, network, optimizer, state | {"dtype": dtype, "progress": asdict(progress)}
        )

    def check(sites: Sequence[TrainingSite], *, final: bool) -> dict[str, LevelCheck]:
        network.eval()
        made = MapMaker(network, camera, peak_e, dtype=dtype, device=device)
        scores = check_levels(made, sites, look_at_emptiness=final)
        progress.checks.append(_check_line(progress, float(np.nanmean(losses)), scores))
        if curves is not None:
            curves.add(progress.checks[-1], _learning_rate(progress.step, progress.share_done(settings)))
        return scores

    def now_trained(sites: list[TrainingSite]) -> Trained:
        checks = check(sites, final=True)
        return Trained(copy.deepcopy(network).cpu(), peak_e, field_e, checks, sites, pairs, copy.copy(progress), dtype)

    growing = grow is not None
    clock = checked_s = looked_s = time.monotonic()
    told_s, losses = -math.inf, [math.nan]
    try:
        while (done := progress.share_done(settings)) < 1:
            losses.append(step(progress.step, done, dtype))
            progress.step += 1
            now = time.monotonic()
            progress.seconds += now - clock
            progress.spend(1 if settings.steps else now - clock, settings, growing=growing)
            clock = now
            if now - told_s >= _STATUS_S:
                told_s = now
                recent = float(np.nanmean(losses[-50:]))
                _write_status(run, "training", progress, settings, dtype=dtype, loss=recent, growing=growing)
            if now - checked_s >= _CHECKPOINT_S:
                check(_within(validation, _CHECK_MPX), final=False)
                losses = losses[-1:]
                now = time.monotonic()
                progress.seconds += now - clock
                progress.spend(0 if settings.steps else now - clock, settings, growing=growing)
                if not growing and settings.steps is None and _has_levelled_off(progress, settings):
                    progress.levelled_off = progress.spent
                    say("validation no longer improves: the learning rate falls, and the training ends")
                save()
                say(_told(progress, settings, growing=growing))
                clock = checked_s = time.monotonic()
            if growing and grow is not None and now - looked_s >= _LOOK_S:
                if progress.has_one_to_offer(settings):
                    progress.offers += 1
                    save()  # first: who finds a model and no checkpoint takes the training for done
                    offer(now_trained(_within(validation, _OFFER_CHECK_MPX)))
                pairs, growing = grow()
                pool.grow(pairs)
                validation = _loaded(run, pairs, _FINAL_CHECK_MPX, validation)
                progress.checks_before = len(progress.checks)
                if not growing:
                    torch.set_num_threads(threads)
                    say(f"no more sites come: {len(pairs.training)} to learn from, {len(pairs.validation)} to check on")
                clock = looked_s = time.monotonic()
    except BaseException:  # no checkpoint here: a step may be half done, and the last one is a minute old at most
        _write_status(run, "interrupted", progress, settings, dtype=dtype)
        raise
    say(
        f"{progress.step:,} steps done; choosing cut-offs on {len(validation)} sites of {_listed(pairs.validation_wells)}"
    )
    return now_trained(validation)


def unevenness(run: RunFolder, inputs: Sequence[str] = ()) -> float:
    """Return how much the light is to vary across a crop: as much as it was measured to do on this microscope, if that is more than usual."""
    protocol, camera = run.read_protocol(), run.read_profile().camera
    source = run.read_profile().light_source(protocol.channel_of(protocol.full_light(protocol.inputs(inputs)[0])))
    if source.illumination is None:
        return UNEVEN
    shape = camera.height_px, camera.width_px
    y, x = np.mgrid[0 : shape[0] : _EVERY_PX, 0 : shape[1] : _EVERY_PX]
    light = Illumination(np.array(source.illumination), shape).at(y, x)
    return max(UNEVEN, float((light.max() - light.min()) / (light.max() + light.min())))


class _Pool:
    """The sites that are learned from, as many at a time as fit; in a growing window over a shuffled order."""

    def __init__(self, run: RunFolder, pairs: Pairs, seed: int) -> None:
        self._run, self._pairs = run, pairs
        keys = list(pairs.training)
        self._order = [keys[i] for i in np.random.default_rng((seed, 1)).permutation(len(keys))]
        self._held: dict[LearnedKey, TrainingSite] = {}
        camera = run.read_profile().camera
        self._most = max(1, int(_POOL_MPX * 1e6 / (camera.width_px * camera.height_px)))

    def grow(self, pairs: Pairs) -> None:
        """Learn from further sites too."""
        self._order += [key for key in pairs.training if key not in self._pairs.training]
        self._pairs = pairs

    def at(self, step: int) -> list[TrainingSite]:
        """Return the sites of a step: which ones follows from the step alone, so that a resumed training has the same."""
        size = len(self._order)
        first = step // _STEPS_A_SITE if size > self._most else 0
        wanted = [self._order[(first + i) % size] for i in range(min(self._most, size))]
        if list(self._held) != wanted:
            held, pairs = self._held, self._pairs
            self._held = {key: held.get(key) or pairs.load(key) for key in wanted}
        return list(self._held.values())


def _field_electrons(sites: Sequence[TrainingSite]) -> float | None:
    """Return the photo-electrons of the bare field at full light; nothing for fluorescence."""
    fields = [site.field_e for site in sites if site.field_e is not None]
    return float(np.median(fields)) if fields else None


def _loaded(run: RunFolder, pairs: Pairs, most_mpx: float, there: Sequence[TrainingSite] = ()) -> list[TrainingSite]:
    """Return validation sites spread evenly over all, as many as allowed; some are there already."""
    camera, frames = run.read_profile().camera, pairs.validation
    keys = sorted(frames)
    count = min(len(keys), max(2, int(most_mpx * 1e6 / (camera.width_px * camera.height_px))))
    chosen = [keys[i] for i in np.linspace(0, len(keys) - 1, count).round().astype(int)]
    known = {site.name: site for site in there}
    return [known.get(pairs.name(key)) or pairs.load(key) for key in chosen]


def _within(sites: Sequence[TrainingSite], most_mpx: float) -> list[TrainingSite]:
    count = max(1, int(most_mpx * 1e6 / sites[0].labels.size))
    return list(sites[:: max(1, -(-len(sites) // count))])


def _goes_on_with(saved: dict[str, Any], pairs: Pairs, settings: TrainingSettings) -> bool:
    """Return whether a checkpoint is of this training: of the same settings, and of sites that are all still there."""
    now, then = _named(pairs), saved["pairs"]
    return saved["settings"] == settings.model_dump(mode="json") and all(
        set(then[part]) <= set(now[part]) for part in now
    )


def _has_levelled_off(progress: Progress, settings: TrainingSettings) -> bool:
    means = [float(np.mean(list(check["f1"].values()))) for check in progress.checks[progress.checks_before :]]
    before, lately = means[:-_PATIENCE], means[-_PATIENCE:]
    return bool(before) and progress.share_done(settings) < _TAIL and max(lately) <= max(before) + _BETTER


def _named(pairs: Pairs) -> dict[str, list[str]]:
    """Return which visit of which site is learned from and checked on, so that a checkpoint fits it or does not."""
    parts = {"training": pairs.training, "validation": pairs.validation}
    return {
        part: [
            f"{_site(pairs, key)} {next(iter(levels.values())).attempt} {sorted(levels)}"
            for key, levels in frames.items()
        ]
        for part, frames in parts.items()
    }


def _site(pairs: Pairs, key: LearnedKey) -> str:
    return f"{pairs.runs[key[0]].path}: {key[1:]}" if key[0] else f"{key[1:]}"


def _learning_rate(step: int, done: float) -> float:
    """Warm up, then fall along a cosine to nothing."""
    return _LEARNING_RATE * min(1.0, (step + 1) / _WARM_UP_STEPS) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _budget(settings: TrainingSettings) -> float:
    """Return the budget, in steps or in seconds."""
    return settings.steps or 60 * settings.minutes


def _check_line(progress: Progress, value: float, checks: dict[str, LevelCheck]) -> dict[str, Any]:
    f1 = {level: round(check.f1, 4) for level, check in checks.items()}
    return {"step": progress.step, "seconds": round(progress.seconds, 1), "loss": round(value, 4), "f1": f1}


def _seconds_left(progress: Progress, settings: TrainingSettings) -> float | None:
    """Return what is left of the budget; of a plate that grows, what is kept for when it is complete at least."""
    if settings.steps is None:
        end = _budget(settings) if progress.levelled_off is None else 1.25 * progress.levelled_off
        return max(0.0, end - progress.spent)
    left = settings.steps - progress.spent
    return progress.seconds / progress.step * left if progress.step else None


def _told(progress: Progress, settings: TrainingSettings, *, growing: bool) -> str:
    """Return one line on how far a training is."""
    check = progress.checks[-1]
    f1 = ", ".join(f"{value:.3f} at {level}" for level, value in check["f1"].items())
    left = _seconds_left(progress, settings) or 0
    time_left = f"{left:.0f} s" if left < 90 else f"{left / 60:.0f} min"
    until = "while the plate grows" if growing else f"{time_left} left"
    return f"step {progress.step:,}, {until}, loss {check['loss']:.3f}; F1 on validation wells {f1}"


def _write_status(run: RunFolder, state: str, progress: Progress, settings: TrainingSettings, **more: Any) -> None:
    left = _seconds_left(progress, settings)
    run.write_status(
        "train",
        state=state,
        images=progress.step * CROPS,
        **asdict(progress),
        seconds_left=None if left is None else round(left, 1),
        settings=settings.model_dump(mode="json"),
        **more,
    )


def _listed(wells: Sequence[str]) -> str:
    return ", ".join(wells[:6]) + (f" and {len(wells) - 6} more" if len(wells) > 6 else "")
