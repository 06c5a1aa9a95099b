"""Light off without the rest of the microscope: only the devices of the light are loaded, no stage homes, no camera is touched."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from scotopic.microscope.adapters import adapter_folder
from scotopic.microscope.config_file import read_config
from scotopic.microscope.core import PythonDeviceCore, close_microscope, switch_light_off

if TYPE_CHECKING:
    from scotopic.microscope.config_file import ConfigFile
    from scotopic.protocol import MicroscopeProfile

_PYTHON = "#py "
_CORE = "Core"


def light_off_alone(profile: MicroscopeProfile, profile_path: Path) -> None:
    """Load the devices of the light with their hubs and ports, switch all of it off, and read that back.

    Raises
    ------
    ProblemsError
        If the configuration cannot be read.
    RuntimeError
        If a device cannot be loaded (another process may have its port), or some light stays on (`LightOnError`).
    """
    config = read_config(profile.config_path(profile_path))
    needed = light_devices(config, profile)
    folder = adapter_folder(config.libraries_of(needed))
    core = PythonDeviceCore(mm_path=str(folder or profile_path.parent))
    try:
        with tempfile.TemporaryDirectory(prefix="scotopic-") as place:
            path = Path(place) / "light.cfg"
            path.write_text(light_config(config, needed), encoding="utf-8")
            core.loadSystemConfiguration(str(path))
        switch_light_off(core, profile)
    finally:
        close_microscope(core)


def light_devices(config: ConfigFile, profile: MicroscopeProfile) -> set[str]:
    """Return the labels of what gives light and lets it through, with everything that they need: hubs, ports, shutters behind a shutter."""
    needed = {setting.device for _, setting, _ in profile.off_settings()} | set(profile.shutters)
    # A wheel that cannot be dark is not needed, and would home.
    needed |= {source.device for source in profile.light_sources.values() if source.labels is None}
    lines = [_words(line) for line in config.text.splitlines()]
    parents = {words[1]: words[2] for words in lines if words[:1] == ["Parent"] and len(words) > 2}
    values = [(words[1], words[3]) for words in lines if words[:1] == ["Property"] and len(words) > 3]
    while True:
        more = {parents[each] for each in needed if each in parents}
        more |= {value for device, value in values if device in needed and value in config.devices}
        if more <= needed:
            return needed
        needed |= more


def light_config(config: ConfigFile, needed: set[str]) -> str:
    """Return the lines of a configuration that load these devices; no presets, of which one at startup might be light."""
    kept = []
    for line in config.text.splitlines():
        match _words(line):
            case ["Device" | "pyDevice", label, *_] | ["Parent" | "Delay" | "Label", label, *_]:
                keep = label in needed
            case ["Property", device, name, *_]:
                keep = device in needed or (device == _CORE and name == "Initialize")
            case _:
                keep = False
        if keep:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _words(line: str) -> list[str]:
    return [word.strip() for word in line.strip().removeprefix(_PYTHON).split(",")]
