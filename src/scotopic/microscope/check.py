from __future__ import annotations

import math
import shutil
import tempfile
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from scotopic.microscope.config_file import read_config
from scotopic.microscope.lamp_check import check_lamps_in_file
from scotopic.microscope.presets import CORE, contradiction, ours
from scotopic.protocol import (
    LEAST_WELLS,
    HardwareFocus,
    ImagingProtocol,
    MicroscopeProfile,
    PlaneFocus,
    Problem,
    ProblemsError,
    SiteGrid,
    did_you_mean,
    full_light_ms,
    relative_dose,
    rounded,
    setting_for,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    import useq

    from scotopic.microscope.config_file import ConfigFile
    from scotopic.protocol import LightLevel, LightSource

SIMULATOR_HUB = "scotopic.simulator.devices.Simulator"
BYTES_PER_PIXEL = 2
PYRAMID_AND_LABELS = 1.6
"""Disk needed for a frame, its pyramid (a third more) and its label images, relative to the raw frame."""
DOSE_DIFFERENCE_WORTH_A_WARNING = 0.2
DISK_RESERVE_BYTES = 500_000_000
"""Disk that is always left free: a run waits for room before it takes it."""
DEFAULT_AFFINE = (1, 0, 0, 0, 1, 0)
"""What MMCore says where nobody has measured how the camera lies on the stage."""


@dataclass
class CheckReport:
    """What the check found, for printing."""

    devices: list[tuple[str, str, str]] = field(default_factory=list)
    """(used for, device or preset, where it comes from)."""
    levels: list[tuple[str, str, str, str, str]] = field(default_factory=list)
    """(level, exposure, LED setting, dose of the signal, dose of the sample), relative to the reference."""
    facts: list[tuple[str, str]] = field(default_factory=list)
    """(what, how much)."""
    warnings: list[Problem] = field(default_factory=list)
    """Worth knowing, but no obstacle."""
    problems: list[Problem] = field(default_factory=list)
    """Each of these must be mended first."""


@dataclass(frozen=True)
class Subject:
    """What is checked, and the report that is written."""

    protocol: ImagingProtocol
    protocol_path: Path
    profile: MicroscopeProfile
    profile_path: Path
    report: CheckReport

    def blame_profile(self, key: str, message: str) -> None:
        """Note a problem that is to be mended in the profile."""
        self.report.problems.append(Problem(message, str(self.profile_path), key=key))

    def blame_protocol(self, key: str, message: str) -> None:
        """Note a problem that is to be mended in the protocol."""
        self.report.problems.append(Problem(message, str(self.protocol_path), key=key))

    def warn(self, path: Path, key: str, message: str) -> None:
        """Note what is worth knowing, but no obstacle."""
        self.report.warnings.append(Problem(message, str(path), key=key))


def check_files(
    protocol: ImagingProtocol, protocol_path: Path, profile: MicroscopeProfile, profile_path: Path, out: Path
) -> CheckReport:
    """Check a protocol against a microscope from the files alone: nothing is loaded, lit or moved.

    Parameters
    ----------
    protocol, profile : ImagingProtocol, MicroscopeProfile
        What to image and with what.
    protocol_path, profile_path : Path
        Files they were read from.
    out : Path
        Where the run would be written (need not exist), for the free disk space.

    Returns
    -------
    CheckReport
        All problems at once.
    """
    subject = Subject(protocol, protocol_path, profile, profile_path, CheckReport())
    try:
        config = read_config(profile.config_path(profile_path))
    except ProblemsError as error:
        subject.report.problems += error.problems
    else:
        _check_devices(subject, config)
        _check_pixel_size(subject, config)
        for affine in set(config.affines.values()):
            check_orientation(subject, config.path, affine)
        for doubt in config.doubts:
            subject.warn(config.path, "", doubt)
    _check_light(subject)
    _check_wells(subject)
    try:
        protocol.sites_in_travel_order(profile.camera.fov_um)
    except ValueError as error:
        subject.blame_protocol("sites", str(error))
    else:
        _check_places(subject)
    _check_disk(subject, out)
    return subject.report


def _check_wells(subject: Subject) -> None:
    left, held_out = subject.protocol.training_wells, subject.protocol.held_out_wells
    if held_out and len(left) < 2:
        told = f"Only one training well ({', '.join(left)}). At least two are needed, one of them for validation"
        subject.warn(subject.protocol_path, "wells", told)
    if 0 < len(held_out) < LEAST_WELLS and subject.protocol.live is None:
        told = (
            f"{len(held_out)} held-out well{'s' if len(held_out) > 1 else ''}: the report cannot recommend a light level, because the spread between wells is "
            f"not known; hold out at least {LEAST_WELLS} (6 are usual)"
        )
        subject.warn(subject.protocol_path, "held_out", told)


# ---------------------------------------------------------------------- devices


def _check_devices(subject: Subject, config: ConfigFile) -> None:
    profile, protocol, report = subject.profile, subject.protocol, subject.report
    named = [
        ("camera", "camera.device", profile.camera.device),
        ("XY stage", "stage.xy_device", profile.stage.xy_device),
        ("Z drive", "stage.z_device", profile.stage.z_device),
    ]
    if profile.stage.autofocus_device is not None:
        named.append(("autofocus", "stage.autofocus_device", profile.stage.autofocus_device))
    if profile.gating.shutter is not None:
        named.append(("shutter", "gating.shutter", profile.gating.shutter))
    named += [("kept closed", f"keep_closed[{i}]", label) for i, label in enumerate(profile.keep_closed)]
    named += [
        (f"kept off ({s.property} = {s.as_text()})", f"keep_off[{i}].device", s.device)
        for i, s in enumerate(profile.keep_off)
    ]
    named += [("no light", f"no_light[{i}]", label) for i, label in enumerate(profile.no_light)]
    if profile.simulator is not None:
        hub = profile.simulator.hub
        named.append(("simulator", "simulator.hub", hub))
        if hub in config.devices and config.devices[hub] != SIMULATOR_HUB:
            subject.blame_profile("simulator.hub", f"= {hub!r}: is {config.devices[hub]}, not {SIMULATOR_HUB}")
    for channel, source in profile.light_sources.items():
        key = f"light_sources.{channel}"
        named.append((f"LED power of {channel} ({source.property})", f"{key}.device", source.device))
        named += [
            (f"light off of {channel} ({s.property} = {s.as_text()})", f"{key}.switch_off[{i}].device", s.device)
            for i, s in enumerate(source.switch_off)
        ]
    for use, key, label in named:
        origin = config.devices.get(label)
        report.devices.append((use, label, origin or "not in the .cfg"))
        if origin is None:
            subject.blame_profile(
                key, f"= {label!r}: no device of this label in {config.path.name}{hint(label, config.devices)}"
            )
    _check_presets(subject, config)
    check_lamps_in_file(subject, config)
    _check_libraries(subject, config)
    if profile.gating.how == "camera_ttl" and protocol.exposure_order != "as_listed":
        report.facts.append(("light gating", "by the camera, light on only while it exposes"))


def _check_presets(subject: Subject, config: ConfigFile) -> None:
    """Check what the protocol's channels set, line by line; of the other channels, that their presets exist."""
    profile, used = subject.profile, subject.protocol.channels
    for channel in used:
        try:
            source = profile.light_source(channel)
        except ValueError as error:
            subject.blame_protocol("channel" if channel == subject.protocol.channel else "light_levels", str(error))
        else:
            _check_channel(subject, config, channel, source)
    for other, its in profile.light_sources.items():
        if other not in used:
            for group, name in its.presets(other):
                if missing := _missing_preset(config, group, name):
                    subject.warn(subject.profile_path, f"light_sources.{other}", missing)


def _check_channel(subject: Subject, config: ConfigFile, channel: str, source: LightSource) -> None:
    if not source.presets(channel):
        subject.report.devices.append((f"channel {channel}", "no preset: nothing to set", "the profile"))
    lit = set()
    for group, name in source.presets(channel):
        missing = _missing_preset(config, group, name)
        origin = "not in the .cfg" if missing else "preset"
        subject.report.devices.append((f"channel {channel}", f"{_shown(group)}: {_shown(name)}", origin))
        if missing:
            subject.blame_profile(f"light_sources.{channel}", missing)
            return
        for line in config.preset(group, name) or ():
            _check_preset_line(subject, config, channel, f"{_shown(group)}: {_shown(name)}", line)
            lit.add((line[0], config.state(*line)[0]))
    _check_what_is_switched_on(subject, config, channel, lit)


def _missing_preset(config: ConfigFile, group: str, name: str) -> str:
    """Return what is missing of a preset, with the nearest name that there is; nothing if it is there."""
    groups = config.model.config_groups
    if group not in groups:
        near = did_you_mean(group, groups)
        otherwise = (
            f"there are: {', '.join(map(_shown, groups)) or 'none'}; `preset_group: null` if there is nothing to set"
        )
        return f"no config group {group!r} in {config.path.name}; {near or otherwise}"
    if config.preset(group, name) is None:
        return f"no preset {name!r} in group {group!r} in {config.path.name}{hint(name, groups[group].presets)}"
    return ""


def _check_preset_line(
    subject: Subject, config: ConfigFile, channel: str, preset: str, line: tuple[str, str, str]
) -> None:
    device, name, value = line
    source = subject.profile.light_source(channel)
    origin = config.devices.get(device)
    subject.report.devices.append((f"  {name} = {value}", device, origin or "not in the .cfg"))
    key, told = f"light_sources.{channel}", f"the preset {preset} sets {device}.{name} = {value}"
    if origin is None and device != CORE:
        subject.blame_profile(key, f"preset {preset} sets {device!r}, no such device")
    elif wrong := contradiction(subject.profile, source, config, device, name, value):
        subject.blame_profile(key, f"{told}, but {wrong}")
    elif why := ours(subject.profile, source, device, name):
        subject.warn(config.path, key, f"{told}, which is left out: {why}")


def _check_what_is_switched_on(subject: Subject, config: ConfigFile, channel: str, lit: set[tuple[str, str]]) -> None:
    """Blame what is switched off beside the power, and never on: by a preset, or as the gating's shutter."""
    source = subject.profile.light_source(channel)
    names = " and ".join(f"{group}: {name}" for group, name in source.presets(channel))
    for s in source.switch_off:
        if s.is_of(source.device, source.property) or s.device == subject.profile.gating.shutter:
            continue
        if (s.device, config.state(s.device, s.property, "")[0]) not in lit:
            where = f"the preset {names}" if names else "a preset that preset_group names"
            subject.blame_profile(
                f"light_sources.{channel}.switch_off",
                f"{s.device}.{s.property} is switched off but never on: set it in {where}",
            )


def _check_libraries(subject: Subject, config: ConfigFile) -> None:
    """MMCore lets one thread at a time into an adapter library: a camera that hangs there keeps the light out of reach."""
    profile = subject.profile
    sources = [
        profile.light_sources[channel] for channel in subject.protocol.channels if channel in profile.light_sources
    ]
    lit_by = {s.device for source in sources for s in source.switch_off}
    libraries = {device.name: device.library for device in config.model.devices if "." not in device.library}
    shared = libraries.get(profile.camera.device)
    reached = {*lit_by, *filter(None, [profile.gating.shutter])}
    if shared and reached and all(libraries.get(device) == shared for device in reached):
        subject.warn(
            config.path,
            "verification.camera_timeout_s",
            f"camera and light are of one adapter library ({shared}), which MMCore lets one thread use at a time: "
            "while a camera hangs, only the end of the process makes it dark",
        )


def _shown(name: str) -> str:
    """Show a name, in quotes where blanks would hide."""
    return repr(name) if name != name.strip() or "  " in name else name


def hint(name: str, known: Iterable[str]) -> str:
    """Return the known name that was probably meant, or all of them, as the end of a sentence."""
    known = list(known)
    return f"; {did_you_mean(name, known) or 'there are: ' + (', '.join(known) or 'none')}"


def _check_pixel_size(subject: Subject, config: ConfigFile) -> None:
    pixel = subject.profile.camera.pixel_size_um
    sizes = config.pixel_sizes_um
    if not sizes:
        subject.warn(config.path, "", f"no pixel size is defined; the profile's {pixel:g} um is used")
    elif not any(_is_binned(pixel, size) for size in sizes.values()):
        given = ", ".join(f"{name} {size:g} um" for name, size in sizes.items())
        subject.blame_profile(
            "camera.pixel_size_um", f"= {pixel:g}: {config.path.name} knows {given}, with no binning equal"
        )


def check_orientation(subject: Subject, path: Path, affine: Sequence[float]) -> None:
    """Warn of a camera whose axes do not lie along the plate's: sites overlap, and nuclei are put in the wrong place.

    Parameters
    ----------
    affine : sequence of six floats
        MMCore's map from pixels to stage micrometres (rows of a 2 x 3 matrix); its default says nothing.
    """
    if tuple(affine) == DEFAULT_AFFINE or not any(affine):
        return
    camera = np.array(affine, dtype=float).reshape(2, 3)[:, :2]
    try:
        plate = np.array(subject.profile.placement(subject.protocol.plate).matrix)[:, :2]
    except ValueError:
        return  # told with the places
    x_axis, y_axis = np.linalg.solve(plate, camera).T
    told = ", ".join(f"{value:g}" for value in affine)
    w, h = subject.profile.camera.fov_um
    turned = abs(x_axis[1]) > abs(x_axis[0])
    mirrored = x_axis[0] * y_axis[1] - x_axis[1] * y_axis[0] < 0
    degrees = math.degrees(math.atan2(x_axis[1], x_axis[0]))
    what = f"by its affine ({told}) the camera is turned by {degrees:.0f} degrees against the plate"
    what += " and mirrored" if mirrored else ""
    if turned and w != h:
        long, short, along, across = (w, h, "x", "y") if w > h else (h, w, "y", "x")
        subject.warn(
            path,
            "PixelSizeAffine",
            f"{what}, and it is not square: sites laid side by side would overlap by {1 - short / long:.0%} in {across} "
            f"and leave gaps of {long - short:g} um in {along}",
        )
    elif abs(degrees) > _STRAIGHT_DEGREES or mirrored:
        subject.warn(
            path,
            "PixelSizeAffine",
            f"{what}: positions of nuclei follow the image's axes; set the camera's TransposeXY, TransposeMirrorX or "
            "TransposeMirrorY so that they lie along the plate's",
        )


_STRAIGHT_DEGREES = 5.0


def _is_binned(pixel: float, size: float) -> bool:
    return size > 0 and any(math.isclose(pixel, size * binning, rel_tol=0.01) for binning in (1, 2, 3, 4, 8))


# ---------------------------------------------------------------------- light


def _check_light(subject: Subject) -> None:
    protocol, profile, report = subject.protocol, subject.profile, subject.report
    if any(channel not in profile.light_sources for channel in protocol.channels):
        return  # told with the presets
    if profile.light_source(protocol.channel).transmitted:
        told = (
            "goes through the sample (transmitted: true): masks come from stained images, and the reference must be one"
        )
        subject.blame_protocol("channel", f"= {protocol.channel!r}: {told}")
    overhead = profile.gating.overhead_ms
    site_signal: dict[str, float] = dict.fromkeys(protocol.channels, 0.0)
    site_sample, planned_ms = dict(site_signal), dict(site_signal)
    for level in protocol.levels_in_exposure_order:
        channel, full = protocol.channel_of(level), protocol.full_light(level)
        source = profile.light_source(channel)
        setting = source.setting(level.led_percent)
        signal = profile.signal_ms(channel, level.exposure_ms, level.led_percent)
        sample = profile.sample_ms(channel, level.exposure_ms, level.led_percent)
        full_signal = full_light_ms(protocol, profile, level)
        if not signal or not full_signal:
            dark = level if not signal else full
            told = f"{dark.exposure_ms:g} ms at {dark.led_percent:g} % give no light by what was measured: gating.lag_ms, dose_curve"
            subject.blame_protocol(f"light_levels {dark.name}", told)
            continue
        dose = relative_dose(protocol, profile, level)
        site_signal[channel] += signal
        site_sample[channel] += sample
        planned_ms[channel] += protocol.times_taken(level) * sample
        report.levels.append(
            (
                level.name + (f" ({channel})" if len(protocol.channels) > 1 else ""),
                f"{level.exposure_ms:g} ms",
                f"{source.property} {setting.text}",
                f"{dose:.4%}",
                f"{sample / profile.sample_ms(channel, full.exposure_ms, full.led_percent):.4%}",
            )
        )
        key = f"light_levels {level.name}"
        nominal = protocol.relative_dose(level)
        off = 100 * (dose / nominal - 1)
        if abs(off) > profile.verification.dose_tolerance_percent:
            subject.warn(
                subject.protocol_path,
                key,
                f"gives {dose:.3%} of full light as measured, {off:+.0f} % of its nominal {nominal:.3%}; "
                + _for_the_dose(profile, channel, nominal * full_signal, level),
            )
        if not setting.exact:
            subject.blame_protocol(key, _instead(profile, channel, signal, level))
        if level.exposure_ms < profile.camera.min_exposure_ms:
            subject.blame_protocol(
                key, f"{level.exposure_ms:g} ms is shorter than the camera's {profile.camera.min_exposure_ms:g} ms"
            )
        if overhead / level.exposure_ms > DOSE_DIFFERENCE_WORTH_A_WARNING:
            subject.warn(
                subject.profile_path,
                "gating.overhead_ms",
                f"at {level.name} the sample is lit for {level.exposure_ms + overhead:g} ms, the image sees {level.exposure_ms:g} ms",
            )
    planes = protocol.planes
    planned_s = sum(planned_ms.values()) / 1000
    at_most = ", if every level is taken" if any(level.taken != "always" for level in protocol.light_levels) else ""
    for channel in protocol.channels:
        of = f", {channel}" if len(protocol.channels) > 1 else ""
        seen, given = site_signal[channel] * planes, site_sample[channel] * planes
        if_no_rule = ", if no rule asks for more or less" if protocol.live else ""
        report.facts += [
            (
                f"light per site{of}",
                f"{seen:g} ms at full power seen by the camera, {given:g} ms on the sample{at_most}",
            ),
            (f"light in total{of}", f"{rounded(planned_ms[channel] / 1000)} s at full power on the plate{if_no_rule}"),
        ]
    report.facts += [
        (f"calibration, {what}", told)
        for what, told in profile.calibration_facts(protocol.channels, datetime.now().astimezone())
    ]
    if protocol.light_budget_s is not None and planned_s > protocol.light_budget_s:
        subject.blame_protocol(
            "light_budget_s", f"= {protocol.light_budget_s:g}: {rounded(planned_s)} s at full power are planned"
        )


def _for_the_dose(profile: MicroscopeProfile, channel: str, wanted_ms: float, level: LightLevel) -> str:
    """Return which setting gives a dose by the measured light."""
    setting = setting_for(profile, channel, wanted_ms, level.exposure_ms)
    if setting is None:
        return "no setting would give it"
    return f"{setting.exposure_ms:.4g} ms at {setting.led_percent:.4g} % would give it"


def _instead(profile: MicroscopeProfile, channel: str, signal_ms: float, level: LightLevel) -> str:
    """Return which exposure and LED power give the same dose where the LED cannot give the power asked for."""
    source = profile.light_source(channel)
    unit = source.range_told
    setting = setting_for(profile, channel, signal_ms, level.exposure_ms)
    if setting is None:
        return (
            f"led_percent = {level.led_percent:g}: {unit}; nearest: {source.setting(level.led_percent).led_percent:g}"
        )
    return (
        f"led_percent = {level.led_percent:g}: {unit}; the same dose: {setting.exposure_ms:.4g} ms at "
        f"{setting.led_percent:g} %"
    )


# ---------------------------------------------------------------------- places, time, disk


def _check_places(subject: Subject) -> None:
    try:
        sequence = subject.protocol.to_sequence(subject.profile)
    except ValueError as error:
        subject.report.problems.append(Problem(str(error), str(subject.profile_path)))
        return
    _check_positions(subject, sequence)
    _estimate_time(subject, sequence)


def _check_positions(subject: Subject, sequence: useq.MDASequence) -> None:
    stage, stack = subject.profile.stage, subject.protocol.z_stack
    half_stack = (stack.planes - 1) * stack.step_um / 2 if stack else 0.0
    for axis, limits, reach in (("x", stage.x_um, 0.0), ("y", stage.y_um, 0.0), ("z", stage.z_um, half_stack)):
        outside = [
            (p.name or "", value)
            for p in sequence.stage_positions
            if (value := getattr(p, axis)) is not None and not limits[0] + reach <= value <= limits[1] - reach
        ]
        if outside:
            name, value = outside[0]
            subject.blame_profile(
                f"stage.{axis}_um",
                f"= [{limits[0]:g}, {limits[1]:g}]: {len(outside)} of {len(sequence.stage_positions)} sites lie outside, "
                f"for example {name} at {value:.0f} um" + (f" with planes up to {reach:g} um away" if reach else ""),
            )
    fov = subject.profile.camera.fov_um
    plate = subject.protocol.plate
    beyond = []
    for site in subject.protocol.sites_in_travel_order(fov):
        x, y = plate.centre_um(site.well)
        corner = abs(site.plate_x_um - x) + fov[0] / 2, abs(site.plate_y_um - y) + fov[1] / 2
        if not plate.contains_um(*corner):
            beyond.append(site.name)
    if beyond:
        subject.warn(
            subject.protocol_path,
            "sites",
            f"{len(beyond)} sites reach beyond the wall of their well ({plate.well_size_mm[0]:g} mm), for example {beyond[0]}",
        )
    height = "Z is not moved"
    if isinstance(subject.protocol.focus, PlaneFocus):
        heights = [p.z for p in sequence.stage_positions if p.z is not None]
        height = (
            f"plane from {min(heights):.1f} to {max(heights):.1f} um, on failure: {subject.protocol.focus.on_failure}"
        )
    elif isinstance(subject.protocol.focus, HardwareFocus):
        device = subject.profile.stage.autofocus_device
        height = f"hardware ({device}) at every site, on failure: {subject.protocol.focus.on_failure}"
    elif subject.protocol.focus is not None and subject.protocol.focus.z_um is not None:
        height = f"fixed at {subject.protocol.focus.z_um:g} um"
    subject.report.facts[:0] = [
        ("frames", _frames_told(subject.protocol)),
        ("wells, sites", f"{len(subject.protocol.well_names)} wells x {subject.protocol.sites.count} sites"),
        *_extras(subject.protocol),
        ("held-out wells", ", ".join(subject.protocol.held_out_wells) or "none"),
        ("field of view", f"{fov[0]:.1f} x {fov[1]:.1f} um, {subject.profile.camera.pixel_size_um:g} um a pixel"),
        ("focus", height),
    ]


def _extras(protocol: ImagingProtocol) -> list[tuple[str, str]]:
    """Return what only some protocols have, for the user to see that it arrived."""
    facts = []
    if protocol.z_stack:
        facts.append(("z-stack", f"{protocol.z_stack.planes} planes, {protocol.z_stack.step_um:g} um apart"))
    if protocol.time_lapse:
        lapse = protocol.time_lapse
        facts.append(("time-lapse", f"{lapse.count} time points, one every {lapse.interval_s:g} s"))
    if protocol.live:
        facts.append(("live", _live_told(protocol)))
    if protocol.labels:
        labelled = [well for well in protocol.well_names if protocol.well_labels(well)]
        names = sorted({name for well in labelled for name in protocol.well_labels(well)})
        facts.append(("labels", f"{', '.join(names)} on {len(labelled)} of {len(protocol.well_names)} wells"))
    if isinstance(protocol.sites, SiteGrid) and protocol.sites.overlap_percent > 0:
        facts.append(("overlap", f"{protocol.sites.overlap_percent:g} %: what several sites show is lit several times"))
    return facts


def _frames_told(protocol: ImagingProtocol) -> str:
    expected = sum(protocol.times_taken(level) for level in protocol.light_levels)
    told = f"{protocol.n_frames:,}"
    return told if expected == protocol.n_frames else f"{expected:,} if no rule asks for more or less; {told} at most"


def _live_told(protocol: ImagingProtocol) -> str:
    live = protocol.live
    if live is None:
        return ""
    sentinels = live.sentinels
    watch = f"; every {sentinels.every}. site is a sentinel, drift: {sentinels.then}" if sentinels else ""
    return f"{', '.join(protocol.live_levels)} segmented as they are taken{'; rules decide' if live.rules.any else ''}{watch}"


def _estimate_time(subject: Subject, sequence: useq.MDASequence) -> None:
    protocol, profile = subject.protocol, subject.profile
    places = [(p.x or 0.0, p.y or 0.0) for p in sequence.stage_positions]
    travel_um = sum(math.dist(a, b) for a, b in pairwise(places))
    settle_ms = {channel: source.settle_ms for channel, source in profile.light_sources.items()}
    site_s = sum(
        (
            level.exposure_ms
            + profile.gating.overhead_ms
            + profile.camera.readout_ms
            + settle_ms.get(protocol.channel_of(level), 0)
        )
        / 1000
        * protocol.times_taken(level)
        for level in protocol.light_levels
    ) / (protocol.n_sites * protocol.time_points)
    site_s += profile.stage.settle_ms / 1000
    if isinstance(protocol.focus, HardwareFocus):
        site_s += profile.stage.autofocus_s
    round_s = len(places) * site_s + travel_um / profile.stage.xy_um_per_s
    total_s = round_s
    if protocol.time_lapse is not None:
        total_s = (protocol.time_lapse.count - 1) * max(protocol.time_lapse.interval_s, round_s) + round_s
        if protocol.time_lapse.interval_s and round_s > protocol.time_lapse.interval_s:
            subject.warn(
                subject.protocol_path,
                "time_lapse.interval_s",
                f"one round takes about {_duration(round_s)}, longer than {_duration(protocol.time_lapse.interval_s)}",
            )
    subject.report.facts += [
        ("stage travel", f"{travel_um / 1e6:.2f} m a round"),
        ("duration", f"about {_duration(total_s)} by the profile's times"),
    ]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def _check_disk(subject: Subject, out: Path) -> None:
    camera = subject.profile.camera
    raw = subject.protocol.n_frames * camera.width_px * camera.height_px * BYTES_PER_PIXEL
    needed = raw * PYRAMID_AND_LABELS
    folder = next((parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists()), None)
    if folder is None or not folder.is_dir():
        what = "is a file, not a folder" if folder else "is on a drive that does not exist"
        subject.report.problems.append(Problem(what, str(out), key="--out"))
        return
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        subject.report.problems.append(Problem(f"cannot be written: {error.strerror}", str(folder), key="--out"))
        return
    free = shutil.disk_usage(folder).free
    subject.report.facts.append(
        ("disk", f"{_size(raw)} raw, at most {_size(needed)} needed, {_size(free)} free at {folder}")
    )
    if needed + DISK_RESERVE_BYTES > free:
        message = (
            f"{_size(needed)} may be needed and {_size(DISK_RESERVE_BYTES)} must stay free, {_size(free)} are free"
        )
        subject.report.problems.append(Problem(message, str(folder)))


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"
