"""A first profile of a microscope, from what its hardware says of itself."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import yaml
from pymmcore_plus import DeviceType, PropertyType

from scotopic.microscope.lamps import POWER_NAMES, SYSTEM_PRESETS, config_lines, lamps_of_core

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pymmcore_plus import CMMCorePlus

logger = logging.getLogger(__name__)
_SWITCH_NAMES = re.compile(r"enable|state|on.?off|^on$|emission|shutter", re.IGNORECASE)
_OFF_VALUES = ("0", "Off", "off", "OFF", "Disabled", "False")
UNKNOWN = "# ?"
"""Marks the lines of a new profile that its user must fill in."""
_COMMENTS_AT = 32
_LIGHTS = (DeviceType.Generic, DeviceType.Shutter, DeviceType.SignalIO, DeviceType.Galvo, DeviceType.Hub)


@dataclass(frozen=True)
class Power:
    """A property that could set the power of a light."""

    device: str
    property: str
    least: float
    most: float
    """Smallest and largest value that the device allows."""
    is_whole: bool
    """Whether it takes whole numbers only."""


@dataclass(frozen=True)
class Switch:
    """A property that could switch a light on and off."""

    device: str
    property: str
    off: str


@dataclass(frozen=True)
class Hardware:
    """What of a microscope's devices could serve for what: the likeliest first, as its `.cfg` chose."""

    cameras: tuple[str, ...]
    xy_stages: tuple[str, ...]
    z_drives: tuple[str, ...]
    autofocus: tuple[str, ...]
    shutters: tuple[str, ...]
    """The likeliest first: that of the exposures."""
    gated: tuple[str, ...]
    """Those of them that it opens and closes itself."""
    lamps: tuple[Switch, ...]
    """What switches off the lamps whose power cannot be set."""
    powers: tuple[Power, ...]
    switches: tuple[Switch, ...]
    presets: dict[str, tuple[str, ...]]
    """Config group -> presets, the group of channels first."""
    width_px: int
    height_px: int
    bits: int
    pixel_size_um: float
    """0 where the `.cfg` does not say."""
    exposure_ms: tuple[float, float] | None
    """Shortest and longest exposure, where the camera says."""


def look_at_hardware(core: CMMCorePlus) -> Hardware:
    """Ask loaded hardware what it is; nothing moves, nothing is lit."""

    def of_type(kind: DeviceType, current: str) -> tuple[str, ...]:
        labels = core.getLoadedDevicesOfType(kind)
        return tuple(sorted(labels, key=lambda label: label != current))

    camera = core.getCameraDevice()
    shutters, powers, switches = (
        of_type(DeviceType.Shutter, core.getShutterDevice()),
        _powers(core),
        tuple(_switches(core)),
    )
    groups = sorted(core.getAvailableConfigGroups(), key=lambda g: (g != core.getChannelGroup(), g != "Channel"))
    return Hardware(
        cameras=of_type(DeviceType.Camera, camera),
        xy_stages=of_type(DeviceType.XYStage, core.getXYStageDevice()),
        z_drives=of_type(DeviceType.Stage, core.getFocusDevice()),
        autofocus=of_type(DeviceType.AutoFocus, core.getAutoFocusDevice()),
        shutters=shutters,
        gated=tuple(_works_on(core, shutters[0]) if shutters else ()),
        lamps=tuple(_lamps(core, shutters, {power.device for power in powers}, switches)),
        powers=tuple(powers),
        switches=switches,
        presets={group: tuple(core.getAvailableConfigs(group)) for group in groups if group not in {"System", "Core"}},
        width_px=core.getImageWidth() if camera else 0,
        height_px=core.getImageHeight() if camera else 0,
        bits=core.getImageBitDepth() if camera else 0,
        pixel_size_um=core.getPixelSizeUm(),
        exposure_ms=_exposures(core, camera),
    )


def _works_on(core: CMMCorePlus, shutter: str) -> Iterator[str]:
    """Yield the devices that a shutter made of others works on."""
    devices = set(core.getLoadedDevices())
    with _told_if_it_does_not_answer(shutter):
        for name in core.getDevicePropertyNames(shutter):
            if (value := core.getProperty(shutter, name)) in devices:
                yield value


