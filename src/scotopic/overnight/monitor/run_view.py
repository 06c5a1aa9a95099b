"""A run as its folder shows it: read piece by piece, so that a long run costs no more at its end than at its beginning."""

from __future__ import annotations

import io
import time
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import imageio.v3 as iio
from pydantic_core import from_json, to_json

from scotopic.overnight.monitor.access import is_inside
from scotopic.photons import FrozenModel
from scotopic.pictures import overlay
from scotopic.protocol import Problem, ProblemsError
from scotopic.reference import REFERENCE, SiteKey, read_frame
from scotopic.store import FinishedSites, FrameRecord, LiveRecord, ReferenceRecord, RunFolder
from scotopic.store.ledger import parsed
from scotopic.store.seals import in_doubt
from scotopic.workflow import stage_lines

if TYPE_CHECKING:
    from pathlib import Path

    from scotopic.protocol import ImagingProtocol

R = TypeVar("R", bound=FrozenModel)
_FRESH_S = 0.5
"""Nobody needs to know it more often, however many look."""
_MOST_CHECKS = 400
_MOST_TOLD = 3
"""Damaged files that the page names."""
_TABLES_A_LOOK = 50
"""Tables of nuclei that one look reads at most: the first look at a large run would take long."""
_READ = ("job.json", "frames.jsonl", "live.jsonl", "nuclei", "status")
"""What a look reads of a run; of the folders, the parts are the run's own."""
FEATURES = {
    "sites": "finished sites",
    "skipped": "frames skipped",
    "nuclei": "nuclei a site, reference masks",
    "area_um2": "median area of nuclei, um2",
    "intensity_e": "median brightness of nuclei, e-",
    "live": "nuclei a site, found live",
}
"""What the map of the plate can show."""


class _Lines(Generic[R]):
    """The lines of a file that have come since the last look."""

    def __init__(self, path: Path, record: type[R]) -> None:
        self._path, self._record, self._read = path, record, 0
        self.damaged: Problem | None = None
        """Its last line that was damaged, if there was one."""

    def new(self) -> tuple[list[R], bool]:
        """Return new records, and whether all is to be forgotten that was read before: the file has become shorter."""
        try:
            with self._path.open("rb") as file:
                anew = file.seek(0, io.SEEK_END) < self._read
                if anew:
                    self._read = 0
                file.seek(self._read)
                data = file.read()
        except OSError:
            return [], False
        whole = data[: data.rfind(b"\n") + 1]
        self._read += len(whole)
        found = []
        for line in whole.splitlines():
            try:
                found.append(parsed(line, self._record))
            except ValueError:  # a page must show the rest
                self.damaged = Problem(f"has a damaged line: {in_doubt(self._path)}", str(self._path))
        return found, anew


