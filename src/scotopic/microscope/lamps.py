"""Which settings of a configuration give light: shutters, lamps and lasers, and what is known of them.

MMCore knows shutters by their type, and nothing else of what gives light: all other is told from names, and from what the
configuration's system presets switch off. A wrong guess is corrected in the profile (`no_light`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pymmcore_plus import DeviceType

from scotopic.protocol import same_property

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pymmcore_plus import CMMCorePlus

    from scotopic.microscope.config_file import ConfigFile
    from scotopic.protocol import LightSource, MicroscopeProfile

Line = tuple[str, str, str]
"""Device, property and value."""

POWER_NAMES = ("intensity", "power", "level", "voltage", "brightness", "current", "volts", "percent")
"""What light sources call their power, the likeliest first."""
_POWER = frozenset(POWER_NAMES)
_SWITCH = frozenset(
    "state label enable enabled on off emission shutter open select selected switch laser lamp led output".split()
)
_LIGHT = frozenset({"lamp", "laser", "led", "shutter", "halogen", "light"})
_NEITHER = frozenset(
    "black zoom trigger limit min max minimum maximum unit units mode factor help meter monitored delay time number version "
    "filter wheel wavelength position".split()
)
"""Words of properties that are neither power nor switch: `Power Units`, `ShutterMode`, `BlackLevel`, `Emission Filter`."""
_OFF = frozenset("off closed close shut disabled disable false no none dark blocked standby".split())
_ON = frozenset("on open opened enabled enable true yes".split())
_OPPOSITE = {"on": "Off", "open": "Closed", "opened": "Closed", "enabled": "Disabled", "true": "False", "yes": "No"}
_LAMP = re.compile(
    r"LED(?![a-z]{3})|(?<![A-Za-z])[Ll]eds?(?![a-z])|(?i:laser|lamp|halogen|mercury|xenon|lumencor|lumen(?!era)|coolled|scopeled|"
    r"xled|colibri|x-?cite|spectra|obis|stradus|vortran|cobolt|coherent|sapphire|skyra|toptica|ibeam|omicron|oxxius|superk|aotf|"
    r"niji|northldi|intensilight|precisexcite|mightex|prizmatix|chrolis|thorlabsdc|neopixel|fluotube|yodn|mt20|illuminator|"
    r"light.?(?:source|engine)|(?:transmitted|incident|reflected).?(?:light|illum))"
)
"""In the name of a device, its adapter or its library: light sources among MMCore's adapters, and what people call theirs."""
_LAMP_LABEL = re.compile(r"(?i:tl|dia|bf|trans|transmitted|bright.?field|white.?light|arc|hbo)[ _-]?\d*")
"""What people call a lamp, where it is all of the label."""
_CARRIERS = frozenset({DeviceType.Generic, DeviceType.SignalIO, DeviceType.State, DeviceType.Galvo, DeviceType.Hub})
"""Types of devices that a lamp may have, beside that of a shutter."""
STARTUP, SHUTDOWN = SYSTEM_PRESETS = ("Startup", "Shutdown")
"""Presets of the group `System` that MMCore sets by itself: when it has loaded a configuration, and before it unloads one."""
_SYSTEM, _CORE = "System", "Core"


def words(name: str) -> frozenset[str]:
    """Return the words of a name: `UV_Enable`, `OnOff`, `LEDIntensity`."""
    return frozenset(each.lower() for each in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name))


def line_of(name: str) -> frozenset[str]:
    """Return what a property of a light engine says of the line that it is for; nothing where there is but one, or it is for all."""
    return words(name) - _POWER - _SWITCH


def is_own_line(source: LightSource, device: str, name: str) -> bool:
    """Return whether a property is of the line that gives a channel's light: `UV_Enable` beside `UV_Intensity`."""
    return device == source.device and line_of(name) == line_of(source.property)


def is_a_number(value: str) -> bool:
    """Return whether a property's value is a number."""
    try:
        float(value)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class Lamps:
    """What of a microscope's devices may give light."""

    shutters: frozenset[str]
    lamps: frozenset[str]
    """Labels of what is called a lamp, a laser or the like, or works behind a shutter that the profile does not name."""
    inert: frozenset[str]
    """Labels of what gives no light, whatever its properties are called."""
    labels: Mapping[str, Mapping[int, str]]
    """Names of positions, by state device and number."""
    switched_off: frozenset[tuple[str, str]]
    """Device and property of what the configuration's system presets switch off."""

    def switches_on(self, device: str, name: str, value: str) -> str:
        """Return what a setting does that gives light, in words; nothing if it gives none as far as one can tell."""
        if device in self.inert or self.is_off(device, name, value):
            return ""
        known = words(name) - _NEITHER == words(name)
        is_position, is_power = same_property(name, "State"), known and bool(words(name) & _POWER)
        is_switch = is_position or (known and bool(words(name) & _SWITCH) and _says_on(value))
        if device in self.shutters and (is_position or words(value) & _ON):
            return "opens a shutter"
        if device in self.shutters | self.lamps and (is_switch or is_power):
            return "switches on a lamp"
        if (device, _one(name)) in self.switched_off:
            return "switches on what the system presets of the configuration switch off"
        if is_power and is_a_number(value):
            return "sets the power of a light"
        return "switches on a light" if is_switch and words(name) & _LIGHT else ""

    def is_off(self, device: str, name: str, value: str) -> bool:
        """Return whether a value switches off, as far as values say it: zero, `Off`, `Closed`; of a state device its first position."""
        if same_property(name, "State"):
            positions = self.labels.get(device, {})
            number = next((n for n, label in positions.items() if label == value), None)
            if name == "State" and is_a_number(value):
                number = int(float(value))
            label = words(positions.get(number, "") if number is not None else value)
            return bool(label & _OFF) or (number == 0 and not label & _ON)
        return float(value) == 0 if is_a_number(value) else bool(words(value) & _OFF)

    def off_line(self, device: str, name: str, value: str) -> str:
        """Return the line of a profile that switches off what a setting switches on."""
        if device in self.shutters and same_property(name, "State"):
            return f"keep_closed: [{device}]"
        off = "0" if is_a_number(value) else next((_OPPOSITE[w] for w in words(value) if w in _OPPOSITE), "0")
        if name == "Label":
            dark = [label for label in self.labels.get(device, {}).values() if words(label) & _OFF]
            name, off = ("Label", dark[0]) if dark else ("State", "0")
        return f"keep_off: [{{device: {device}, property: {name}, value: {off}}}]"


