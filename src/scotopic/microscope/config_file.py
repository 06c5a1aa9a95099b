from __future__ import annotations

import codecs
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pymmcore_plus.model import Microscope

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_PYTHON_DEVICE = "#py "
_CODE_PAGE = "cp1252"


@dataclass(frozen=True)
class ConfigFile:
    """What a Micro-Manager `.cfg` says, read as text: nothing is loaded, nothing moves."""

    path: Path
    model: Microscope
    has_python_devices: bool
    doubts: tuple[str, ...]
    """Lines that pymmcore-plus' reader does not know, though MMCore may; and what was guessed of the encoding."""
    text: str
    """The whole file."""
    is_utf8: bool
    """Whether MMCore can read the file itself as it is: it takes all names for UTF-8."""

    @property
    def devices(self) -> dict[str, str]:
        """Label of each device and where it comes from (`library.adapter`)."""
        return {device.name: f"{device.library}.{device.adapter_name}" for device in self.model.devices}

    @property
    def libraries(self) -> set[str]:
        """Compiled adapter libraries that it loads (Python modules not counted)."""
        return self.libraries_of(self.devices)

    def libraries_of(self, labels: Iterable[str]) -> set[str]:
        """Return the compiled adapter libraries of some devices."""
        python = {words[1].strip() for line in self.text.splitlines() if (words := _python_device(line))}
        wanted = set(labels) - python
        return {device.library for device in self.model.devices if device.name in wanted}

    @property
    def loaded(self) -> list[tuple[str, str, str]]:
        """Device, property and value of each line that sets a property before or after devices are initialised."""
        return [(d.name, each.name, each.value) for d in self.model.devices for each in d.properties]

    def preset(self, group: str, name: str) -> list[tuple[str, str, str]] | None:
        """Return (device, property, value) of a preset, or None if there is no such preset."""
        presets = self.model.config_groups[group].presets if group in self.model.config_groups else {}
        return (
            [(s.device_name, s.property_name, s.property_value) for s in presets[name].settings]
            if name in presets
            else None
        )

    def state(self, device: str, name: str, value: str) -> tuple[str, str]:
        """Return property and value with `Label` turned into `State`: the two are one thing of a device."""
        labels = next((each.labels for each in self.model.devices if each.name == device), ())
        if name != "Label":
            return name, value
        return "State", str(labels.index(value)) if value in labels else value

    @property
    def affines(self) -> dict[str, tuple[float, ...]]:
        """How the camera lies on the stage by each resolution preset: MMCore's six numbers."""
        return {name: tuple(preset.affine) for name, preset in self.model.pixel_size_group.presets.items()}

    @property
    def pixel_sizes_um(self) -> dict[str, float]:
        """Pixel size of each resolution preset."""
        return {name: preset.pixel_size_um for name, preset in self.model.pixel_size_group.presets.items()}


def _python_device(line: str) -> list[str]:
    """Return the words of a line that loads a Python device; nothing of another."""
    words = line.strip().removeprefix(_PYTHON_DEVICE).split(",")
    return words if words[0].strip() == "pyDevice" and len(words) > 1 else []


def read_config(path: Path) -> ConfigFile:
    """Read a Micro-Manager configuration file, Python devices included.

    Raises
    ------
    ProblemsError
        If it cannot be read, or a line of it is not valid.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise ProblemsError([Problem(f"the profile's configuration cannot be read: {what}", str(path))]) from error
    try:
        text, is_utf8 = data.decode("utf-8-sig"), not data.startswith(codecs.BOM_UTF8)
    except UnicodeDecodeError:  # Micro-Manager on Windows writes the code page of its Windows
        text, is_utf8 = data.decode(_CODE_PAGE, errors="replace"), False
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
    messages = [str(doubt.message) for doubt in doubts]
    if not is_utf8 and not data.startswith(codecs.BOM_UTF8):
        messages.append("is not UTF-8: its names were read as Western Windows writes them (code page 1252)")
    return ConfigFile(
        path,
        model,
        has_python_devices=_PYTHON_DEVICE in text,
        doubts=tuple(messages),
        text=text,
        is_utf8=is_utf8,
    )


@contextmanager
def loadable(config: ConfigFile) -> Iterator[Path]:
    """Yield a file that MMCore can load: the configuration itself, or for a while a copy of it in UTF-8."""
    if config.is_utf8:
        yield config.path
        return
    with tempfile.TemporaryDirectory(prefix="scotopic-") as folder:
        copy = Path(folder) / config.path.name
        copy.write_text(config.text, encoding="utf-8")
        yield copy
