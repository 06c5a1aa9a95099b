"""What the microscope's process and the worker tell each other, and the memory that they share."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from multiprocessing.context import SpawnContext
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.store import FrameRecord, LiveRecord


@dataclass(frozen=True)
class Setup:
    """What a worker must know to begin."""

    run_path: Path
    model_path: Path | None
    """Model to be used; nothing for the run's latest, whichever that is at the time."""
    shape: tuple[int, int]
    """Rows and columns of an image."""


@dataclass(frozen=True)
class Job:
    """An image that lies in the shared memory."""

    number: int
    slot: int
    record: FrameRecord
    is_reference: bool
    """It is the bright image of a sentinel, to compare the masks of its dark ones with."""


@dataclass(frozen=True)
class Ready:
    """The worker has a model and is warm, or waits for the run's first model."""

    model: str
    """Hash of the model's file; empty if there is none yet."""
    computes_in: str


@dataclass(frozen=True)
class Done:
    """An image is no longer needed in the shared memory; and what was found in it, if it is known already."""

    number: int
    records: tuple[LiveRecord, ...] = field(default=())


@dataclass(frozen=True)
class Compared:
    """Sentinels that were compared since."""

    records: tuple[LiveRecord, ...]


class Slots:
    """Memory for a fixed number of images that processes share."""

    def __init__(self, context: SpawnContext, count: int, shape: tuple[int, int]) -> None:
        self._shape = (count, *shape)
        self._memory: Any = context.RawArray(ctypes.c_uint16, int(np.prod(self._shape)))

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, slot: int) -> NDArray[np.uint16]:
        """Return the memory of one image, shape (Y, X)."""
        image: NDArray[np.uint16] = np.frombuffer(self._memory, np.uint16).reshape(self._shape)[slot]
        return image
