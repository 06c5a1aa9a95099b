"""The worker: a process of its own, with torch in it, that segments the images which the microscope's process hands over."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from scotopic.live.messages import Compared, Done, Job, Ready, Setup, Slots
from scotopic.nuclei import (
    SPLIT_DNA_CONTENT,
    NoFitError,
    fit_cell_cycle,
    judge,
    matching,
    measure,
    reference_segmentation,
)
from scotopic.protocol import ProblemsError
from scotopic.reference import origin_um, placed
from scotopic.store import LIVE, LiveRecord, RunFolder, live_labels

if TYPE_CHECKING:
    from multiprocessing.connection import Connection
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.learning.prediction import Predictor
    from scotopic.store import FrameRecord

_IMPLAUSIBLE = {"saturated", "overfull", "implausible sizes", "implausible shapes", "unsplit clumps"}
"""What the quality gate can say of a dark image: focus and even light do not show there."""
_LOOK_FOR_A_MODEL_S = 2.0
_NUCLEI_KEPT = 2000
_ENOUGH_FOR_G1, _MORE_FOR_G1 = 300, 1.5
"""The DNA of G1 is looked for when there are so many nuclei, and again whenever there are so many times more."""
log = logging.getLogger(__name__)


def work(setup: Setup, slots: Slots, jobs: Connection, results: Connection) -> None:
    """Work until the other end of `jobs` is closed: with the process that drives the microscope, this one ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the other process's to understand
    from scotopic.learning.device import use_threads

    use_threads(max(1, (os.cpu_count() or 1) - 1))  # one core stays with the microscope
    worker = _Worker(setup)
    worker.look_for_a_model()
    results.send(worker.ready)
    try:
        while True:
            if not jobs.poll(0) and worker.use_a_quiet_moment(results):
                continue
            if not jobs.poll(_LOOK_FOR_A_MODEL_S):
                continue
            job: Job | None = jobs.recv()
            if job is None:
                while worker.use_a_quiet_moment(results):
                    pass
                results.send(None)
                return
            results.send(worker.do(job, slots[job.slot]))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


@dataclass
class _Visit:
    """What was found at the site that is being imaged."""

    key: tuple[Any, ...] = ()
    labels: dict[str, NDArray[Any]] = field(default_factory=dict)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)


@dataclass(frozen=True)
class _Sentinel:
    record: FrameRecord
    image: NDArray[np.uint16]
    labels: dict[str, NDArray[Any]]
    model: str


