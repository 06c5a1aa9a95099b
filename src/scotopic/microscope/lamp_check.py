"""Light that the profile does not name: what switches it on is refused, with the line that would keep it off."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.microscope.lamps import (
    SHUTDOWN,
    STARTUP,
    config_lines,
    is_own_line,
    lamps_in_file,
    lamps_of_core,
)
from scotopic.microscope.presets import ours
from scotopic.protocol import Problem, ProblemsError, same_property

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from pymmcore_plus import CMMCorePlus

    from scotopic.microscope.check import Subject
    from scotopic.microscope.config_file import ConfigFile
    from scotopic.microscope.lamps import Lamps, Line
    from scotopic.protocol import MicroscopeProfile


def check_lamps_in_file(subject: Subject, config: ConfigFile) -> None:
    """Refuse what a configuration switches on that the profile does not name, as far as names tell."""
    set_after = [
        (device.name, each.name, each.value)
        for device in config.model.devices
        for each in device.properties
        if not each.is_pre_init
    ]
    lamps = lamps_in_file(config, subject.profile)
    _check_lamps(subject, lamps, lambda *place: config.preset(*place) or [], config.path, set_after)


def check_lamps_of_core(core: CMMCorePlus, subject: Subject) -> Lamps:
    """Refuse what a configuration switches on that the profile does not name, as MMCore knows its devices.

    Returns
    -------
    Lamps
        What gives light.
    """
    profile = subject.profile
    lamps = lamps_of_core(core, profile.gating.shutter, profile.no_light)
    config = profile.config_path(subject.profile_path)
    _check_lamps(subject, lamps, lambda *place: config_lines(core, *place), config, [])
    if not subject.report.problems:
        check_open_shutters(core, subject, lamps, "after loading")
    return lamps


def refuse_unnamed_light(core: CMMCorePlus, profile: MicroscopeProfile, channels: Iterable[str]) -> None:
    """Refuse presets of channels that switch on light which the profile does not name: before any of them is set.

    Raises
    ------
    ProblemsError
        With a line for each setting.
    """
    lamps = lamps_of_core(core, profile.gating.shutter, profile.no_light)
    problems = [
        Problem(told, key=f"light_sources.{channel}")
        for channel in channels
        for told in _light_of_presets(lamps, profile, channel, lambda *place: config_lines(core, *place))
    ]
    if problems:
        raise ProblemsError(problems)


def _light_of_presets(
    lamps: Lamps, profile: MicroscopeProfile, channel: str, lines: Callable[[str, str], Iterable[Line]]
) -> Iterator[str]:
    for group, preset in profile.light_source(channel).presets(channel):
        for line in lines(group, preset):
            if told := light_of_preset(lamps, profile, channel, line):
                yield f"the preset {group}: {preset} sets {_said(line)}, which {told}"


def check_open_shutters(core: CMMCorePlus, subject: Subject, lamps: Lamps, when: str) -> None:
    """Refuse shutters that are open and that the profile does not name; they are closed."""
    for shutter in sorted(lamps.shutters - set(subject.profile.shutters)):
        try:
            if not core.getShutterOpen(shutter):
                continue
            core.setShutterOpen(shutter, False)
        except RuntimeError as error:
            subject.warn(subject.profile_path, "keep_closed", f"the shutter {shutter} does not answer: {error}")
            continue
        if not _is_switched_by(subject.profile, shutter):
            subject.blame_profile(
                "keep_closed",
                f"the shutter {shutter} was open {when}, and the profile does not name it; add `keep_closed: [{shutter}]`",
            )


def _is_switched_by(profile: MicroscopeProfile, device: str) -> bool:
    return any(setting.device == device for _, setting, _ in profile.off_settings())


def _check_lamps(
    subject: Subject,
    lamps: Lamps,
    lines: Callable[[str, str], Iterable[Line]],
    config: Path,
    set_after: Sequence[Line],
) -> None:
    """Go through all that is set: presets of the protocol's channels, and what MMCore sets when it loads and unloads."""
    profile = subject.profile
    for channel in subject.protocol.channels:
        if channel in profile.light_sources:
            for told in _light_of_presets(lamps, profile, channel, lines):
                subject.blame_profile(f"light_sources.{channel}", told)
    _check_loading(subject, lamps, [*set_after, *lines("System", STARTUP)], config)
    for line in lines("System", SHUTDOWN):
        if what := lamps.switches_on(*line):
            told = f"sets {_said(line)}, which {what}, and MMCore sets that after all else: the light would stay on. Take the line out"
            subject.report.problems.append(Problem(told, str(config), key=f"System: {SHUTDOWN}"))


def _check_loading(subject: Subject, lamps: Lamps, lines: Iterable[Line], config: Path) -> None:
    last = {
        (device, "State" if same_property(name, "State") else name): (device, name, value)
        for device, name, value in lines
    }
    for line in last.values():
        what = lamps.switches_on(*line)
        if not what:
            continue
        if _is_named(subject.profile, *line[:2]):
            told = f"sets {_said(line)}, which {what}: it is on while the configuration is loaded, until scotopic switches it off"
            subject.warn(config, f"System: {STARTUP}", told)
        else:
            told = f"{config.name} sets {_said(line)} when it is loaded, which {what} that the profile does not name: "
            where = "; if a channel needs it, its preset switches it on, and its switch_off names it"
            subject.blame_profile(lamps.off_line(*line).partition(":")[0], told + _remedy(lamps, line, where))


def _is_named(profile: MicroscopeProfile, device: str, name: str) -> bool:
    """Return whether the profile says how something is made dark: by its own setting, as a shutter, or by its line's power."""
    if device in profile.shutters or any(setting.is_of(device, name) for _, setting, _ in profile.off_settings()):
        return True
    return any(is_own_line(source, device, name) for source in profile.light_sources.values())


def light_of_preset(lamps: Lamps, profile: MicroscopeProfile, channel: str, line: Line) -> str:
    """Return which light of another source a line of a channel's preset lets on, and what to do about it; else nothing."""
    device, name, value = line
    source = profile.light_source(channel)
    what = lamps.switches_on(device, name, value)
    mine = any(setting.is_of(device, name) for setting in source.switch_off) or is_own_line(source, device, name)
    if mine or ours(profile, source, device, name) or lamps.is_off(device, name, value):
        return ""
    for other, its in profile.light_sources.items():
        if other == channel:
            continue
        power = device == its.device and same_property(name, its.property)
        if power or any(setting.is_of(device, name) for setting in its.switch_off):
            return f"switches on the light of {other}: the sample would get it outside the dose; take the line out of the preset"
    if not what:
        return ""
    where = f"; if {channel} needs it, add it to light_sources.{channel}.switch_off"
    return f"{what} that the profile does not name: it would be on before and after each exposure, outside the dose. {_remedy(lamps, line, where)}"


def _said(line: Line) -> str:
    device, name, value = line
    return f"{device}.{name} = {value}"


def _remedy(lamps: Lamps, line: Line, more: str = "") -> str:
    return f"Take the line out, or add to the profile: {lamps.off_line(*line)}{more}; if it gives no light, no_light: [{line[0]}]"
