"""A simulated microscope whose light keeps a log that no kill reaches, and in which one operation in a hundred goes wrong.

`soak.py` lets the processes that do jobs begin with `take_over`.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.protocol import Fault
from scotopic.simulator import devices
from scotopic.simulator.instrument import Instrument
from scotopic.store import checksum

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.protocol.simulation import FaultKind
    from scotopic.protocol.simulator_setup import SimulatorSetup

LOGS, SHARE = "SCOTOPIC_SOAK_LOGS", "SCOTOPIC_SOAK_FAULTS"
"""Environment variables: folder of the logs, and share of operations that go wrong."""
AMOUNTS = {"led_misreports": 60.0, "stage_stops_short": 50.0, "camera_hangs": 0.8, "device_slow": 0.02}
KINDS = (
    "snap_fails", "camera_hangs", "led_ignores", "led_misreports", "led_stays_on", "shutter_sticks",
    "stage_stops_short", "autofocus_fails", "device_slow",
)  # fmt: skip


class RandomFaults:
    """Lets each operation of each kind go wrong with the same probability, and counts."""

    def __init__(self, share: float, log: Log) -> None:
        self._share, self._log = share, log
        self._rng = np.random.default_rng(int.from_bytes(os.urandom(8), "little"))

    def due(self, kind: FaultKind) -> Fault | None:
        """Return the fault that strikes an operation, if any."""
        if kind not in KINDS or self._rng.random() >= self._share:
            return None
        self._log.write(fault=kind)
        return Fault(kind=kind, amount=AMOUNTS.get(kind, 0.0))


class Log:
    """Lines that are on their way to the disk when the call returns: a kill of this process loses none."""

    def __init__(self) -> None:
        path = Path(os.environ[LOGS]) / f"{time.time_ns()}-{os.getpid()}.jsonl"
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def write(self, **line: Any) -> None:
        """Write a line."""
        os.write(self._file, (json.dumps(line) + "\n").encode())


class LoggingInstrument(Instrument):
    """Logs power, light given, and each exposure with its place and pixels."""

    def configure(self, setup: SimulatorSetup) -> None:
        """Take another set-up, in which faults fall at random."""
        super().configure(setup)
        self._log = Log()
        self._faults = RandomFaults(float(os.environ[SHARE]), self._log)  # type: ignore[assignment]

    def _update_light(self) -> None:
        super()._update_light()
        lit = self._led_percent / 100 if self._shutter_open else 0.0
        self._log.write(power=lit, delivered=self._light.delivered_ms)

    def expose(self, exposure_ms: float) -> NDArray[np.uint16]:
        """Expose, and log it."""
        image = super().expose(exposure_ms)
        self._log.write(
            image=checksum(image),
            xy=self._xy_um,
            led=self._led_percent,
            exposure=exposure_ms,
            delivered=self.delivered_ms,
        )
        return image


def take_over() -> None:
    """Let the simulated microscope of this process be that one."""
    devices.Instrument = LoggingInstrument  # type: ignore[misc]