class RunView:
    """What a page shows of one run. One thread at a time may ask."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._run = RunFolder(path)
        self._known: dict[str, Any] = {}
        self._known_s = -_FRESH_S
        self._protocol: ImagingProtocol | None = None
        self._begin()

    def _begin(self) -> None:
        run = self._run
        self._ledger = _Lines(run.path / "frames.jsonl", FrameRecord)
        self._references = _Lines(run.path / "nuclei" / REFERENCE / "sites.jsonl", ReferenceRecord)
        self._live = _Lines(run.path / "live.jsonl", LiveRecord)
        self._sites: dict[tuple[str, int, int], Counter[str]] = {}
        self._attempts: dict[tuple[str, int, int], int] = {}
        self._masks: dict[tuple[str, int, int], ReferenceRecord] = {}
        self._found_live: dict[tuple[str, int, int], LiveRecord] = {}
        self._tally: FinishedSites | None = None
        self._finished: dict[tuple[str, int, int], int] = {}
        self._nuclei: dict[tuple[str, int, int], tuple[int, float, float]] = {}
        self._bright: dict[tuple[str, int, int, int, int], FrameRecord] = {}
        self._damaged: dict[SiteKey, Problem] = {}
        """Sites whose tables are damaged."""
        self._last_frame: FrameRecord | None = None
        self._last_live: LiveRecord | None = None

    def snapshot(self) -> dict[str, Any]:
        """Return all that the page shows, as JSON knows it."""
        if time.monotonic() - self._known_s >= _FRESH_S:
            # What is no number (the loss of a training that has failed) is none to JSON either.
            self._known = from_json(to_json(self._looked_at(), inf_nan_mode="null", fallback=str))
            self._known_s = time.monotonic()
        return self._known

    def _looked_at(self) -> dict[str, Any]:
        names = {"name": self.path.name, "path": str(self.path)}
        try:
            if not self._run.exists:
                return names | {"state": "not begun", "message": ""}
            self._refuse_links_out(*(self.path / name for name in _READ), *(self.path / "status").glob("*.json"))
            if self._protocol is None:
                self._protocol = self._run.read_protocol()
            self._read_lines(self._protocol)
            return self._told(self._protocol)
        except Exception as error:  # whatever is wrong with the files of one run, the others are shown
            told = str(error) if isinstance(error, ProblemsError | OSError) else f"{type(error).__name__}: {error}"
            return names | {"state": "cannot be read", "message": told}

    def _refuse_links_out(self, *paths: Path) -> None:
        """Refuse to read what only a link makes a part of the run.

        Raises
        ------
        ProblemsError
            If one of the paths leads out of the run's folder.
        """
        for path in paths:
            if not is_inside(path, self.path):
                raise ProblemsError([Problem("leads out of the run's folder: it is not shown", str(path))])

    def _read_lines(self, protocol: ImagingProtocol) -> None:
        frames, anew = self._ledger.new()
        if anew:
            self._begin()
            frames, _ = self._ledger.new()
        if self._tally is None:
            self._tally = FinishedSites(protocol.frames_per_site)
        self._tally.read(frames)
        self._finished = self._tally.attempts()
        for record in frames:
            self._count(record)
            if record.state == "written":
                self._last_frame = record
                if record.level == protocol.reference.name:
                    self._bright[*record.site_key, record.z, record.attempt] = record
        for reference in self._references.new()[0]:
            self._masks[reference.site_key] = reference
            self._nuclei.pop(reference.site_key, None)
            self._damaged.pop(reference.site_key, None)
        for live in self._live.new()[0]:
            if live.state == "segmented" and live.nuclei is not None:
                self._found_live[live.key[:3]] = live
                self._last_live = live
        self._read_tables(protocol)

    def _count(self, record: FrameRecord) -> None:
        """Count a line for its site: what came in former attempts, or in one that was given up, no longer counts."""
        key = record.site_key
        if record.attempt > self._attempts.get(key, 0):
            self._attempts[key] = record.attempt
            self._sites[key] = Counter()
        if record.attempt == self._attempts[key]:
            if record.state == "given_up":
                self._sites[key] = Counter()
            else:
                self._sites[key][record.state] += 1

    def _read_tables(self, protocol: ImagingProtocol) -> None:
        missing = [key for key in self._masks if key not in self._nuclei | self._damaged and self._counts(key)]
        for key in missing[-_TABLES_A_LOOK:]:
            try:
                table = self._run.nuclei.read(REFERENCE, *key)
            except OSError:  # it is being written
                continue
            except ProblemsError as error:
                self._damaged[key] = error.problems[0]
                continue
            of_reference = table[table["level"] == protocol.reference.name]
            values = [float(of_reference[name].median()) for name in ("area_um2", "mean_intensity_e")]
            self._nuclei[key] = len(of_reference), values[0], values[1]

    def _counts(self, key: tuple[str, int, int]) -> bool:
        """Return whether the masks of a site are of its images that count."""
        return self._finished.get(key) == self._masks[key].attempt

    def _told(self, protocol: ImagingProtocol) -> dict[str, Any]:
        acquire, training = self._run.read_status("acquire"), self._run.read_status("train")
        left = acquire.get("seconds_left")
        whole = str(acquire.get("state", "")).startswith("completed")
        report = self._written("report.html")
        return {
            "name": self.path.name,
            "path": str(self.path),
            "protocol": protocol.name,
            "state": acquire.get("state", "imported" if self._sites else "begun"),
            "message": "; ".join(filter(None, [acquire.get("message") or acquire.get("waiting"), *self._in_doubt()])),
            "started": acquire.get("started"),
            "heartbeat": acquire.get("heartbeat"),
            "is_running": self._run.is_locked(),
            "sites": {"planned": protocol.n_sites * protocol.time_points, "finished": len(self._finished)},
            "frames": acquire.get("frames") or {"planned": protocol.n_frames, **self._frames()},
            "taken_anew": sum(attempt > 1 for attempt in self._attempts.values()),
            "wrong_light": acquire.get("wrong_light", 0),
            "sample_dose_s": round(float(acquire.get("sample_dose_ms", 0)) / 1000, 3),
            "light": self._light(acquire),
            "seconds_left": left,
            "free_bytes": self._run.free_bytes(),
            "bytes_left": acquire.get("bytes_left"),
            "stages": stage_lines(self.path, 0 if whole else left, to_the_report=report is None),
            "training": {
                "state": training.get("state"),
                "step": training.get("step"),
                "seconds_left": training.get("seconds_left"),
                "checks": (training.get("checks") or [])[-_MOST_CHECKS:],
            },
            "wells": self._wells(protocol),
            "features": FEATURES,
            "field": self._field_name(),
            "report": report,
        }

    def _in_doubt(self) -> list[str]:
        """Return what is damaged of what the page shows; `verify` knows all."""
        lines = [each.damaged for each in (self._ledger, self._references, self._live)]
        return [str(each) for each in (*lines, *self._damaged.values()) if each is not None][:_MOST_TOLD]

    def _frames(self) -> dict[str, int]:
        total: Counter[str] = Counter()
        for states in self._sites.values():
            total.update(states)
        return {state: total[state] for state in ("written", "skipped", "left_out")}

    def _light(self, acquire: dict[str, Any]) -> str:
        """Return what is known of the light: it is on for exposures only, and read back as off after each."""
        state = acquire.get("state")
        if self._run.guard_has_acted():
            return "switched off by the guard"
        if state in {"interrupted", "failed"}:  # nobody has read it back, or it may be why it failed
            return "not known: look, or `scotopic light-off`"
        if state == "running":
            last = self._last_frame
            power = (
                "" if last is None or last.led_read_percent is None else f"; the last at {last.led_read_percent:g} %"
            )
            return f"on for exposures only{power}"
        return "off" if acquire else ""

    def _wells(self, protocol: ImagingProtocol) -> dict[str, dict[str, Any]]:
        per_well = protocol.sites.count * protocol.time_points
        found: dict[str, dict[str, Any]] = {}
        values: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for key, (nuclei, area, intensity) in self._nuclei.items():
            if not self._counts(key):
                continue
            for name, value in (("nuclei", nuclei), ("area_um2", area), ("intensity_e", intensity)):
                values[key[0]][name].append(value)
        for key, live in self._found_live.items():
            if live.nuclei is not None and live.attempt == self._attempts.get(key) and self._sites[key]:
                values[key[0]]["live"].append(live.nuclei)
        done = Counter(well for well, _, _ in self._finished)
        skipped = Counter[str]()
        for key, states in self._sites.items():
            skipped[key[0]] += states["skipped"]
        for well in protocol.well_names:
            row, column = protocol.plate.wells[well]
            means = {name: _mean(each) for name, each in values[well].items()}
            place = {"row": row, "column": column, "planned": per_well}
            found[well] = {**place, "sites": done[well], "skipped": skipped[well], **means}
        return found

    def _field_name(self) -> str:
        """Return what the newest picture shows, and which one it is; nothing if there is none."""
        if self._last_live is not None:
            live = self._last_live
            return f"{live.well}_{live.site}, t {live.t}, {live.level}, found live: {live.nuclei} nuclei"
        if self._masks:
            key, record = next(reversed(self._masks.items()))
            return f"{key[0]}_{key[1]}, t {key[2]}, reference masks: {record.nuclei} nuclei"
        last = self._last_frame
        return "" if last is None else f"{last.well}_{last.site}, t {last.t}, {last.level}"

    def field_png(self) -> bytes | None:
        """Return the newest field with contours, as PNG: found live, or else the newest with reference masks, or without."""
        from scotopic.live.view import newest_record, picture

        masks = None if self._last_live is not None or not self._masks else next(reversed(self._masks.values()))
        bright = None if masks is None else self._bright.get((*masks.site_key, masks.z, masks.attempt))
        plate = self._run.plate(self._run.read_protocol(), self._run.read_profile())
        if masks is not None and bright is not None:
            self._refuse_foreign_pixels(plate.field_path(masks.well, masks.site))
            labels = plate.read_labels(masks.well, masks.site, REFERENCE, masks.t, masks.z)
            return iio.imwrite("<bytes>", overlay(read_frame(self._run.path, bright), labels), extension=".png")
        found = newest_record(self._run)
        if found is None:
            return None
        self._refuse_foreign_pixels(plate.field_path(found[0].well, found[0].site))
        return iio.imwrite("<bytes>", picture(self._run, *found)[1], extension=".png")

    def _refuse_foreign_pixels(self, field: Path) -> None:
        """Refuse to show a field of which a part lies outside of the run."""
        self._refuse_links_out(field, *(path for path in field.rglob("*") if path.is_symlink()))

    def _written(self, name: str) -> float | None:
        try:
            return (self.path / name).stat().st_mtime
        except OSError:
            return None


def _mean(values: list[float]) -> float | None:
    known = [value for value in values if value == value]  # without NaN, which JSON does not know
    return round(sum(known) / len(known), 2) if known else None