def _lamps(
    core: CMMCorePlus, shutters: Sequence[str], powers: Collection[str], switches: Sequence[Switch]
) -> Iterator[Switch]:
    """Yield what switches off each lamp that is no shutter and has no power: its switch, or what the system presets set of it."""
    lamps = lamps_of_core(core, shutters[0] if shutters else None)
    done = {*shutters, *powers}
    for preset in SYSTEM_PRESETS:
        for device, name, value in config_lines(core, "System", preset):
            known = device in lamps.lamps or (device, name) in lamps.switched_off
            if device not in done and known and lamps.is_off(device, name, value):
                done.add(device)
                yield Switch(device, name, value)
    for device in sorted(lamps.lamps - done):
        own = [switch for switch in switches if switch.device == device]
        if core.getDeviceType(device) == DeviceType.State:
            own = [Switch(device, "State", "0")]
        yield from own


def _exposures(core: CMMCorePlus, camera: str) -> tuple[float, float] | None:
    if not camera or not core.hasProperty(camera, "Exposure") or not core.hasPropertyLimits(camera, "Exposure"):
        return None
    return core.getPropertyLowerLimit(camera, "Exposure"), core.getPropertyUpperLimit(camera, "Exposure")


def _powers(core: CMMCorePlus) -> list[Power]:
    found: list[tuple[int, Power]] = []
    for device, name in _properties(core):
        rank = next((number for number, each in enumerate(POWER_NAMES) if each in name.lower()), None)
        with _told_if_it_does_not_answer(device):
            kind = core.getPropertyType(device, name)
            is_number = kind in {PropertyType.Integer, PropertyType.Float}
            if rank is None or not is_number or not core.hasPropertyLimits(device, name):
                continue
            least, most = core.getPropertyLowerLimit(device, name), core.getPropertyUpperLimit(device, name)
            if most > 0:
                found.append((rank, Power(device, name, least, most, kind == PropertyType.Integer)))
    return [power for _, power in sorted(found, key=lambda each: each[0])]


@contextmanager
def _told_if_it_does_not_answer(device: str) -> Iterator[None]:
    """Let one device that does not answer not hide the others, but say which it is."""
    try:
        yield
    except RuntimeError as error:
        logger.warning("%s does not answer all that it is asked: %s", device, error)


def _switches(core: CMMCorePlus) -> Iterator[Switch]:
    for device, name in _properties(core):
        allowed: tuple[str, ...] = ()
        with _told_if_it_does_not_answer(device):
            allowed = core.getAllowedPropertyValues(device, name)
        off = next((value for value in _OFF_VALUES if value in allowed), None)
        if off is not None and len(allowed) == 2 and _SWITCH_NAMES.search(name):
            yield Switch(device, name, off)


def _properties(core: CMMCorePlus) -> Iterator[tuple[str, str]]:
    """Yield device and property of what could be light: not read-only, nor to be set before a device is initialised."""
    for device in core.getLoadedDevices():
        if core.getDeviceType(device) not in _LIGHTS:
            continue
        with _told_if_it_does_not_answer(device):
            for name in core.getDevicePropertyNames(device):
                if not core.isPropertyReadOnly(device, name) and not core.isPropertyPreInit(device, name):
                    yield device, name


