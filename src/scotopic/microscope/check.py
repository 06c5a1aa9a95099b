from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from scotopic.microscope.config_file import read_config
from scotopic.microscope.presets import CORE, contradiction, ours
from scotopic.protocol import (
    LIGHT_LEVEL_GROUP,
    HardwareFocus,
    ImagingProtocol,
    MicroscopeProfile,
    PlaneFocus,
    Problem,
    ProblemsError,
    SiteGrid,
    did_you_mean,
)

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import useq
    from pymmcore_plus import CMMCorePlus

    from scotopic.microscope.config_file import ConfigFile
    from scotopic.protocol import LightLevel, LightSource

SIMULATOR_HUB = "scotopic.simulator.devices.Simulator"
BYTES_PER_PIXEL = 2
PYRAMID_AND_LABELS = 1.6
"""Disk needed for a frame, its pyramid (a third more) and its label images, relative to the raw frame."""
DOSE_DIFFERENCE_WORTH_A_WARNING = 0.2


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
class _Subject:
    """What is checked, and the report that is written."""

    protocol: ImagingProtocol
    protocol_path: Path
    profile: MicroscopeProfile
    profile_path: Path
    report: CheckReport

    def blame_profile(self, key: str, message: str) -> None:
        self.report.problems.append(Problem(message, str(self.profile_path), key=key))

    def blame_protocol(self, key: str, message: str) -> None:
        self.report.problems.append(Problem(message, str(self.protocol_path), key=key))

    def warn(self, path: Path, key: str, message: str) -> None:
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
    subject = _Subject(protocol, protocol_path, profile, profile_path, CheckReport())
    try:
        config = read_config(profile.config_path(profile_path))
    except ProblemsError as error:
        subject.report.problems += error.problems
    else:
        _check_devices(subject, config)
        _check_pixel_size(subject, config)
        for doubt in config.doubts:
            subject.warn(config.path, "", doubt)
    _check_light(subject)
    try:
        protocol.sites_in_travel_order(profile.camera.fov_um)
    except ValueError as error:
        subject.blame_protocol("sites", str(error))
    else:
        _check_places(subject)
    _check_disk(subject, out)
    return subject.report


# ---------------------------------------------------------------------- devices


def _check_devices(subject: _Subject, config: ConfigFile) -> None:
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
                key, f"= {label!r}: no device of this label in {config.path.name}{_hint(label, config.devices)}"
            )
    _check_preset(subject, config, protocol.channel)
    if profile.gating.how == "camera_ttl" and protocol.exposure_order != "as_listed":
        report.facts.append(("light gating", "by the camera, light on only while it exposes"))


def _check_preset(subject: _Subject, config: ConfigFile, channel: str) -> None:
    try:
        source = subject.profile.light_source(channel)
    except ValueError as error:
        subject.blame_protocol("channel", str(error))
        return
    group, name = source.preset_group, source.preset or channel
    settings = [] if group is None else config.preset(group, name)
    subject.report.devices.append(
        (f"channel {channel}", "no preset: nothing to set", "the profile")
        if group is None
        else (f"channel {channel}", f"{group}: {name}", "preset" if settings else "not in the .cfg")
    )
    if settings is None and group is not None:
        groups = config.model.config_groups
        known = groups[group].presets if group in groups else groups
        what = f"preset {name!r} in group {group!r}" if group in groups else f"config group {group!r}"
        hint = _hint(name if group in groups else group, known)
        subject.blame_profile(f"light_sources.{channel}", f"no {what} in {config.path.name}{hint}")
        return
    dark = [s for s in source.switch_off if (s.device, s.property) != (source.device, source.property)]
    for setting in dark:
        lit_by_gating = setting.device == subject.profile.gating.shutter
        if not lit_by_gating and (setting.device, setting.property) not in {(s[0], s[1]) for s in settings or ()}:
            subject.blame_profile(
                f"light_sources.{channel}.switch_off",
                f"{setting.device}.{setting.property} is switched off but never on: set it in the preset {group or 'that preset_group names'}: {name}",
            )
    for device, name_, value in settings or ():
        origin = config.devices.get(device)
        subject.report.devices.append((f"  {name_} = {value}", device, origin or "not in the .cfg"))
        key, line = f"light_sources.{channel}", f"the preset {group}: {name} sets {device}.{name_} = {value}"
        if origin is None and device != CORE:
            subject.blame_profile(key, f"preset {name!r} sets {device!r}, no such device")
        elif wrong := contradiction(subject.profile, source, device, name_, value):
            subject.blame_profile(key, f"{line}, but {wrong}")
        elif why := ours(subject.profile, source, device, name_):
            subject.warn(config.path, key, f"{line}, which is left out: {why}")


def _hint(name: str, known: Iterable[str]) -> str:
    known = list(known)
    return f"; {did_you_mean(name, known) or 'there are: ' + (', '.join(known) or 'none')}"


