from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from pydantic import TypeAdapter, ValidationError
from pymmcore_plus import DeviceType, FocusDirection
from pymmcore_plus.experimental.unicore import (
    Device,
    GenericDevice,
    HubDevice,
    ShutterDevice,
    SimpleCameraDevice,
    StageDevice,
    XYStageDevice,
    pymm_property,
)

from scotopic.protocol import Fault
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator.instrument import Instrument

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import DTypeLike, NDArray

_loaded_last = threading.local()
_FAULTS = TypeAdapter(tuple[Fault, ...])


class Simulator(HubDevice):
    """Hub of the simulated microscope: holds the state that its devices share.

    It must stand before its devices in the `.cfg`: each device joins the hub loaded last by its thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.instrument = Instrument(SimulatorSetup())
        _loaded_last.instrument = self.instrument
        self.register_property("Setup", default_value="", getter=Simulator._setup, setter=Simulator._set_setup)
        self.register_property("Faults", default_value="[]", getter=Simulator._faults, setter=Simulator._set_faults)
        self.register_property("DeliveredLight_ms", default_value=0.0, getter=Simulator._delivered)
        self.register_property("Time_h", default_value=0.0, getter=Simulator._time, setter=Simulator._set_time)
        self._faults_json = "[]"

    def _setup(self) -> str:
        return self.instrument.setup.model_dump_json()

    def _set_setup(self, value: str) -> None:
        self.instrument.configure(SimulatorSetup.model_validate_json(value))

    def _faults(self) -> str:
        return self._faults_json

    def _set_faults(self, value: str) -> None:
        try:
            self.instrument.set_faults(_FAULTS.validate_json(value))
        except ValidationError as error:
            raise ValueError(f"Faults = {value!r}: {error.errors()[0]['msg']}") from error
        self._faults_json = value

    def _time(self) -> float:
        return self.instrument.hours

    def _set_time(self, value: float) -> None:
        self.instrument.set_time(float(value))

    def _delivered(self) -> float:
        return self.instrument.delivered_ms


class _Member:
    """A device of the simulated microscope."""

    def __init__(self) -> None:
        super().__init__()
        instrument = getattr(_loaded_last, "instrument", None)
        if not isinstance(instrument, Instrument):
            raise RuntimeError("the device scotopic.simulator.devices,Simulator must stand first in the .cfg")
        self._instrument = instrument


class Camera(_Member, SimpleCameraDevice):
    """Camera: 16 bit, one amplifier, electronic shutter."""

    _exposure_ms = 10.0

    def get_exposure(self) -> float:
        """Return the exposure time in milliseconds."""
        return self._exposure_ms

    def set_exposure(self, exposure: float) -> None:
        """Set the exposure time in milliseconds."""
        self._exposure_ms = exposure

    def sensor_shape(self) -> tuple[int, int]:
        """Return rows and columns."""
        return self._instrument.setup.height_px, self._instrument.setup.width_px

    def dtype(self) -> DTypeLike:
        """Return the pixel type."""
        return np.uint16

    def snap(self, buffer: NDArray[np.uint16]) -> Mapping[str, object]:
        """Expose once."""
        buffer[:] = self._instrument.expose(self._exposure_ms)
        return {}


class LED(_Member, GenericDevice):
    """LED: `Power` in percent."""

    @pymm_property(limits=(0.0, 100.0), name="Power")
    def power(self) -> float:
        """LED power in percent."""
        return self._instrument.led_percent

    @power.setter
    def _set_power(self, value: float) -> None:
        self._instrument.set_led_percent(float(value))

    def busy(self) -> bool:
        """Return whether the light is still changing."""
        return self._instrument.light_is_pending()


class Lamp(_Member, GenericDevice):
    """Lamp that shines through the sample, for brightfield: `Power` in percent."""

    @pymm_property(limits=(0.0, 100.0), name="Power")
    def power(self) -> float:
        """Power of the lamp in percent."""
        return self._instrument.lamp_percent

    @power.setter
    def _set_power(self, value: float) -> None:
        self._instrument.set_lamp_percent(float(value))

    def busy(self) -> bool:
        """Return whether the light is still changing."""
        return self._instrument.light_is_pending()


class FilterCube(_Member, GenericDevice):
    """Filter turret, which a channel preset needs; it changes nothing in the image."""

    def __init__(self) -> None:
        super().__init__()
        self.register_property("Cube", default_value="Empty", allowed_values=["DAPI", "Empty"])


class Shutter(_Member, ShutterDevice):
    """Shutter between LED and sample."""

    def get_open(self) -> bool:
        """Return whether it is open."""
        return self._instrument.shutter_open

    def set_open(self, open: bool) -> None:  # noqa: A002 - the name is unicore's
        """Open or close it."""
        self._instrument.set_shutter_open(open)

    def busy(self) -> bool:
        """Return whether the light is still changing."""
        return self._instrument.light_is_pending()


class XYStage(_Member, XYStageDevice):
    """XY stage."""

    def set_position_um(self, x: float, y: float) -> None:
        """Start a move."""
        self._instrument.move_xy(x, y)
        self.core.events.XYStagePositionChanged.emit(self.get_label(), x, y)

    def get_position_um(self) -> tuple[float, float]:
        """Return the position."""
        return self._instrument.xy_um

    def busy(self) -> bool:
        """Return whether it is still moving."""
        return self._instrument.stage_is_moving()

    def home(self) -> None:
        """Do nothing: it is homed."""

    def stop(self) -> None:
        """Do nothing: moves cannot be interrupted."""

    def set_origin_x(self) -> None:
        """Refuse: the origin of the simulated stage is fixed."""
        raise RuntimeError("the origin of the simulated stage is fixed")

    def set_origin_y(self) -> None:
        """Refuse: the origin of the simulated stage is fixed."""
        raise RuntimeError("the origin of the simulated stage is fixed")


class ZStage(_Member, StageDevice):
    """Z drive."""

    def set_position_um(self, val: float) -> None:
        """Move."""
        self._instrument.move_z(val)
        self.core.events.stagePositionChanged.emit(self.get_label(), val)

    def get_position_um(self) -> float:
        """Return the height."""
        return self._instrument.z_um

    def get_focus_direction(self) -> FocusDirection:
        """Return that larger Z is towards the sample (an inverted stand)."""
        return FocusDirection.TowardSample

    def home(self) -> None:
        """Do nothing: it is homed."""

    def stop(self) -> None:
        """Do nothing: moves cannot be interrupted."""

    def set_origin(self) -> None:
        """Refuse: the origin of the simulated drive is fixed."""
        raise RuntimeError("the origin of the simulated Z drive is fixed")


class Autofocus(_Member, Device):
    """Hardware autofocus."""

    _TYPE = DeviceType.AutoFocus

    def full_focus(self) -> None:
        """Move Z to the focus, or raise RuntimeError."""
        self._instrument.autofocus()
