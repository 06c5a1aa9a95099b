"""The hook on a running acquisition: it hands dark images to the worker, and decides by what comes back."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time
from collections import Counter, defaultdict
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.live.messages import Compared, Done, Job, Ready, Setup, Slots
from scotopic.live.rules import decide, enough
from scotopic.live.sentinels import drift
from scotopic.live.worker import work
from scotopic.microscope.director import AsPlanned, Decision
from scotopic.store import LiveRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.process import BaseProcess
    from pathlib import Path
    from typing import Self

    from numpy.typing import NDArray

    from scotopic.microscope.director import Place
    from scotopic.protocol import ImagingProtocol, LightLevel, MicroscopeProfile
    from scotopic.store import FrameRecord, RunFolder

_WARM_S, _END_S = 180.0, 60.0
"""Longest waits for a worker that begins, and for the images that it still has at the end."""
_STATUS_S = 2.0
_MOST_RESTARTS = 20
_LATENCIES = 1000
log = logging.getLogger(__name__)


class LiveHook:
    """Decides for the engine (`Director`), by what a worker process sees in the dark images.

    `frame` copies an image into shared memory and returns; everything else happens in the worker, and in a thread here that
    takes its results. Nothing that goes wrong with either stops an acquisition.
    """

    def __init__(
        self,
        run: RunFolder,
        protocol: ImagingProtocol,
        profile: MicroscopeProfile,
        model: Path | None,
        *,
        on_record: Callable[[LiveRecord], None] = lambda _: None,
    ) -> None:
        """Prepare; `with` starts the worker, and waits until it is warm.

        Parameters
        ----------
        model : Path, optional
            Model file; without it the latest of the run, whichever that is at the time.
        on_record : callable
            Told each record, in a thread of the hook.
        """
        if protocol.live is None:
            raise ValueError("the protocol has no section `live`")
        self._run, self._protocol, self._live = run, protocol, protocol.live
        self._planned = AsPlanned(protocol)
        self._levels = {level.name: level for level in protocol.light_levels}
        shape = profile.camera.height_px, profile.camera.width_px
        self._setup = Setup(run.path.absolute(), model, shape)
        self._context = multiprocessing.get_context("spawn")
        self._slots = Slots(self._context, self._live.queue, shape)
        self._on_record = on_record
        self._news = threading.Condition()
        self._free = list(range(len(self._slots)))
        self._waiting: dict[int, tuple[Job, float]] = {}
        self._number = 0
        self._seen: dict[tuple[Any, ...], dict[str, LiveRecord]] = defaultdict(dict)
        """Visit -> light level -> what was found, of this acquisition."""
        self._in_wells: dict[tuple[str, int], dict[int, int]] = defaultdict(dict)
        """Well and time point -> site -> nuclei."""
        self._compared: dict[str, list[LiveRecord]] = defaultdict(list)
        self._decided: dict[tuple[Any, ...], Decision] = {}
        self._retaken: Counter[tuple[str, int, int]] = Counter()
        self._raised: LightLevel | None = None
        self._counts: Counter[str] = Counter()
        self._latencies: list[float] = []
        self._ready: Ready | None = None
        self._errors: list[str] = []
        self._alarms: list[str] = []
        self._dropped: list[LiveRecord] = []
        self._is_closing = False
        self._told_s = 0.0
        for record in run.live.read():
            self._remember(record)
            if record.state == "compared":  # what sentinels have asked for holds over interruptions
                self._drifted(record.level)

    # ------------------------------------------------------------------ the worker

    def __enter__(self) -> Self:
        self._run.live.cut_torn_line()
        self._open_pipes()
        self._start()
        self._thread = threading.Thread(target=self._listen, name="live", daemon=True)
        self._thread.start()
        with self._news:
            if not self._news.wait_for(lambda: self._ready is not None or self._gave_up, _WARM_S):
                log.warning("the live segmentation is not ready after %.0f s; the acquisition goes on", _WARM_S)
        return self

    def __exit__(self, *_: object) -> None:
        """Wait for what is still being segmented, and end the worker."""
        self._is_closing = True
        self._send(None)
        self._thread.join(_END_S)
        if self._process.is_alive():
            self._process.kill()
        self._process.join()
        self._lose_what_waits("the acquisition had ended")
        self._write_dropped()
        self._write_status("completed")

    @property
    def _gave_up(self) -> bool:
        return self._counts["restarts"] > _MOST_RESTARTS

    def _open_pipes(self) -> None:
        self._their_jobs, self._jobs = self._context.Pipe(duplex=False)
        self._results, self._their_results = self._context.Pipe(duplex=False)

    def _start(self) -> None:
        arguments = (self._setup, self._slots, self._their_jobs, self._their_results)
        self._process: BaseProcess = self._context.Process(target=work, args=arguments, name="live", daemon=True)
        self._process.start()
        self._their_jobs.close()
        self._their_results.close()

    def _listen(self) -> None:
        """Take what the worker says, and start another one where it ends too early."""
        while True:
            try:
                ready = wait([self._results, self._process.sentinel], timeout=_STATUS_S)
                if self._results in ready:
                    if not self._take(self._results):
                        return
                elif ready and not self._worker_ended():
                    return
                self._write_dropped()
                self._write_status("running")
            except Exception as error:
                log.exception("the acquisition goes on, but not all of what was seen live could be noted")
                self._errors.append(str(error))

    def _take(self, results: Connection) -> bool:
        """Take one message; return whether more may come."""
        try:
            message = results.recv()
        except (EOFError, OSError):
            return self._worker_ended()
        now = time.perf_counter()
        if message is None:
            return False
        if isinstance(message, Ready):
            with self._news:
                self._ready = message
                self._news.notify_all()
            return True
        records: tuple[LiveRecord, ...] = message.records
        if isinstance(message, Done):
            with self._news:
                job, since = self._waiting.pop(message.number)
                self._free.append(job.slot)
                latency = round(1000 * (now - since), 1)
                records = tuple(record.model_copy(update={"latency_ms": latency}) for record in records)
                self._latencies = [*self._latencies[-_LATENCIES:], *(latency for _ in records)]
                for record in records:
                    self._remember(record)
                self._news.notify_all()
        elif isinstance(message, Compared):
            for record in records:
                self._remember(record)
                self._watch(record.level)
        self._note(records)
        return True

    def _worker_ended(self) -> bool:
        """Note what was lost with a worker, and start another; return whether there is one."""
        self._process.join()
        told = f"the worker ended with exit code {self._process.exitcode}"
        if self._is_closing:
            return False
        log.warning("live segmentation: %s; another one begins, the acquisition goes on", told)
        self._errors.append(told)
        self._counts["restarts"] += 1
        with self._news:  # what is handed over from here on is for the next worker, and no longer lost with this one
            lost = self._taken_back()
            self._jobs.close()
            self._results.close()
            self._open_pipes()
        self._note([LiveRecord.of(job.record, state="lost", reason=told) for job in lost])
        if self._gave_up:
            log.warning("live segmentation: no more workers are begun")
            with self._news:
                self._news.notify_all()
            return False
        self._start()
        return True

    def _lose_what_waits(self, why: str) -> None:
        with self._news:
            lost = self._taken_back()
        self._note([LiveRecord.of(job.record, state="lost", reason=why) for job in lost])

    def _taken_back(self) -> list[Job]:
        """Take back all images that wait, and their slots; with the lock held."""
        lost = [job for job, _ in self._waiting.values()]
        self._waiting.clear()
        self._free = list(range(len(self._slots)))
        self._news.notify_all()
        return lost

    def _send(self, job: Job | None) -> bool:
        try:
            self._jobs.send(job)
        except OSError:  # the worker has just ended: the thread will see
            return False
        return True

    # ------------------------------------------------------------------ what the engine asks and tells

    def frame(self, place: Place, record: FrameRecord, image: NDArray[Any]) -> None:
        """Hand an image to the worker, if it is one to be segmented or compared with: one copy, no wait."""
        is_reference = record.level == self._protocol.reference.name
        if is_reference and not self._protocol.is_sentinel(place.number, place.t):
            return
        if not is_reference and record.level not in self._protocol.live_levels:
            return
        since = time.perf_counter()
        with self._news:
            if self._gave_up or not self._free:
                why = "no worker" if self._gave_up else f"{len(self._slots)} images were waiting already"
                self._dropped.append(LiveRecord.of(record, state="dropped", reason=why))
                return
            slot = self._free.pop()
            self._number += 1
            job = Job(self._number, slot, record, is_reference)
            self._waiting[job.number] = job, since
            # With the lock held: a worker that ends meanwhile must not have the slot given away under the image.
            np.copyto(self._slots[slot], image)
            self._send(job)

    def site(self, place: Place) -> str:
        """Leave out the sites of a well in which enough nuclei were found."""
        rules, (well, _, t) = self._live.rules, place.key
        if rules.enough_nuclei is None or self._protocol.is_beyond_rules(well):
            return ""
        with self._news:
            self._news.wait_for(lambda: not self._is_awaited(well), rules.wait_s)
            return enough(rules, well, sum(self._in_wells[well, t].values()))

    def level(self, place: Place, level: LightLevel) -> Decision:
        """Decide on an image by what was seen at this site; once for all planes of it."""
        key = (*place.key, place.attempt, level.name)
        if key not in self._decided:
            self._decided[key] = self._decision(place, level)
        return self._decided[key]

    def _decision(self, place: Place, level: LightLevel) -> Decision:
        if self._protocol.is_beyond_rules(place.key[0]):
            return self._planned.level(place, level)
        planned = self._raised_or(level, self._planned.level(place, level))
        rules = self._live.rules
        if not rules.any:
            return planned
        seen = self._last_seen(place, rules.wait_s)
        if seen is None:
            if not planned.taken and level.taken == "when_unsure" and not (self._ready and self._ready.model):
                return Decision(False, "no model yet: no rule could ask for it")
            return planned
        is_sentinel = self._protocol.is_sentinel(place.number, place.t)
        retaken = self._retaken[place.key]
        decision = decide(rules, level, planned, seen, is_sentinel=is_sentinel, retaken=retaken)
        self._retaken[place.key] += decision.anew
        return decision

    def _raised_or(self, level: LightLevel, planned: Decision) -> Decision:
        """Where sentinels have asked for more light, take that level instead of the dimmer ones."""
        raised = self._raised
        if raised is None or level.role == "reference":
            return planned
        if level.name == raised.name:
            return Decision(True, "the sentinels asked for it")
        return (
            Decision(False, f"the sentinels asked for {raised.name}")
            if level.nominal_dose < raised.nominal_dose
            else planned
        )

    def _last_seen(self, place: Place, wait_s: float) -> LiveRecord | None:
        """Return what was found in the last dark image of this visit; nothing if it is not known in time."""
        visit = (*place.key, place.attempt)

        def awaited() -> bool:
            return any(
                (*job.record.site_key, job.record.attempt) == visit and not job.is_reference
                for job, _ in self._waiting.values()
            )

        with self._news:
            if not self._news.wait_for(lambda: not awaited(), wait_s):
                self._counts["too late to decide"] += 1
                return None
            found = [record for record in self._seen.get(visit, {}).values() if record.state == "segmented"]
        return found[-1] if found else None

    def _is_awaited(self, well: str) -> bool:
        return any(job.record.well == well and not job.is_reference for job, _ in self._waiting.values())

    # ------------------------------------------------------------------ what is known

    def _remember(self, record: LiveRecord) -> None:
        if record.state == "compared":
            self._compared[record.level].append(record)
            return
        visit = self._seen[record.key]
        visit[record.level] = record
        if record.nuclei is not None:
            self._in_wells[record.well, record.t][record.site] = max((each.nuclei or 0) for each in visit.values())

    def _watch(self, level: str) -> None:
        """Hold the last sentinels of a level against their tolerances, and say or do what the protocol wants."""
        if not (alarm := self._drifted(level)):
            return
        if self._live.sentinels and self._live.sentinels.then == "pause":
            self._run.ask("pause")
            alarm += "; paused before the next site, `scotopic ask RUN resume` goes on"
        log.warning("%s", alarm)

    def _drifted(self, level: str) -> str:
        """Return what the last sentinels of a level say that is beyond tolerance; the light is raised, if that is wanted."""
        sentinels = self._live.sentinels
        if sentinels is None or not (told := drift(self._compared[level], sentinels)):
            return ""
        self._compared[level].clear()  # what is done about it begins anew
        self._alarms.append(f"sentinels at {level}: {told}")
        if sentinels.then == "brighter":
            self._raise_light(level)
        return self._alarms[-1]

    def _raise_light(self, level: str) -> None:
        dose = self._levels[level].nominal_dose
        brighter = [each for each in self._levels.values() if each.taken == "when_unsure" and each.nominal_dose > dose]
        if not brighter:
            log.warning("sentinels: there is no brighter level to take instead of %s", level)
            return
        self._raised = min(brighter, key=lambda each: each.nominal_dose)
        log.warning("sentinels: %s is taken instead of dimmer levels from now on", self._raised.name)

    def _note(self, records: tuple[LiveRecord, ...] | list[LiveRecord]) -> None:
        """Write records, in the hook's thread alone."""
        if not records:
            return
        self._run.live.append(records, sync=False)
        for record in records:
            self._counts[record.state] += 1
            if record.state == "failed":
                self._errors.append(record.reason)
            self._on_record(record)

    def _write_dropped(self) -> None:
        with self._news:
            dropped, self._dropped = self._dropped, []
        self._note(dropped)

    def summary(self) -> dict[str, Any]:
        """Return counts, latency in milliseconds, and what went wrong: what `status/live.json` says."""
        latency = np.percentile(self._latencies, [50, 95]).round(1).tolist() if self._latencies else [None, None]
        return {
            "model": self._ready.model if self._ready else "",
            "computes_in": self._ready.computes_in if self._ready else "",
            "images": {state: self._counts[state] for state in ("segmented", "dropped", "lost", "failed", "no model")},
            "sentinels_compared": self._counts["compared"],
            "too_late_to_decide": self._counts["too late to decide"],
            "restarts": self._counts["restarts"],
            "latency_ms": {"median": latency[0], "percentile_95": latency[1]},
            "waiting": len(self._waiting),
            "alarms": self._alarms[-20:],
            "errors": self._errors[-20:],
        }

    def _write_status(self, state: str) -> None:
        now = time.monotonic()
        if state == "running" and now - self._told_s < _STATUS_S:
            return
        self._told_s = now
        self._run.write_status("live", state=state, **self.summary())
