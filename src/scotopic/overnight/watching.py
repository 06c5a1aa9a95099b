"""What people want to be told of a run while nobody looks: read from its folder, like all who only watch."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from scotopic.store import RunFolder
from scotopic.store.run_folder import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EventKind = Literal["model ready", "report ready", "failure", "disk low", "stalled", "drift", "test"]
GOOD: tuple[EventKind, ...] = ("model ready", "report ready")
"""What is no reason to get up at night."""
_STALLED_PERIODS, _STALLED_S = 5, 120.0
"""A run stalls if it finishes no site for so many times the usual time of a site, and for so long at least."""
_HANGS_S = 120.0
_LONG_PAUSE_S = 600.0
"""A pause that somebody has asked for, and may have forgotten."""


@dataclass(frozen=True)
class Event:
    """Something that people want to be told."""

    kind: EventKind
    which: str
    """What tells it from others of its kind, so that it is told once."""
    run: str
    """Name of the run."""
    text: str

    @property
    def key(self) -> str:
        """What it is known by."""
        return f"{self.run} {self.kind} {self.which}"

    @property
    def title(self) -> str:
        """Title of a message."""
        return f"scotopic {self.run}: {self.kind}"


class RunWatch:
    """Looks at the folder of a run now and then, and says what has happened since a time."""

    def __init__(self, path: Path, since: datetime) -> None:
        self._run, self._since = RunFolder(path), since
        self._done, self._changed_s, self._first_s = -1, time.monotonic(), time.monotonic()
        self._first_done = 0
        self._paused_s: float | None = None

    def look(self) -> list[Event]:
        """Return what is to be told; the same thing may be returned again, with the same key."""
        if not self._run.exists:
            return []
        acquire, training = self._run.read_status("acquire"), self._run.read_status("train")
        found = [
            *self._damaged(),
            *self._acquisition(acquire),
            *self._learned(training),
            *self._drifted(),
            *self._report(),
        ]
        return [Event(kind, which, self._run.path.name, text) for kind, which, text in found]

    def _damaged(self) -> Iterator[tuple[EventKind, str, str]]:
        for part in ("acquire", "train", "live"):
            if (status := self._run.read_status(part)).get("state") == UNREADABLE:
                yield "failure", f"status {part}", str(status["message"])

    def _acquisition(self, status: dict[str, Any]) -> Iterator[tuple[EventKind, str, str]]:
        if not status or not self._is_new(status.get("heartbeat")):
            return
        started, done = str(status.get("started")), int(status["sites"]["finished"])
        yield from self._stalled(status, started, done)
        left, free = int(status.get("bytes_left") or 0), self._run.free_bytes()
        if status["state"] != "paused":
            self._paused_s = None
        elif self._paused_s is None:
            self._paused_s = time.monotonic()
        elif time.monotonic() - self._paused_s > _LONG_PAUSE_S:
            yield (
                "stalled",
                f"paused {started}",
                f"the run is paused since more than {_LONG_PAUSE_S / 60:.0f} min: {status['message']}",
            )
        if status["state"] == "paused" and "free on the disk" in str(status["message"]):
            yield "disk low", f"paused {started}", f"the run is paused: {status['message']}"
        elif status["state"] == "running" and left > free:
            told = f"{free / 1e9:.1f} GB are free, and the run may take {left / 1e9:.1f} GB more (before compression)"
            yield "disk low", started, told
        if status.get("wrong_light"):
            told = f"{status['wrong_light']} frames have the wrong light by the images' proof"
            yield "failure", f"wrong light {started}", told
        if self._run.guard_has_acted():
            state = self._run.read_status("guard").get("state")
            yield "failure", f"guard {started}", f"the acquisition died or hung; its guard: {state}"

    def _stalled(self, status: dict[str, Any], started: str, done: int) -> Iterator[tuple[EventKind, str, str]]:
        now = time.monotonic()
        if done != self._done or status["state"] != "running" or status.get("waiting"):
            if self._done < 0:
                self._first_done, self._first_s = done, now
            self._done, self._changed_s = done, now
            return
        sites = done - self._first_done
        usual = (self._changed_s - self._first_s) / sites if sites else 0.0
        if now - self._changed_s > max(_STALLED_PERIODS * usual, _STALLED_S):
            silent = datetime.now(UTC) - datetime.fromisoformat(status["heartbeat"])
            why = (
                f" (its process has not answered for {silent.total_seconds():.0f} s)"
                if silent.total_seconds() > _HANGS_S
                else ""
            )
            told = f"no site was finished for {(now - self._changed_s) / 60:.0f} min, after {done} of {status['sites']['planned']}{why}"
            yield "stalled", f"{started} {done}", told + (f": {status['message']}" if status["message"] else "")

    def _learned(self, status: dict[str, Any]) -> Iterator[tuple[EventKind, str, str]]:
        if status.get("state") == "completed" and status.get("model") and self._is_new(status.get("heartbeat")):
            f1 = ", ".join(f"{value:.3f} at {level}" for level, value in (status.get("f1") or {}).items())
            worse = "" if status.get("promoted", True) else f"; not promoted: {status.get('reason')}"
            yield "model ready", str(status["model"]), f"model {status['model']}, F1 {f1}{worse}"

    def _drifted(self) -> Iterator[tuple[EventKind, str, str]]:
        for alarm in self._run.read_status("live").get("alarms", []):
            yield "drift", str(alarm), str(alarm)

    def _report(self) -> Iterator[tuple[EventKind, str, str]]:
        path = self._run.path / "report.html"
        try:
            written = path.stat().st_mtime
        except OSError:
            return
        if written > self._since.timestamp():
            yield "report ready", str(written), str(path)

    def _is_new(self, heartbeat: object) -> bool:
        return heartbeat is not None and datetime.fromisoformat(str(heartbeat)) >= self._since
