"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path

import numpy as np

import scotopic


def machine() -> str:
    """Return one line on processor, Python and versions."""
    return (
        f"{_processor()}, {os.cpu_count()} cores, {platform.system()}, Python {sys.version.split()[0]}, "
        f"numpy {np.__version__}, scotopic {scotopic.__version__}"
    )


def use_one_core() -> None:
    """Bind this process to one core, where the operating system can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        if names:
            return names[0]
    return platform.processor() or platform.machine()
