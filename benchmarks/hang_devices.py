"""A microscope whose light outlives its processes, with a log of its own, and in which one call never returns.

Its devices are written in Python; each has a lock of its own, as UniMMCore gives it, or all share one, as MMCore's devices
of one adapter library do. The call hangs only in a process that acquires: the guard opens the devices anew.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pymmcore_plus import DeviceType, FocusDirection
from pymmcore_plus.experimental.unicore import (
    Device,
    GenericDevice,
    ShutterDevice,
    SimpleCameraDevice,
    StageDevice,
    XYStageDevice,
    pymm_property,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

PLAN = "SCOTOPIC_HANG_PLAN"
"""Environment variable: file that says where state and log are, and what hangs."""
SIZE_PX = 64


class Bench:
    """What the devices share: the plan, the state on the disk, and the log."""

    def __init__(self) -> None:
        self.plan: dict[str, Any] = json.loads(Path(os.environ[PLAN]).read_text(encoding="utf-8"))
        folder = Path(self.plan["folder"])
        self._led, self._shutter = folder / "led.txt", folder / "shutter.txt"
        self._log = os.open(folder / "devices.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._calls, self._acquires = 0, "acquire" in sys.argv
        self._lock: AbstractContextManager[Any] = threading.RLock() if self.plan["shared"] else nullcontext()

    @property
    def led(self) -> float:
        """Power in percent."""
        return float(self._led.read_text(encoding="utf-8") or 0) if self._led.exists() else 0.0

    @property
    def is_open(self) -> bool:
        """Whether the shutter is open."""
        return self._shutter.exists() and self._shutter.read_text(encoding="utf-8") == "open"

    def set_led(self, percent: float) -> None:
        """Set the power."""
        self._led.write_text(str(percent), encoding="utf-8")
        self.note()

    def set_open(self, *, is_open: bool) -> None:
        """Open or close the shutter."""
        self._shutter.write_text("open" if is_open else "closed", encoding="utf-8")
        self.note()

    def note(self, **more: Any) -> None:
        """Log the light on the sample, relative to full power."""
        power = self.led / 100 if self.is_open or self.plan["gating"] == "software" else 0.0
        os.write(
            self._log, (json.dumps({"at": time.time(), "power": power, "process": os.getpid()} | more) + "\n").encode()
        )

    def call(self, name: str) -> AbstractContextManager[Any]:
        """Begin a call of a device: the planned one never returns."""
        with self._lock:
            if self._acquires and name == self.plan["call"]:
                self._calls += 1
                if self._calls > self.plan["after"]:
                    self.note(hangs=name)
                    self._hang()
        return self._lock

    def _hang(self) -> None:
        if self.plan.get("holds_python"):
            ctypes.PyDLL(None).sleep(3600)  # a driver that keeps Python's own lock: no thread goes on
        while True:
            time.sleep(3600)


_bench: Bench | None = None


def bench() -> Bench:
    global _bench
    _bench = _bench or Bench()
    return _bench


class LED(GenericDevice):
    """LED: `Power` in percent."""

    @pymm_property(limits=(0.0, 100.0), name="Power")
    def power(self) -> float:
        """Power in percent."""
        with bench().call("led.get while lit" if bench().led else "led.get"):
            return bench().led

    @power.setter
    def _set_power(self, value: float) -> None:
        if value:
            bench().set_led(value)  # its light is on before its answer comes
        with bench().call("led.on" if value else "led.off" if bench().led else "led.off while dark"):
            bench().set_led(value)

    def busy(self) -> bool:
        """Return whether it is still changing."""
        with bench().call("led.wait"):
            return False


class Shutter(ShutterDevice):
    """Shutter."""

    def get_open(self) -> bool:
        """Return whether it is open."""
        with bench().call("shutter.get while open" if bench().is_open else "shutter.get"):
            return bench().is_open

    def set_open(self, open: bool) -> None:  # noqa: A002 - the name is unicore's
        """Open or close it."""
        if open:
            bench().set_open(is_open=True)
        with bench().call("shutter.open" if open else "shutter.close" if bench().is_open else "shutter.close again"):
            bench().set_open(is_open=open)

    def busy(self) -> bool:
        """Return whether it still moves."""
        with bench().call("shutter.wait while open" if bench().is_open else "shutter.wait"):
            return False


class Camera(SimpleCameraDevice):
    """Camera that sees noise."""

    _exposure_ms = 10.0

    def get_exposure(self) -> float:
        """Return the exposure time in milliseconds."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure time in milliseconds."""
        with bench().call("camera.set"):
            self._exposure_ms = exposure

    def sensor_shape(self) -> tuple[int, int]:
        """Return rows and columns."""
        return SIZE_PX, SIZE_PX

    def dtype(self) -> DTypeLike:
        """Return the pixel type."""
        return np.uint16

    def snap(self, buffer: NDArray[np.uint16]) -> Mapping[str, object]:
        """Expose once."""
        with bench().call("camera.snap"):
            time.sleep(self._exposure_ms / 1000)
        buffer[:] = np.random.default_rng().integers(200, 400, buffer.shape, np.uint16)
        return {}


class Turret(GenericDevice):
    """Filter turret."""

    def __init__(self) -> None:
        super().__init__()
        self.register_property("Cube", default_value="Empty", allowed_values=["DAPI", "Empty"])

    def busy(self) -> bool:
        """Return whether it still turns."""
        with bench().call("filter.wait"):
            return False


class XYStage(XYStageDevice):
    """XY stage."""

    _xy = (0.0, 0.0)

    def set_position_um(self, x: float, y: float) -> None:
        """Move."""
        with bench().call("stage.set"):
            self._xy = x, y

    def get_position_um(self) -> tuple[float, float]:
        """Return the position."""
        with bench().call("stage.get"):
            return self._xy

    def busy(self) -> bool:
        """Return whether it still moves."""
        with bench().call("stage.wait"):
            return False

    def home(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def set_origin_x(self) -> None:
        """Do nothing."""

    def set_origin_y(self) -> None:
        """Do nothing."""


class ZStage(StageDevice):
    """Z drive."""

    _z = 0.0

    def set_position_um(self, val: float) -> None:
        """Move."""
        self._z = val

    def get_position_um(self) -> float:
        """Return the height."""
        return self._z

    def get_focus_direction(self) -> FocusDirection:
        """Return that larger Z is towards the sample."""
        return FocusDirection.TowardSample

    def home(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def set_origin(self) -> None:
        """Do nothing."""


class Autofocus(Device):
    """Hardware autofocus."""

    _TYPE = DeviceType.AutoFocus

    def full_focus(self) -> None:
        """Find the focus."""
        with bench().call("autofocus"):
            pass
