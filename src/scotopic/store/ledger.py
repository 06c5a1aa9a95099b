from __future__ import annotations

import os
from collections import Counter
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import numpy as np
import xxhash
from pydantic import Field

from scotopic.photons import FrozenModel
from scotopic.store.files import sync as sync_with_disk

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
    state: Literal["written", "skipped"]
    """Whether the pixels are in the plate."""
    reason: str = ""
    """Why it was skipped; or what was odd about a frame that was written (flagged)."""
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


class VisitRecord(FrozenModel):
    """One line of `visits.jsonl`: a site that is about to be lit, on the disk before any light; or one that was left."""

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
    left: bool = False
    """The visit ended with a line in the ledger for each frame that was begun."""

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Well, site, time point and attempt."""
        return self.well, self.site, self.t, self.attempt


MOST_UNNOTED = 9
"""Frames that may have been lit without a line in the ledger when a run is killed: those under way, and the next one."""


def unnoted_dose_ms(records: Iterable[FrameRecord], visits: Iterable[VisitRecord], planes: int) -> float:
    """Return the light that killed visits may have given without a line in the ledger, milliseconds at full power.

    An upper limit: of the frames of a visit that have no line, as many as can have been under way, the brightest first.

    Parameters
    ----------
    records, visits : iterable of FrameRecord, VisitRecord
        The run's ledger and its visits.
    planes : int
        Planes of a stack: frames of each level at a site.
    """
    begun: dict[tuple[str, int, int, int], VisitRecord] = {}
    for visit in visits:
        if visit.left:
            begun.pop(visit.key, None)
        else:
            begun[visit.key] = visit
    noted = Counter((*record.site_key, record.attempt, record.level) for record in records)
    total = 0.0
    for key, visit in begun.items():
        open_ms = [dose for level, dose in visit.frame_dose_ms.items() for _ in range(planes - noted[*key, level])]
        total += sum(sorted(open_ms, reverse=True)[:MOST_UNNOTED])
    return total


def checksum(image: NDArray[Any]) -> str:
    """Return the checksum of an image's pixels that the ledger keeps (not cryptographic: it finds accidents)."""
    return xxhash.xxh3_64_hexdigest(np.ascontiguousarray(image, dtype=image.dtype.newbyteorder("<")).data)


R = TypeVar("R", bound=FrozenModel)


class JsonLines(Generic[R]):
    """An append-only file of records, one a line.

    A line that a crash has torn is ignored when reading, and cut off before anything is appended. So is what follows
    a zero byte: after a power cut a file may have its new length already, but zeros for what was not synced.
    """

    def __init__(self, path: Path, record: type[R]) -> None:
        self._path = path
        self._record = record

    def read(self) -> list[R]:
        """Return all records, in the order in which they were written.

        Raises
        ------
        ValueError
            If a line other than the last is damaged: someone else has written to the file.
        """
        if not self._path.exists():
            return []
        records = []
        for number, line in enumerate(_whole_lines(self._path.read_bytes()).splitlines(), start=1):
            try:
                records.append(self._record.model_validate_json(line))
            except ValueError as error:
                raise ValueError(f"{self._path}:{number}: damaged line: {line[:80]!r}") from error
        return records

    def append(self, records: Sequence[R], *, sync: bool = True) -> None:
        """Write records, and with `sync` wait until they (and all before them) are on the disk."""
        is_new = not self._path.exists()
        text = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)
        with self._path.open("ab") as file:
            file.write(text.encode())
            file.flush()
            if sync:
                os.fsync(file.fileno())
        if is_new:
            sync_with_disk([self._path.parent])

    def cut_torn_line(self) -> int:
        """Cut off what a crash has left after the last whole line; return the number of bytes cut."""
        if not self._path.exists():
            return 0
        data = self._path.read_bytes()
        whole = len(_whole_lines(data))
        if whole < len(data):
            with self._path.open("rb+") as file:
                file.truncate(whole)
                file.flush()
                os.fsync(file.fileno())
        return len(data) - whole


def _whole_lines(data: bytes) -> bytes:
    written = data.partition(b"\0")[0]
    return written[: written.rfind(b"\n") + 1]


class Ledger(JsonLines[FrameRecord]):
    """The list of all frames of a run, `frames.jsonl`: the truth for resume, pairs and report."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, FrameRecord)


def finished_sites(records: Iterable[FrameRecord], frames_per_site: int) -> dict[tuple[str, int, int], int]:
    """Return the sites (well, site, t) that need no further visit, with the attempt that counts.

    A site is finished when one and the same attempt accounts for each of its frames, written or skipped.
    """
    seen: dict[tuple[tuple[str, int, int], int], set[tuple[str, int]]] = {}
    for record in records:
        seen.setdefault((record.site_key, record.attempt), set()).add((record.level, record.z))
    return {key: attempt for (key, attempt), frames in seen.items() if len(frames) == frames_per_site}