def _check_pixel_size(subject: _Subject, config: ConfigFile) -> None:
    pixel = subject.profile.camera.pixel_size_um
    sizes = config.pixel_sizes_um
    if not sizes:
        subject.warn(config.path, "", f"no pixel size is defined; the profile's {pixel:g} um is used")
    elif not any(_is_binned(pixel, size) for size in sizes.values()):
        given = ", ".join(f"{name} {size:g} um" for name, size in sizes.items())
        subject.blame_profile(
            "camera.pixel_size_um", f"= {pixel:g}: {config.path.name} knows {given}, with no binning equal"
        )


def _is_binned(pixel: float, size: float) -> bool:
    return size > 0 and any(math.isclose(pixel, size * binning, rel_tol=0.01) for binning in (1, 2, 3, 4, 8))


# ---------------------------------------------------------------------- light


def _check_light(subject: _Subject) -> None:
    protocol, profile, report = subject.protocol, subject.profile, subject.report
    source = profile.light_sources.get(protocol.channel)
    if source is None:
        return  # told with the presets
    overhead = profile.gating.overhead_ms
    reference = protocol.reference
    full_sample = (reference.exposure_ms + overhead) * source.relative_power(reference.led_percent)
    full_signal = reference.exposure_ms * source.relative_power(reference.led_percent)
    site_signal = site_sample = 0.0
    for level in protocol.levels_in_exposure_order:
        setting = source.setting(level.led_percent)
        power = source.relative_power(level.led_percent)
        signal, sample = level.exposure_ms * power, (level.exposure_ms + overhead) * power
        site_signal, site_sample = site_signal + signal, site_sample + sample
        report.levels.append(
            (
                level.name,
                f"{level.exposure_ms:g} ms",
                f"{source.property} {setting.text}",
                f"{signal / full_signal:.4%}",
                f"{sample / full_sample:.4%}",
            )
        )
        key = f"light_levels {level.name}"
        if not setting.exact:
            subject.blame_protocol(key, _instead(level, source, profile.camera.min_exposure_ms))
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
    visits = planes * protocol.time_points
    report.facts += [
        (
            "light per site",
            f"{site_signal * planes:g} ms at full power seen by the camera, {site_sample * planes:g} ms on the sample",
        ),
        (
            "light in total",
            f"{site_sample * visits * protocol.n_sites / 1000:,.0f} s at full power on the plate",
        ),
    ]
    planned_s = site_sample * visits * protocol.n_sites / 1000
    if protocol.light_budget_s is not None and planned_s > protocol.light_budget_s:
        subject.blame_protocol(
            "light_budget_s", f"= {protocol.light_budget_s:g}: {planned_s:.3g} s at full power are planned"
        )


def _instead(level: LightLevel, source: LightSource, min_exposure_ms: float) -> str:
    """Say which exposure and LED power give the same dose where the LED cannot give the power asked for."""
    nearest = source.setting(level.led_percent)
    unit = f"{source.device}.{source.property} goes from {source.min:g} to {source.max:g} in steps of {source.step:g}"
    wanted = level.exposure_ms * source.relative_power(level.led_percent)
    candidates = {
        setting.led_percent: wanted / power
        for steps in range(-2, 3)
        if (setting := source.setting(level.led_percent + steps * source.step / source.max * 100)).led_percent > 0
        and (power := source.relative_power(setting.led_percent)) > 0
    }
    usable = {led: ms for led, ms in candidates.items() if ms >= min_exposure_ms}
    if not usable:
        return f"led_percent = {level.led_percent:g}: {unit}; nearest: {nearest.led_percent:g}"
    led, ms = min(
        usable.items(),
        key=lambda pair: (round(abs(pair[1] * 10 - round(pair[1] * 10)), 6), abs(pair[0] - level.led_percent)),
    )
    return f"led_percent = {level.led_percent:g}: {unit}; the same dose: {ms:.4g} ms at {led:g} %"


# ---------------------------------------------------------------------- places, time, disk


def _check_places(subject: _Subject) -> None:
    try:
        sequence = subject.protocol.to_sequence(subject.profile)
    except ValueError as error:
        subject.report.problems.append(Problem(str(error), str(subject.profile_path)))
        return
    _check_positions(subject, sequence)
    _estimate_time(subject, sequence)


def _check_positions(subject: _Subject, sequence: useq.MDASequence) -> None:
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
        ("frames", f"{subject.protocol.n_frames:,}"),
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
    if protocol.labels:
        labelled = [well for well in protocol.well_names if protocol.well_labels(well)]
        names = sorted({name for well in labelled for name in protocol.well_labels(well)})
        facts.append(("labels", f"{', '.join(names)} on {len(labelled)} of {len(protocol.well_names)} wells"))
    if isinstance(protocol.sites, SiteGrid) and protocol.sites.overlap_percent > 0:
        facts.append(("overlap", f"{protocol.sites.overlap_percent:g} %: what several sites show is lit several times"))
    return facts


