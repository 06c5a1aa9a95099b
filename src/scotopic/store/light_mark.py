"""Whether light may be on at this moment: one line that the acquisition writes over, and its guard reads.

It is written before a light goes on and after dark was read back, never in between: a slow disk must not cost light.
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING

from scotopic.store.seals import BLANK, KEY, is_intact, sealed

if TYPE_CHECKING:
    from pathlib import Path

_WIDTH = 200
"""Bytes of the line: always the same, so that a full disk has room for it."""


@dataclass(frozen=True)
class LightMark:
    """What an acquisition says of its light."""

    process: int
    """Number of the process that acquires."""
    number: int
    """Counts the marks: another number is another moment."""
    may_take_s: float
    """Light may be on for so long, in seconds; 0: it is dark."""
    since: float
    """When it may have gone on, in seconds since the epoch."""
    power: float
    """Power relative to full power; 0 where no frame is exposed."""

    @property
    def is_lit(self) -> bool:
        """Whether light may be on."""
        return self.may_take_s > 0


class LightMarkFile:
    """The file of the mark. One writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: IO[bytes] | None = None
        self._number = 0

    def write(self, may_take_s: float, power: float = 0.0) -> None:
        """Write that light may be on for so long from now on, or with 0 that it is dark.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            self._file = self._path.open("r+b", buffering=0)
        self._number += 1
        mark = LightMark(os.getpid(), self._number, round(may_take_s, 3), round(time.time(), 3), round(power, 6))
        self._file.seek(0)
        line = json.dumps(asdict(mark) | {KEY: BLANK}).ljust(_WIDTH - 1) + "\n"
        self._file.write(sealed(line.encode()))

    def read(self) -> LightMark | None:
        """Return the mark, or nothing if there is none, or it is being written this moment."""
        try:
            data = self._path.read_bytes()
            values = json.loads(data)
            return (
                LightMark(**{name: value for name, value in values.items() if name != KEY}) if is_intact(data) else None
            )
        except (OSError, ValueError, TypeError):
            return None

    def close(self) -> None:
        """Close the file. May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None