def profile_text(hardware: Hardware, name: str, config: str) -> str:
    """Return a commented profile. What nobody but its user can know stands there empty, and `check` asks for it."""
    h = hardware
    power = h.powers[0] if h.powers else None
    return "\n".join(
        _aligned(line)
        for line in [
            f"# What scotopic must know about {name}, beside {config}: written from what the hardware said.",
            f"# Read each line. Those with `{UNKNOWN}` nobody but you can know: fill them in, `scotopic check` asks for them.",
            f"name: {_quoted(name)}",
            f"config: {_quoted(config)}",
            "objective: ''                    # for the record, for example 20x/0.75 air",
            "",
            "camera:",
            f"  device: {_first(h.cameras)}{_others(h.cameras)}",
            f"  width_px: {h.width_px}                  # as acquired: after binning and region of interest",
            f"  height_px: {h.height_px}",
            _pixel_size(h.pixel_size_um),
            *([f"  min_exposure_ms: {h.exposure_ms[0]:g}"] if h.exposure_ms and h.exposure_ms[0] > 0 else []),
            "  # From the data sheet at first, better measured: a wrong offset ruins everything at 0.05 % light.",
            "  offset_counts:                   # ? counts of a dark image",
            "  gain_e_per_count:                # ? photo-electrons a count",
            "  read_noise_e:                    # ? of a pixel, in photo-electrons",
            f"  saturation_counts: {2**h.bits - 1}         # {h.bits} bits, as the camera says",
            "",
            "light_sources:",
            f"  {_channel(h)}:                              # the name that protocols use",
            *_preset_lines(h),
            *_power_lines(h.powers, settle_ms=20 if h.shutters else 0),
            "    switch_off:                    # what makes it dark, in this order. What stands here beside the power must",
            "                                   # be switched on again by the channel's preset.",
            *(
                f"      - {{device: {_quoted(device)}, property: {_quoted(prop)}, value: 0}}"
                for device, prop in ([(power.device, power.property)] if power and power.least <= 0 else [])
            ),
            *(
                f"      # - {{device: {_quoted(s.device)}, property: {_quoted(s.property)}, value: {_quoted(s.off)}}}"
                for s in h.switches
                if s.device not in h.shutters and s not in h.lamps
            ),
            *(line for other in h.powers[1:] for line in _another_light(other, h)),
            "",
            *_gating_lines(h.shutters),
            *_dark_lines(h),
            "",
            "stage:",
            f"  xy_device: {_first(h.xy_stages)}{_others(h.xy_stages)}",
            f"  z_device: {_first(h.z_drives)}{_others(h.z_drives)}",
            *([f"  autofocus_device: {_first(h.autofocus)}{_others(h.autofocus)}"] if h.autofocus else []),
            "  x_um:                            # ? [smallest, largest] that is safe: nothing ever moves outside",
            "  y_um:                            # ?",
            "  z_um:                            # ? keep the objective clear of plate and holder",
            "",
            "# Drive to the centre of A1 and of two far wells and write down what the stage shows. Mirrored axes are found.",
            "plate_calibration:",
            "  A1:                              # ? [x, y] in um",
            "  A12:                             # ?",
            "  H1:                              # ?",
            "",
        ]
    )


def _aligned(line: str) -> str:
    """Put the comment behind a key where those of other lines stand."""
    parts = re.fullmatch(r"( *[^ #'](?:[^'#]|'(?:[^']|'')*'|(?<! )#)*) (# .*)", line)
    return f"{parts[1].rstrip():<{_COMMENTS_AT}} {parts[2]}" if parts else line


def _quoted(text: str) -> str:
    """Return a text as YAML takes it whatever is in it."""
    quoted: str = yaml.safe_dump(text, default_style="'", width=10_000, allow_unicode=True)
    return quoted.strip()


def _first(labels: Sequence[str]) -> str:
    return _quoted(labels[0]) if labels else "                           # ? the .cfg has none"


def _others(labels: Sequence[str]) -> str:
    return f"    # or {', '.join(labels[1:])}" if len(labels) > 1 else ""


def _pixel_size(pixel_size_um: float) -> str:
    if pixel_size_um > 0:
        return f"  pixel_size_um: {pixel_size_um:g}              # of the objective that is in now, as the .cfg says"
    return "  pixel_size_um:                   # ? camera pixel / magnification; the .cfg does not say"


def _channel(hardware: Hardware) -> str:
    names = [preset for presets in hardware.presets.values() for preset in presets]
    return _quoted(next((name for name in names if re.search("dapi|hoechst", name, re.IGNORECASE)), "DAPI"))


def _preset_lines(hardware: Hardware) -> list[str]:
    if not hardware.presets:
        return ["    preset_group:                  # null: the .cfg has no config groups for filters and mirrors"]
    channel = _channel(hardware)
    group, presets = next(
        ((g, p) for g, p in hardware.presets.items() if channel in map(_quoted, p)),
        next(iter(hardware.presets.items())),
    )
    known = f"    # of {', '.join(map(_quoted, presets))}"
    preset = channel if channel in map(_quoted, presets) else "                           # ?"
    others = [f"    # further groups of the .cfg: {', '.join(each for each in hardware.presets if each != group)}"]
    return [
        f"    preset_group: {_quoted(group)}",
        f"    preset: {preset}{known}",
        *others * (len(hardware.presets) > 1),
    ]


