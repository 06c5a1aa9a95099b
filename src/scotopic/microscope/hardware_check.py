"""What an opened microscope says of itself, held against its profile: in the dark, and without moving a stage."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from scotopic.microscope.check import CheckReport, Subject, check_orientation, hint
from scotopic.microscope.core import channel_settings, is_same, light_level_settings, switch_light_off
from scotopic.microscope.lamp_check import check_lamps_of_core, check_open_shutters
from scotopic.microscope.presets import lets_light_on
from scotopic.protocol import LIGHT_LEVEL_GROUP

if TYPE_CHECKING:
    from collections.abc import Callable

    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import ImagingProtocol, LightSource, MicroscopeProfile


def check_hardware(
    core: CMMCorePlus, protocol: ImagingProtocol, profile: MicroscopeProfile, profile_path: Path
) -> CheckReport:
    """Compare an opened microscope with its profile and with what a protocol asks of it.

    No light is given and no stage is moved; the channel's filters are set, because only then can be seen what they do.

    Parameters
    ----------
    core : CMMCorePlus
        Core as `open_microscope` returned it, with the protocol's light levels defined.

    Returns
    -------
    CheckReport
        With problems and warnings alone.

    Raises
    ------
    LightOnError
        If some light is on and cannot be switched off.
    """
    subject = Subject(protocol, Path(), profile, profile_path, CheckReport())
    switch_light_off(core, profile)
    _compare_light_sources(core, subject)
    _compare_presets(core, subject)
    lamps = check_lamps_of_core(core, subject)
    _compare_light_levels(core, subject)
    if not subject.report.problems:
        _set_filters(core, subject)
        check_open_shutters(core, subject, lamps, "after the channel's presets were set")
    _compare_camera(core, subject)
    _compare_pixel_size(core, subject)
    _compare_stage(core, subject)
    return subject.report


def _compare_light_sources(core: CMMCorePlus, subject: Subject) -> None:
    profile = subject.profile
    for channel, source in profile.light_sources.items():
        key = f"light_sources.{channel}"
        used = {(source.device, source.property)} | {(s.device, s.property) for s in source.switch_off}
        for device, name in sorted(used):
            _compare_property(core, subject, key, device, name)
        if core.hasProperty(source.device, source.property):
            _compare_powers(core, subject, key, source)
    for number, setting in enumerate(profile.keep_off):
        _compare_property(core, subject, f"keep_off[{number}]", setting.device, setting.property)


def _compare_property(core: CMMCorePlus, subject: Subject, key: str, device: str, name: str) -> None:
    if not core.hasProperty(device, name):
        subject.blame_profile(
            key, f"{device} has no property {name!r}{hint(name, core.getDevicePropertyNames(device))}"
        )
    elif core.isPropertyReadOnly(device, name):
        subject.blame_profile(key, f"{device}.{name} is read-only")


def _compare_powers(core: CMMCorePlus, subject: Subject, key: str, source: LightSource) -> None:
    if source.labels is not None:
        for label in source.labels:
            _compare_value(
                core, source.device, source.property, label, lambda told: subject.blame_profile(f"{key}.labels", told)
            )
    elif source.max is not None and core.hasPropertyLimits(source.device, source.property):
        low, high = _limits(core, source.device, source.property)
        if source.max > high or source.min < low:
            subject.blame_profile(
                key, f"min and max are {source.min:g} and {source.max:g}, the device allows {low:g} to {high:g}"
            )


def _compare_presets(core: CMMCorePlus, subject: Subject) -> None:
    """Every value that a channel's presets set must be one that its device takes."""
    for channel, source in subject.profile.light_sources.items():
        is_used = channel in subject.protocol.channels
        key = f"light_sources.{channel}"

        def tell(message: str, *, key: str = key, is_used: bool = is_used) -> None:
            if is_used:
                subject.blame_profile(key, message)
            else:
                subject.warn(subject.profile_path, key, message)

        presets = source.presets(channel)
        if missing := [f"{group}: {name}" for group, name in presets if not core.isConfigDefined(group, name)]:
            tell(f"MMCore has no preset {', '.join(missing)}")
            continue
        for (device, name), value in channel_settings(core, subject.profile, channel).items():
            _compare_value(core, device, name, value, tell)


def _compare_value(core: CMMCorePlus, device: str, name: str, value: str, tell: Callable[[str], None]) -> None:
    """Tell of a value that a device's property does not take."""
    if device not in core.getLoadedDevices():
        tell(f"no device {device!r} is loaded")
    elif not core.hasProperty(device, name):
        tell(f"{device} has no property {name!r}{hint(name, core.getDevicePropertyNames(device))}")
    elif (allowed := core.getAllowedPropertyValues(device, name)) and not any(is_same(a, value, 0) for a in allowed):
        tell(f"{device}.{name} = {value!r}{hint(value, allowed)}")
    elif core.hasPropertyLimits(device, name):
        low, high = _limits(core, device, name)
        try:
            inside = low <= float(value) <= high
        except ValueError:
            inside = False
        if not inside:
            tell(f"{device}.{name} = {value}: the device allows {low:g} to {high:g}")