def _estimate_time(subject: _Subject, sequence: useq.MDASequence) -> None:
    protocol, profile = subject.protocol, subject.profile
    places = [(p.x or 0.0, p.y or 0.0) for p in sequence.stage_positions]
    travel_um = sum(math.dist(a, b) for a, b in pairwise(places))
    settle_ms = profile.light_sources[protocol.channel].settle_ms if protocol.channel in profile.light_sources else 0
    planes = protocol.planes
    site_s = (
        sum(
            (level.exposure_ms + profile.gating.overhead_ms + profile.camera.readout_ms + settle_ms) / 1000
            for level in protocol.light_levels
        )
        * planes
    )
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


def _check_disk(subject: _Subject, out: Path) -> None:
    camera = subject.profile.camera
    raw = subject.protocol.n_frames * camera.width_px * camera.height_px * BYTES_PER_PIXEL
    needed = raw * PYRAMID_AND_LABELS
    folder = next((parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists()), None)
    if folder is None or not folder.is_dir():
        what = "is a file, not a folder" if folder else "is on a drive that does not exist"
        subject.report.problems.append(Problem(what, str(out), key="--out"))
        return
    free = shutil.disk_usage(folder).free
    subject.report.facts.append(
        ("disk", f"{_size(raw)} raw, at most {_size(needed)} needed, {_size(free)} free at {folder}")
    )
    if needed > free:
        subject.report.problems.append(Problem(f"{_size(needed)} may be needed, {_size(free)} are free", str(folder)))


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 1e9:.2f} GB" if n_bytes >= 1e8 else f"{n_bytes / 1e6:.1f} MB"


# ---------------------------------------------------------------------- with the hardware


def check_hardware(
    core: CMMCorePlus, protocol: ImagingProtocol, profile: MicroscopeProfile, profile_path: Path
) -> list[Problem]:
    """Compare an opened microscope with its profile, without light and without a move.

    Parameters
    ----------
    core : CMMCorePlus
        Core as `open_microscope` returned it, with the protocol's light levels defined.
    """
    problems: list[Problem] = []

    def blame(key: str, message: str) -> None:
        problems.append(Problem(message, str(profile_path), key=key))

    for channel, source in profile.light_sources.items():
        key = f"light_sources.{channel}"
        used = {(source.device, source.property)} | {(s.device, s.property) for s in source.switch_off}
        for device, name in sorted(used):
            if not core.hasProperty(device, name):
                blame(key, f"{device} has no property {name!r}{_hint(name, core.getDevicePropertyNames(device))}")
            elif core.isPropertyReadOnly(device, name):
                blame(key, f"{device}.{name} is read-only")
        if core.hasProperty(source.device, source.property) and core.hasPropertyLimits(source.device, source.property):
            low = core.getPropertyLowerLimit(source.device, source.property)
            high = core.getPropertyUpperLimit(source.device, source.property)
            if source.max > high or source.min < low:
                blame(key, f"min and max are {source.min:g} and {source.max:g}, the device allows {low:g} to {high:g}")
    for device, name, value in core.getConfigData(LIGHT_LEVEL_GROUP, protocol.reference.name):
        allowed = core.getAllowedPropertyValues(device, name) if core.hasProperty(device, name) else ()
        if allowed and value not in allowed:
            blame(f"light_sources.{protocol.channel}", f"{device}.{name} = {value!r}{_hint(value, allowed)}")
    camera = profile.camera
    longest_ms = max(level.exposure_ms for level in protocol.light_levels)
    if core.hasProperty(camera.device, "Exposure") and core.hasPropertyLimits(camera.device, "Exposure"):
        most_ms = core.getPropertyUpperLimit(camera.device, "Exposure")
        if longest_ms > most_ms:
            blame(
                "camera.device",
                f"= {camera.device!r}: exposes for {most_ms:g} ms at most, asked for are {longest_ms:g}",
            )
    size = core.getImageWidth(), core.getImageHeight()
    if size != (camera.width_px, camera.height_px):
        blame(
            "camera.width_px, height_px",
            f"= {camera.width_px} x {camera.height_px}: the camera gives {size[0]} x {size[1]}",
        )
    pixel = core.getPixelSizeUm()
    if pixel == 0:
        blame("camera.pixel_size_um", "MMCore knows no pixel size for the present objective: define one in the .cfg")
    elif not math.isclose(pixel, camera.pixel_size_um, rel_tol=0.01):
        blame("camera.pixel_size_um", f"= {camera.pixel_size_um:g}: MMCore has {pixel:g} um at the present objective")
    x, y = core.getXYPosition()
    for axis, at, limits in (("x", x, profile.stage.x_um), ("y", y, profile.stage.y_um)):
        if not limits[0] <= at <= limits[1]:
            blame(f"stage.{axis}_um", f"= [{limits[0]:g}, {limits[1]:g}]: the stage stands at {at:.0f} um, outside")
    return problems
