from __future__ import annotations

import os
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import xxhash
from pydantic import Field

from scotopic.photons import FrozenModel
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import is_remote
from scotopic.store.files import sync as sync_with_disk
from scotopic.store.seals import end_of_sealed_line, in_doubt, sealed_line, unsealed_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

PERCENTILES = (1, 50, 99, 99.9)


class FrameRecord(FrozenModel):
    """One line of the ledger: one frame that was planned, and what became of it."""

    index: int = Field(ge=0)
    """Number of the frame in the plan of the whole run."""
    well: str
    """Well."""
    site: int = Field(ge=0)
    """Number of the site in its well."""
    level: str
    """Light level."""
    t: int = Field(ge=0)
    """Time point."""
    z: int = Field(ge=0)
    """Plane of the z-stack."""
    attempt: int = Field(gt=0)
    """Which visit of the site this was; only the last one counts."""
    time: str
    """When the exposure ended (or was skipped), ISO 8601 in UTC."""
    state: Literal["written", "skipped", "left_out", "given_up"]
    """Whether the pixels are in the plate. `skipped`: it could not be taken. `left_out`: a rule, or the plan, did not want it
    taken, and it got no light. `given_up` is of a whole visit: it no longer counts, the site is taken anew."""
    reason: str = ""
    """Why it was skipped or left out; or what was odd about a frame that was written (flagged)."""
    decision: str = ""
    """Why it was taken, where a rule asked for it."""
    exposure_ms: float
    """Exposure asked for."""
    exposure_read_ms: float | None = None
    """Exposure read back."""
    led_percent: float
    """LED power asked for."""
    led_read_percent: float | None = None
    """LED power read back."""
    xy_um: tuple[float, float]
    """Stage position asked for."""
    xy_read_um: tuple[float, float] | None = None
    """Stage position read back."""
    z_um: float | None = None
    """Height asked for, if any."""
    z_read_um: float | None = None
    """Height read back."""
    focus: Literal["not asked", "ok", "failed"] = "not asked"
    """Result of the autofocus at this site."""
    signal_dose_ms: float = 0
    """Light that the image has: exposure x LED power, milliseconds at full power."""
    sample_dose_ms: float = 0
    """Light that the sample got: measured light-on time x LED power, milliseconds at full power."""
    mean: float | None = None
    """Mean of the image in counts."""
    percentiles: tuple[float, ...] = ()
    """1st, 50th, 99th and 99.9th percentile of the image in counts."""
    checksum: str | None = None
    """XXH3 (64 bit) of the raw pixels, row by row, little-endian."""

    @property
    def site_key(self) -> tuple[str, int, int]:
        """Well, site and time point: what is acquired as one."""
        return self.well, self.site, self.t

    def relative_to(self, full: FrameRecord) -> float:
        """Return the light of this image relative to that of another one, at full light."""
        return self.signal_dose_ms / full.signal_dose_ms


class VisitRecord(FrozenModel):
    """One line of `visits.jsonl`: a visit of a site that begins, a frame of it that begins, or that the visit was left.

    The first is on the disk before any light.
    """

    well: str
    """Well."""
    site: int = Field(ge=0)
    """Number of the site in its well."""
    t: int = Field(ge=0)
    """Time point."""
    attempt: int = Field(gt=0)
    """Which visit of the site this is."""
    frame_dose_ms: dict[str, float] = Field(default_factory=dict)
    """Light level -> light that the sample is to get by one frame of it, milliseconds at full power."""
    boot: float = 0
    """When the computer was started, in seconds since the epoch."""
    level: str = ""
    """Light level of a frame that is about to be lit; empty where the line is about the whole visit."""
    z: int = 0
    """Plane of that frame."""
    left: bool = False
    """The visit is over: each frame that was begun has a line in the ledger, or is in `unnoted_ms`."""
    unnoted_ms: float = 0
    """Light that a visit which was killed, or a frame that hangs, has given without a line in the ledger, milliseconds at
    full power."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Well, site, time point and attempt."""
        return self.well, self.site, self.t, self.attempt


MOST_UNNOTED = 9
"""Frames that may have been lit without a line in the ledger when a run is killed: those under way, and the next one."""
_SAME_BOOT_S = 30.0


def settled(
    records: Iterable[FrameRecord], visits: Iterable[VisitRecord], planes: int, boot: float
) -> list[VisitRecord]:
    """Return the lines that end all visits which a kill has cut short, each with the light that it left unnoted.

    After a kill the frames that were begun are known. After a power cut they may not be: then as many are reckoned as
    can have been under way, the brightest first.

    Parameters
    ----------
    records, visits : iterable of FrameRecord, VisitRecord
        The run's ledger and its visits.
    planes : int
        Planes of a stack: frames of each level at a site.
    boot : float
        When the computer was started, in seconds since the epoch.
    """
    begun: dict[tuple[str, int, int, int], VisitRecord] = {}
    exposed: dict[tuple[str, int, int, int], dict[tuple[str, int], float]] = defaultdict(dict)
    for visit in visits:
        if visit.level:
            exposed[visit.key][visit.level, visit.z] = visit.unnoted_ms
        elif visit.left:
            begun.pop(visit.key, None)
        else:
            begun[visit.key] = visit
    noted: dict[tuple[str, int, int, int], set[tuple[str, int]]] = defaultdict(set)
    for record in records:
        noted[*record.site_key, record.attempt].add((record.level, record.z))
    ends = []
    for key, visit in begun.items():
        frames = {(level, z) for level in visit.frame_dose_ms for z in range(planes)}
        if frames <= noted[key]:
            continue
        if visit.boot and abs(visit.boot - boot) < _SAME_BOOT_S:
            open_ = {frame: lit_ms for frame, lit_ms in exposed[key].items() if frame not in noted[key]}
            unnoted = [max(visit.frame_dose_ms[level], lit_ms) for (level, _), lit_ms in open_.items()]
        else:
            unnoted = [visit.frame_dose_ms[level] for level, _ in frames - noted[key]]
        lost_ms = sum(sorted(unnoted, reverse=True)[:MOST_UNNOTED])
        ends.append(visit.model_copy(update={"frame_dose_ms": {}, "boot": 0.0, "left": True, "unnoted_ms": lost_ms}))
    return ends