def _limits(core: CMMCorePlus, device: str, name: str) -> tuple[float, float]:
    return core.getPropertyLowerLimit(device, name), core.getPropertyUpperLimit(device, name)


def _compare_light_levels(core: CMMCorePlus, subject: Subject) -> None:
    """Power and exposure of each level must be possible, and what the core calls a level must be this protocol's."""
    profile, protocol = subject.profile, subject.protocol
    if subject.report.problems:
        return
    camera = profile.camera.device
    expected = light_level_settings(core, profile, protocol)
    for level in protocol.light_levels:
        key = f"light_levels {level.name}"

        def tell(message: str, *, key: str = key) -> None:
            subject.blame_profile(key, message)

        source = profile.light_source(protocol.channel_of(level))
        _compare_value(core, source.device, source.property, source.setting(level.led_percent).text, tell)
        if core.hasProperty(camera, "Exposure") and core.hasPropertyLimits(camera, "Exposure"):
            low, high = _limits(core, camera, "Exposure")
            if not low <= level.exposure_ms <= high:
                tell(f"the camera exposes for {low:g} to {high:g} ms, asked for are {level.exposure_ms:g}")
        if not (core.isGroupDefined(LIGHT_LEVEL_GROUP) and core.isConfigDefined(LIGHT_LEVEL_GROUP, level.name)):
            tell(f"is not defined on this core (config group {LIGHT_LEVEL_GROUP}): open it with this protocol")
            continue
        found = {(line[0], line[1]): line[2] for line in core.getConfigData(LIGHT_LEVEL_GROUP, level.name)}
        if odd := [
            place
            for place in expected[level.name].keys() | found.keys()
            if not is_same(found.get(place, "unset"), expected[level.name].get(place, "unset"), 1e-9)
        ]:
            device, name = min(odd)
            tell(
                f"sets {device}.{name} = {found.get((device, name), 'nothing')} on this core, not "
                f"{expected[level.name].get((device, name), 'nothing')}: it was opened with another protocol"
            )


def _set_filters(core: CMMCorePlus, subject: Subject) -> None:
    """Set each channel's filters in the dark: what they change of the camera's frame shows before any light is given.

    The protocol's own channel comes last: the camera is compared with its filters.
    """
    profile = subject.profile
    for channel in reversed(subject.protocol.channels):
        for (device, name), value in channel_settings(core, profile, channel).items():
            if lets_light_on(profile, device):
                continue
            try:
                core.setProperty(device, name, value)
                core.waitForDevice(device)
            except RuntimeError as error:
                subject.blame_profile(f"light_sources.{channel}", f"{device}.{name} = {value}: {error}")
    switch_light_off(core, profile)


def _compare_camera(core: CMMCorePlus, subject: Subject) -> None:
    camera = subject.profile.camera
    size = core.getImageWidth(), core.getImageHeight()
    if size != (camera.width_px, camera.height_px):
        subject.blame_profile(
            "camera.width_px, height_px",
            f"= {camera.width_px} x {camera.height_px}: the camera gives {size[0]} x {size[1]}",
        )
    if (components := core.getNumberOfComponents()) != 1:
        subject.blame_profile(
            "camera.device",
            f"= {camera.device!r}: gives colour images ({components} components); one grey plane is needed",
        )
    if (cameras := core.getNumberOfCameraChannels()) != 1:
        names = ", ".join(core.getCameraChannelNames())
        subject.blame_profile(
            "camera.device", f"= {camera.device!r}: stands for {cameras} cameras ({names}); name one of them"
        )
    fullest = 2 ** core.getImageBitDepth() - 1
    if camera.saturation_counts > fullest:
        subject.blame_profile(
            "camera.saturation_counts",
            f"= {camera.saturation_counts}: a camera of {core.getImageBitDepth()} bits counts to {fullest}; "
            "no pixel would ever be held to be saturated",
        )


def _compare_pixel_size(core: CMMCorePlus, subject: Subject) -> None:
    camera, pixel = subject.profile.camera, core.getPixelSizeUm()
    if pixel == 0:
        subject.blame_profile(
            "camera.pixel_size_um", "MMCore knows no pixel size for the present objective: define one in the .cfg"
        )
    elif not math.isclose(pixel, camera.pixel_size_um, rel_tol=0.01):
        subject.blame_profile(
            "camera.pixel_size_um", f"= {camera.pixel_size_um:g}: MMCore has {pixel:g} um at the present objective"
        )
    check_orientation(subject, subject.profile_path, core.getPixelSizeAffine())


def _compare_stage(core: CMMCorePlus, subject: Subject) -> None:
    stage = subject.profile.stage
    x, y = core.getXYPosition()
    for axis, at, limits in (("x", x, stage.x_um), ("y", y, stage.y_um)):
        if not limits[0] <= at <= limits[1]:
            subject.blame_profile(
                f"stage.{axis}_um",
                f"= [{limits[0]:g}, {limits[1]:g}]: the stage stands at {at:.0f} um, outside",
            )