class _Worker:
    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._run = RunFolder(setup.run_path)
        self._protocol, self._profile = self._run.read_protocol(), self._run.read_profile()
        self._plate = self._run.plate(self._protocol, self._profile)
        self._maps = self._run.camera_maps()
        self._order = [level.name for level in self._protocol.light_levels]
        self._run.nuclei.folder(LIVE).mkdir(parents=True, exist_ok=True)
        self._predictor: Predictor | None = None
        self._model, self._full_light_ms = "", 1.0
        self._no_model = "there is none yet"
        self._looked_s = -_LOOK_FOR_A_MODEL_S
        self._visit = _Visit()
        self._waiting: deque[_Sentinel] = deque()
        self._dna: dict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_NUCLEI_KEPT))
        self._g1: dict[str, tuple[float, int]] = {}
        """Light level -> DNA of G1, and of how many nuclei it was found."""

    @property
    def ready(self) -> Ready:
        return Ready(self._model, self._predictor.computes_in if self._predictor else "")

    # ------------------------------------------------------------------ the model

    def look_for_a_model(self) -> bool:
        """Take the given model, or the run's latest, if it is another one than before; return whether it is.

        One that cannot be read leaves things as they are: what was used before goes on, and the images say why if there is none.
        """
        from scotopic.learning.model import model_hash

        self._looked_s = time.monotonic()
        try:
            path = self._setup.model_path or self._run.latest_model()
            if path is None or model_hash(path) == self._model:
                return False
            self._take(path)
        except (ProblemsError, OSError, ValueError, KeyError, RuntimeError) as error:
            told = " ".join(f"it cannot be used: {error}".split())
            if told != self._no_model:  # it is looked for again every few seconds, all night
                log.warning("the latest model: %s", told)
            self._no_model = told
            return False
        return True

    def _take(self, path: Path) -> None:
        from scotopic.learning.model import Model
        from scotopic.learning.prediction import Predictor

        model, training = Model.load(path), self._protocol.training
        if why := model.card.misfit(model.card.pixel_size_um, least_f1=training.least_f1):
            raise ValueError(f"{path.name} {why}")
        predictor = Predictor(
            model,
            self._profile.camera.noise,
            dtype=None if training.dtype == "auto" else training.dtype,
            device=training.device,
        )
        predictor.warm_up(self._setup.shape)
        self._predictor, self._model = predictor, model.hash
        card = model.card
        self._full_light_ms = self._profile.signal_ms(
            card.channel, card.reference_exposure_ms, card.reference_led_percent
        )
        log.debug("model %s", self._model)

    # ------------------------------------------------------------------ images

    def do(self, job: Job, image: NDArray[np.uint16]) -> Done:
        """Segment an image; whatever goes wrong with it is told, and the next one may fare better."""
        record = job.record
        key = record.well, record.site, record.t, record.attempt
        if self._visit.key != key:
            self._visit = _Visit(key)
            if time.monotonic() - self._looked_s >= _LOOK_FOR_A_MODEL_S:
                self.look_for_a_model()  # between two sites
        if self._maps is not None:
            image = self._maps.corrected(image, self._profile.camera.noise)
        if job.is_reference:
            if self._visit.labels:
                self._waiting.append(_Sentinel(record, image.copy(), dict(self._visit.labels), self._model))
            return Done(job.number)
        try:
            found = self._segmented(record, image)
        except Exception as error:  # torch and zarr raise what they like
            log.exception("an image could not be segmented")
            told = " ".join(f"{type(error).__name__}: {error}".split())
            found = LiveRecord.of(record, state="failed", reason=told, model=self._model)
        return Done(job.number, (found,))

    def _segmented(self, record: FrameRecord, image: NDArray[np.uint16]) -> LiveRecord:
        if self._predictor is None:
            return LiveRecord.of(record, state="no model", reason=self._no_model)
        camera = self._profile.camera
        dose = record.signal_dose_ms / self._full_light_ms
        prediction = self._predictor(image, dose)
        labels = prediction.labels
        origin = origin_um(record, camera)
        nuclei = measure(labels, image, pixel_size_um=camera.pixel_size_um, origin_um=origin, camera=camera)
        group = live_labels(self._order.index(record.level))
        self._plate.write_labels(record.well, record.site, group, record.t, record.z, labels)
        self._visit.labels[record.level] = labels
        self._visit.tables[record.level] = placed(nuclei.assign(score=prediction.scores), record, dose)
        table = pd.concat(self._visit.tables.values(), ignore_index=True)
        self._run.nuclei.write(LIVE, *record.site_key, table)
        whole = nuclei[~nuclei["touches_border"]]
        self._dna[record.level].extend(whole["integrated_intensity_e"])
        return LiveRecord.of(
            record,
            state="segmented",
            reason="; ".join(self._doubts(labels, image, nuclei)),
            model=self._model,
            nuclei=len(nuclei),
            whole_nuclei=len(whole),
            g2_percent=self._g2_percent(record.level, whole),
            confidence=round(float(np.median(prediction.scores)), 4) if len(nuclei) else None,
        )

    def _doubts(self, labels: NDArray[Any], image: NDArray[Any], nuclei: pd.DataFrame) -> list[str]:
        live = self._protocol.live
        if live is None or not live.rules.retakes:
            return []
        return [
            reason
            for reason in judge(labels, image, nuclei, self._protocol.nuclei.quality).reasons
            if reason in _IMPLAUSIBLE
        ]

    def _g2_percent(self, level: str, whole: pd.DataFrame) -> float | None:
        if level not in self._g1 or not len(whole):
            return None
        content = whole["integrated_intensity_e"] / self._g1[level][0]
        return round(100 * float((content > SPLIT_DNA_CONTENT).mean()), 2)

    # ------------------------------------------------------------------ while no image waits

    def use_a_quiet_moment(self, results: Connection) -> bool:
        """Compare a sentinel, find the DNA of G1, or look for a model; return whether there was anything to do."""
        if self._waiting:
            results.send(Compared(tuple(self._compared(self._waiting.popleft()))))
            return True
        if self._find_g1():
            return True
        if time.monotonic() - self._looked_s >= _LOOK_FOR_A_MODEL_S and self.look_for_a_model():
            results.send(self.ready)
            return True
        return False

    def _compared(self, sentinel: _Sentinel) -> list[LiveRecord]:
        settings, size = self._protocol.nuclei.segmentation, self._profile.camera.pixel_size_um
        reference = reference_segmentation(sentinel.image, pixel_size_um=size, settings=settings)
        records = []
        for level, labels in sentinel.labels.items():
            half = matching(reference, labels).at(0.5)
            record = sentinel.record.model_copy(update={"level": level})
            figures = {"nuclei": half.n_pred, "reference_nuclei": half.n_true, "matched": half.tp}
            records.append(
                LiveRecord.of(record, state="compared", model=sentinel.model, f1=round(half.f1, 4), **figures)
            )
        return records

    def _find_g1(self) -> bool:
        for level, dna in self._dna.items():
            known = self._g1.get(level, (0.0, 0))[1]
            if len(dna) >= max(_ENOUGH_FOR_G1, _MORE_FOR_G1 * known):
                try:
                    g1 = fit_cell_cycle(np.array(dna)).g1_intensity
                except NoFitError:
                    g1 = self._g1.get(level, (float("inf"), 0))[0]
                if np.isfinite(g1):
                    self._g1[level] = g1, len(dna)
                else:
                    dna.clear()  # two peaks may be seen among other nuclei
                return True
        return False
