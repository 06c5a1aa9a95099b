from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pymmcore_plus.model import Microscope

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from pathlib import Path

_PYTHON_DEVICE = "#py "


@dataclass(frozen=True)
class ConfigFile:
    """What a Micro-Manager `.cfg` says, read as text: nothing is loaded, nothing moves."""

    path: Path
    model: Microscope
    has_python_devices: bool
    doubts: tuple[str, ...]
    """Lines that pymmcore-plus' reader does not know, though MMCore may."""

    @property
    def devices(self) -> dict[str, str]:
        """Label of each device and where it comes from (`library.adapter`)."""
        return {device.name: f"{device.library}.{device.adapter_name}" for device in self.model.devices}

    @property
    def libraries(self) -> set[str]:
        """Compiled adapter libraries that it loads (Python modules not counted)."""
        return {device.library for device in self.model.devices if "." not in device.library}

    def preset(self, group: str, name: str) -> list[tuple[str, str, str]] | None:
        """Return (device, property, value) of a preset, or None if there is no such preset."""
        presets = self.model.config_groups[group].presets if group in self.model.config_groups else {}
        return (
            [(s.device_name, s.property_name, s.property_value) for s in presets[name].settings]
            if name in presets
            else None
        )

    @property
    def pixel_sizes_um(self) -> dict[str, float]:
        """Pixel size of each resolution preset."""
        return {name: preset.pixel_size_um for name, preset in self.model.pixel_size_group.presets.items()}


def read_config(path: Path) -> ConfigFile:
    """Read a Micro-Manager configuration file, Python devices included.

    Raises
    ------
    ProblemsError
        If it cannot be read, or a line of it is not valid.
    """
    try:
        # Device labels are plain ASCII in practice; comments of older files are in the code page of their Windows.
        text = path.read_bytes().decode("utf-8-sig", errors="replace")
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise ProblemsError([Problem(f"the profile's configuration cannot be read: {what}", str(path))]) from error
    # Python devices stand behind `#py `, so that plain MMCore takes them for comments.
    plain = "\n".join(
        line.strip().removeprefix(_PYTHON_DEVICE).replace("pyDevice,", "Device,", 1) for line in text.splitlines()
    )
    model = Microscope()
    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always")
        try:
            model.load_config(plain)
        except (ValueError, StopIteration) as error:
            raise ProblemsError([Problem(f"is not a valid configuration: {error}", str(path))]) from error
    messages = tuple(str(doubt.message) for doubt in doubts)
    return ConfigFile(path, model, has_python_devices=_PYTHON_DEVICE in text, doubts=messages)