def checksum(image: NDArray[Any]) -> str:
    """Return the checksum of an image's pixels that the ledger keeps (not cryptographic: it finds accidents)."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<")).data)


R = TypeVar("R", bound=FrozenModel)
_LONGEST_LINE = 2000


class JsonLines(Generic[R]):
    """An append-only file of records, one a line, each with its own checksum; lines of earlier versions have none.

    A line that a crash has torn is ignored when reading, and cut off before anything is appended. So are zeros at the
    end: after a power cut a file may have its new length already, but zeros for what was not synced.
    """

    def __init__(self, path: Path, record: type[R]) -> None:
        self._path = path
        self._record = record

    def read(self) -> list[R]:
        """Return all records, in the order in which they were written.

        Raises
        ------
        ProblemsError
            If a line other than the last is damaged: someone else has written to the file, or the disk is bad.
        """
        if not self._path.exists():
            return []
        records = []
        for number, line in enumerate(_whole_lines(self._path.read_bytes()).splitlines(), start=1):
            try:
                records.append(parsed(line, self._record))
            except ValueError as error:
                told = f"damaged line, nothing was changed: {in_doubt(self._path)} ({line[:60]!r})"
                raise ProblemsError([Problem(told, str(self._path), line=number)]) from error
        return records

    def tail(self, count: int) -> list[R]:
        """Return the last records, at most so many, without reading the whole file; damaged lines are left out."""
        if not self._path.exists():
            return []
        with self._path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = file.seek(max(0, size - _LONGEST_LINE * count))
            lines = _whole_lines(file.read()).splitlines()
        records = []
        for line in lines[1 if start else 0 :][-count:]:  # the first one is cut
            with suppress(ValueError):
                records.append(parsed(line, self._record))
        return records

    def append(self, records: Sequence[R], *, sync: bool = True) -> None:
        """Write records, and with `sync` wait until they (and all before them) are on the disk."""
        is_new = not self._path.exists()
        data = b"".join(sealed_line(record.model_dump_json(exclude_defaults=True)) for record in records)
        if is_remote(self._path):  # nothing can be appended to there
            before = b"" if is_new else self._path.read_bytes()
            self._path.write_bytes(before + data)
            return
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if is_new:
            sync_with_disk([self._path.parent])

    def cut_torn_line(self) -> int:
        """Cut off what a crash has left after the last whole line, and end that line; return the number of bytes cut."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        whole = _whole_lines(data)
        is_ended = not whole or whole.endswith(b"\n")
        if len(whole) < len(data) or not is_ended:
            with self._path.open("rb+") as file:
                file.truncate(len(whole))
                if not is_ended:
                    file.seek(0, os.SEEK_END)
                    file.write(b"\n")
                file.flush()
                os.fsync(file.fileno())
        return len(data) - len(whole)


def parsed(line: bytes, record: type[R]) -> R:
    """Return the record of a line.

    Raises
    ------
    ValueError
        If the line is damaged.
    """
    return record.model_validate_json(unsealed_line(line))


def _whole_lines(data: bytes) -> bytes:
    """Return the lines that are whole; the last one also without its end, if it has its seal: it is not torn, its end is damaged."""
    whole = data.rstrip(b"\0").rfind(b"\n") + 1  # zeros in the middle are no tail: that is a damaged line
    return data[: whole + end_of_sealed_line(data[whole:])]


class Ledger(JsonLines[FrameRecord]):
    """The list of all frames of a run, `frames.jsonl`: the truth for resume, pairs and report."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FrameRecord)


class FinishedSites:
    """The sites that need no further visit, by the lines of the ledger that were read so far.

    A site is finished when one and the same attempt accounts for each of its frames, written or skipped, and was not
    given up since.
    """

    def __init__(self, frames_per_site: int) -> None:
        self._frames_per_site = frames_per_site
        self._seen: dict[tuple[tuple[str, int, int], int], set[tuple[str, int]]] = {}
        self._given_up: set[tuple[tuple[str, int, int], int]] = set()

    def read(self, records: Iterable[FrameRecord]) -> None:
        """Take further lines, in the order in which they were written."""
        for record in records:
            visit = record.site_key, record.attempt
            self._seen.setdefault(visit, set()).add((record.level, record.z))
            if record.state == "given_up":
                self._given_up.add(visit)

    def attempts(self) -> dict[tuple[str, int, int], int]:
        """Return the finished sites (well, site, t), with the attempt that counts."""
        return {
            key: attempt
            for (key, attempt), frames in self._seen.items()
            if len(frames) == self._frames_per_site and (key, attempt) not in self._given_up
        }


def finished_sites(records: Iterable[FrameRecord], frames_per_site: int) -> dict[tuple[str, int, int], int]:
    """Return the sites (well, site, t) that need no further visit, with the attempt that counts, of a whole ledger."""
    finished = FinishedSites(frames_per_site)
    finished.read(records)
    return finished.attempts()
