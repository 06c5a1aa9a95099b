"""Devices for tests whose light outlives the process that has switched it on, as that of a real LED does."""

from __future__ import annotations

import os
from pathlib import Path

from pymmcore_plus.experimental.unicore import GenericDevice, ShutterDevice, pymm_property

STATE = "SCOTOPIC_TEST_LED"
"""Environment variable: file that holds the power."""


class LastingLED(GenericDevice):
    """LED with its power in a file."""

    @pymm_property(limits=(0.0, 100.0), name="Power")
    def power(self) -> float:
        """Power in percent."""
        path = Path(os.environ[STATE])
        return float(path.read_text(encoding="utf-8")) if path.exists() else 0.0

    @power.setter
    def _set_power(self, value: float) -> None:
        Path(os.environ[STATE]).write_text(str(value), encoding="utf-8")


class LastingShutter(ShutterDevice):
    """Shutter with its state in a file beside the LED's."""

    def get_open(self) -> bool:
        """Return whether it is open."""
        path = Path(os.environ[STATE] + ".shutter")
        return path.exists() and path.read_text(encoding="utf-8") == "open"

    def set_open(self, open: bool) -> None:  # noqa: A002 - the name is unicore's
        """Open or close it."""
        Path(os.environ[STATE] + ".shutter").write_text("open" if open else "closed", encoding="utf-8")