def _power_lines(powers: Sequence[Power], settle_ms: int) -> list[str]:
    if not powers:
        return [
            "    device:                        # ? no property of the hardware looks like the power of a light",
            "    property:                      # ?",
            "    max:                           # ? its value at 100 % power",
            "    step:                          # ? its smallest change",
        ]
    power = powers[0]
    step = 1 if power.is_whole else power.most / 1000
    return [
        f"    device: {_quoted(power.device)}                   # what sets the power",
        f"    property: {_quoted(power.property)}",
        f"    min: {max(power.least, 0):.15g}                         # below this many the light is not reliable: see its data sheet",
        f"    max: {power.most:.15g}                        # value at full power: the largest that the device allows",
        f"    step: {step:.15g}                       # smallest change"
        + " that is real: see its data sheet" * (not power.is_whole),
        f"    settle_ms: {settle_ms}                  # until a new power is stable",
    ]


def _another_light(power: Power, hardware: Hardware) -> list[str]:
    """Return a light source of its own for a further power: what is not named here is not switched off."""
    free = [name for presets in hardware.presets.values() for name in presets if _quoted(name) != _channel(hardware)]
    return [
        f"  {_quoted(f'{power.device} {power.property}')}:    # another light: give it its channel's name; what is named here is switched off too",
        "    preset_group: null             # or the group of its preset"
        + (f", of {', '.join(map(_quoted, free))}" if free else ""),
        "    # transmitted: true            # if its light goes through the sample, as for brightfield",
        f"    device: {_quoted(power.device)}",
        f"    property: {_quoted(power.property)}",
        f"    min: {max(power.least, 0):.15g}",
        f"    max: {power.most:.15g}",
        f"    step: {1 if power.is_whole else power.most / 1000:.15g}",
        "    switch_off:",
        f"      - {{device: {_quoted(power.device)}, property: {_quoted(power.property)}, value: 0}}"
        + ("" if power.least <= 0 else f"    # ? the device allows {power.least:g} at least"),
    ]


def _gating_lines(shutters: Sequence[str]) -> list[str]:
    """Return what lets light onto the sample: MMCore's shutter where there is one."""
    lines = [
        "gating:                            # what lets light onto the sample, and for how long beyond the exposure"
    ]
    if shutters:
        lines += [
            "  how: core_shutter                # MMCore opens and closes it around each exposure",
            f"  shutter: {_first(shutters)}{_others(shutters)}",
            "  overhead_ms:                     # ? measure it, 15 to 55 behind many shutters: each dose is computed with it",
        ]
    else:
        lines += [
            "  how: software                    # no shutter in the .cfg: the power is set before and after each exposure",
            "  overhead_ms:                     # ? measure it: each dose is computed with it",
        ]
    return [
        *lines,
        "  # With a wire from the camera's exposure output to the light the sample sees no more light than the image:",
        "  # how: camera_ttl",
        "  # overhead_ms: 0.1",
    ]


def _dark_lines(hardware: Hardware) -> list[str]:
    """Return what is to be dark throughout: all shutters and lamps that no channel of the profile uses."""
    h = hardware
    used = {*h.gated, *(power.device for power in h.powers)}
    shutters = [_quoted(label) for label in h.shutters[1:] if label not in used]
    lines = [
        "",
        "# Dark throughout, whatever a preset says. If a channel needs one of these, move it to that channel's switch_off, and",
        "# let its preset switch it on. What `check` takes for a light and is none goes into `no_light: [label]`.",
    ]
    if shutters:
        lines.append(f"keep_closed: [{', '.join(shutters)}]")
    if h.lamps:
        lines.append("keep_off:")
        lines += [
            f"  - {{device: {_quoted(s.device)}, property: {_quoted(s.property)}, value: {_quoted(s.off)}}}"
            for s in h.lamps
        ]
    return lines if shutters or h.lamps else []
