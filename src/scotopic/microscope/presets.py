"""What of a channel's preset becomes part of a light level: filters and the like, but nothing that is ours to command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.microscope.lamps import is_own_line, line_of
from scotopic.protocol import same_property

if TYPE_CHECKING:
    from scotopic.microscope.config_file import ConfigFile
    from scotopic.protocol import LightSource, MicroscopeProfile

CORE = "Core"


def ours(profile: MicroscopeProfile, source: LightSource, device: str, name: str) -> str:
    """Return why a property is commanded by scotopic alone, whatever a preset says; empty if a preset may set it.

    Parameters
    ----------
    device, name : str
        Device and property of a line of the channel's preset.
    """
    stage = profile.stage
    if device == CORE:
        return "the profile chooses camera, stages and shutter"
    if device == profile.gating.shutter and not (line_of(name) and is_own_line(source, device, name)):
        return "the shutter is open during an exposure alone"
    if device in profile.keep_closed:
        return "keep_closed keeps it closed"
    if any(setting.is_of(device, name) for setting in profile.keep_off):
        return "keep_off keeps it off"
    if device == source.device and same_property(name, source.property):
        return "each light level sets the power"
    if device == profile.camera.device:
        return "the profile says what the camera's images are"
    if device in (stage.xy_device, stage.z_device, stage.autofocus_device):
        return "positions are the protocol's"
    return ""


def lets_light_on(profile: MicroscopeProfile, device: str) -> bool:
    """Return whether to set a device may light the sample: one that some light is switched off by, or gets its power from."""
    return any(device == source.device for source in profile.light_sources.values()) or any(
        device == setting.device for _, setting, _ in profile.off_settings()
    )


def contradiction(
    profile: MicroscopeProfile, source: LightSource, config: ConfigFile, device: str, name: str, value: str
) -> str:
    """Return what of the profile a preset's line contradicts, so that one of the two must be wrong; else nothing."""
    stage = profile.stage
    chosen = {
        "Camera": ("camera.device", profile.camera.device),
        "Focus": ("stage.z_device", stage.z_device),
        "XYStage": ("stage.xy_device", stage.xy_device),
        "Shutter": ("gating.shutter", profile.gating.shutter),
        "AutoFocus": ("stage.autofocus_device", stage.autofocus_device),
    }
    if device == CORE and name in chosen:
        key, wanted = chosen[name]
        told = f"{key} is {wanted!r}" if wanted else f"the profile has no {key}"
        return told if value != (wanted or "") else ""
    if device == profile.camera.device:
        return "it may change the camera's frame or its counts, which camera: describes"
    dark = [
        (s.device, *config.state(s.device, s.property, s.as_text()))
        for s in source.switch_off
        if (s.device, s.property) != (source.device, source.property)
    ]
    if (device, *config.state(device, name, value)) in dark:
        return "that is what switch_off sets: the light would never be on"
    return ""
