"""What the network computes on, and in which number format."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TIMED = 2
"""Runs that are timed, after one that warms up."""


def chosen_device(name: str = "auto") -> torch.device:
    """Return a device by its name; for `auto` the best there is: CUDA, then Apple's MPS, then the processor.

    Raises
    ------
    RuntimeError
        If the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (name == "cuda" and not torch.cuda.is_available()) or (name == "mps" and not torch.backends.mps.is_available()):
        raise RuntimeError(f"device {name!r} is asked for, and torch finds none here; allowed: auto, cpu")
    return torch.device(name)


def use_threads(count: int) -> None:
    """Compute with so many threads, where the processor computes."""
    torch.set_num_threads(count)


def finish(device: torch.device) -> None:
    """Wait until a device has done all it was given: a GPU is asked and not waited for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def faster_dtype(run: Callable[[str], object], device: torch.device) -> str:
    """Time both number formats and return the faster: many processors emulate bfloat16, ten times slower."""
    seconds = {}
    for name in DTYPES:
        run(name)
        finish(device)
        begun = time.perf_counter()
        for _ in range(_TIMED):
            run(name)
        finish(device)
        seconds[name] = time.perf_counter() - begun
    return min(seconds, key=lambda name: seconds[name])