def _one(name: str) -> str:
    return "State" if same_property(name, "State") else name


def _says_on(value: str) -> bool:
    return float(value) != 0 if is_a_number(value) else bool(words(value) & _ON)


def lamps_in_file(config: ConfigFile, profile: MicroscopeProfile) -> Lamps:
    """Return what gives light as far as a configuration says it: by the names of devices and their adapters."""
    origins = config.devices
    named = {label: f"{label} {origin}" for label, origin in origins.items()}
    ports = {device.name for device in config.model.devices if device.library == "SerialManager"}
    return _lamps(
        profile.gating.shutter,
        shutters={label for label in origins if "shutter" in f"{label} {origins[label].rpartition('.')[2]}".lower()},
        lamps=_called_lamps(named),
        inert=ports | {profile.camera.device, *_moved(profile), *profile.no_light},
        labels={device.name: dict(enumerate(device.labels)) for device in config.model.devices},
        behind=[(device, name, value) for device, name, value in config.loaded if value in origins],
        system={preset: config.preset(_SYSTEM, preset) or [] for preset in SYSTEM_PRESETS},
    )


def _moved(profile: MicroscopeProfile) -> Iterator[str]:
    stage = profile.stage
    yield from filter(None, (stage.xy_device, stage.z_device, stage.autofocus_device))


def lamps_of_core(core: CMMCorePlus, shutter: str | None, no_light: Iterable[str] = ()) -> Lamps:
    """Return what gives light as far as MMCore says it: shutters by their type, all other by names.

    Parameters
    ----------
    shutter : str, optional
        Label of the shutter that exposures open.
    no_light : iterable of str
        Labels of devices that are known to give none.
    """
    kinds: dict[str, DeviceType] = {label: core.getDeviceType(label) for label in core.getLoadedDevices()}
    shutters = {label for label, kind in kinds.items() if kind == DeviceType.Shutter}
    carriers = {label for label, kind in kinds.items() if kind in _CARRIERS}
    named = {label: f"{label} {core.getDeviceLibrary(label)}.{core.getDeviceName(label)}" for label in carriers}
    states = [label for label in carriers if kinds[label] == DeviceType.State]
    return _lamps(
        shutter,
        shutters=shutters,
        lamps=_called_lamps(named),
        inert=(set(kinds) - carriers - shutters) | set(no_light),
        labels={label: dict(enumerate(core.getStateLabels(label))) for label in states},
        behind=[
            (label, name, value)
            for label in shutters
            for name in core.getDevicePropertyNames(label)
            if (value := core.getProperty(label, name)) in kinds
        ],
        system={preset: config_lines(core, _SYSTEM, preset) for preset in SYSTEM_PRESETS},
    )


def _called_lamps(named: Mapping[str, str]) -> set[str]:
    """Return the labels of what is called a lamp: by its label, or by all that is known of its origin."""
    return {label for label, origin in named.items() if _LAMP.search(origin) or _LAMP_LABEL.fullmatch(label)}


def config_lines(core: CMMCorePlus, group: str, preset: str) -> list[Line]:
    """Return device, property and value of each line of a preset; none where it is not defined."""
    if not core.isGroupDefined(group) or not core.isConfigDefined(group, preset):
        return []
    return [(line[0], line[1], line[2]) for line in core.getConfigData(group, preset)]


def _lamps(
    shutter: str | None,
    *,
    shutters: set[str],
    lamps: set[str],
    inert: set[str],
    labels: Mapping[str, Mapping[int, str]],
    behind: Iterable[Line],
    system: Mapping[str, Iterable[Line]],
) -> Lamps:
    """Put together what is known; `behind` are properties of devices whose value is the label of another device."""
    # What the exposures' own shutter works on is gated by it, unless it is a shutter that can be opened by itself.
    gated = {works_on for each, _, works_on in behind if each == shutter} - shutters
    inert = inert | gated | {_CORE}
    ungated = shutters - inert - {shutter}
    lamps = lamps | {works_on for each, name, works_on in behind if each in ungated and name != "HubID"}
    found = Lamps(frozenset(shutters - inert), frozenset(lamps - inert), frozenset(inert), labels, frozenset())
    off = {
        (device, _one(name))
        for preset, lines in system.items()
        for device, name, value in lines
        if found.is_off(device, name, value) and _tells_a_lamp(found, preset, device, name)
    }
    return replace(found, switched_off=frozenset(off))


def _tells_a_lamp(lamps: Lamps, preset: str, device: str, name: str) -> bool:
    """Return whether that something is switched off by a system preset shows that it gives light.

    Filter wheels are set to their first position as well, so of a state device only positions called off count, or at
    shutdown one without names.
    """
    if not same_property(name, "State"):
        return bool(words(name) & (_POWER | _SWITCH)) and not words(name) & _NEITHER
    labels = lamps.labels.get(device, {})
    named = any(words(label) & _OFF for label in labels.values())
    return named or (
        preset == SHUTDOWN and not any(words(label) - {"state"} - set(map(str, labels)) for label in labels.values())
    )
