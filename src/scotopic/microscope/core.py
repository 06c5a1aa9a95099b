from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from pymmcore import CMMCore
from pymmcore_plus import CMMCorePlus, DeviceType, Keyword
from pymmcore_plus.experimental.unicore import CameraDevice, Device, UniMMCore

from scotopic.microscope.adapters import adapter_folder
from scotopic.microscope.config_file import loadable, read_config
from scotopic.microscope.lamp_check import refuse_unnamed_light
from scotopic.microscope.presets import ours
from scotopic.protocol import LIGHT_LEVEL_GROUP, ImagingProtocol, MicroscopeProfile
from scotopic.protocol.simulator_setup import SimulatorSetup

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

logger = logging.getLogger(__name__)


class PythonDeviceCore(UniMMCore):
    """MMCore with devices written in Python, and the two things that UniMMCore leaves to C++ devices only.

    - Autoshutter: with a Python camera or shutter, UniMMCore never opens the light, for a snap or a sequence.
    - Autofocus: a Python device of type AutoFocus with a method `full_focus()` serves `fullFocus`.
    """

    def _do_snap_image(self) -> None:
        opened = self._open_shutter_if_automatic()
        try:
            super()._do_snap_image()
        finally:
            if opened:
                self.setShutterOpen(False)

    def _start_sequence(self, cam: CameraDevice, n_images: int | None, stop_on_overflow: bool) -> None:
        opened = self._open_shutter_if_automatic()
        try:
            super()._start_sequence(cam, n_images, stop_on_overflow)
        except BaseException:
            if opened:
                self.setShutterOpen(False)
            raise
        if opened:
            threading.Thread(target=self._close_shutter_after, args=(self._acquisition_thread,), daemon=True).start()

    def _close_shutter_after(self, acquisition: threading.Thread) -> None:
        acquisition.join()
        self.setShutterOpen(False)

    def _open_shutter_if_automatic(self) -> bool:
        """Open the shutter where MMCore itself would not; return whether it was opened."""
        camera, shutter = self.getCameraDevice(), self.getShutterDevice()
        python = any(label and self.isPyDevice(label) for label in (camera, shutter))
        if not (self.getAutoShutter() and shutter and python) or self.getShutterOpen():
            return False
        self.setShutterOpen(True)
        self.waitForDevice(shutter)
        return True

    def setAutoFocusDevice(self, autofocusLabel: str) -> None:  # noqa: N802, N803 - MMCore's names
        """Choose the autofocus device."""
        super().setAutoFocusDevice(self._set_current_if_pydevice(Keyword.CoreAutoFocus, autofocusLabel))

    def getAutoFocusDevice(self) -> str:  # type: ignore[override]  # noqa: N802
        """Return the label of the autofocus device, or an empty string."""
        return self._pycore.current(Keyword.CoreAutoFocus) or super().getAutoFocusDevice()

    def fullFocus(self) -> None:  # noqa: N802
        """Focus once.

        Raises
        ------
        RuntimeError
            If no focus was found.
        """
        label = self.getAutoFocusDevice()
        if not self.isPyDevice(label):
            super().fullFocus()
            return
        device: Device = self._pydevices[label]
        with device:
            device.full_focus()  # type: ignore[attr-defined]


class LightOnError(RuntimeError):
    """Some light could not be switched off."""

    def __init__(self, told: str, lit_ms: float = 0.0) -> None:
        super().__init__(told)
        self.lit_ms = lit_ms
        """How long the sample was lit meanwhile."""


_OFF_PAUSES_S = (0.02, 0.1, 0.5, 1.0)
"""Pauses between attempts to switch the light off."""


def open_microscope(
    profile: MicroscopeProfile, profile_path: Path, protocol: ImagingProtocol | None = None
) -> CMMCorePlus:
    """Load the hardware of a profile and return the core, with the light off.

    Loading a `.cfg` homes stages and applies its Startup preset. With a protocol, the config group `LightLevel` is
    defined on the core, one preset a light level: the channel's preset and the LED power. Any useq sequence on
    this core can then use `(LightLevel, <name>)` as a channel.

    Parameters
    ----------
    profile : MicroscopeProfile
        The microscope.
    profile_path : Path
        File it was read from; its `config` is relative to that.
    protocol : ImagingProtocol, optional
        Light levels to define; on a simulated microscope also the plate that lies on the stage.

    Raises
    ------
    ProblemsError, RuntimeError
        If the configuration cannot be loaded, or a channel's preset switches on light that the profile does not name.
    """
    core = load_config(profile.config_path(profile_path))
    try:
        if profile.simulator is not None:
            setup = SimulatorSetup.of(profile, protocol)
            core.setProperty(profile.simulator.hub, "Setup", setup.model_dump_json())
        switch_light_off(core, profile)
        _choose_devices(core, profile)
        if protocol is not None:
            refuse_unnamed_light(core, profile, protocol.channels)
            define_light_levels(core, profile, protocol)
        core.updateSystemStateCache()
    except BaseException:
        close_microscope(core)
        raise
    return core


def load_config(path: Path) -> CMMCorePlus:
    """Load the hardware of a Micro-Manager configuration, and return the core.

    Raises
    ------
    ProblemsError, RuntimeError
        If it cannot be loaded.
    """
    config = read_config(path)
    folder = adapter_folder(config.libraries)
    kind = PythonDeviceCore if config.has_python_devices else CMMCorePlus
    # Without a path it would look for an installation, and log an error where there is none, whether one is needed or not.
    core = kind(mm_path=str(folder or path.parent))
    if folder is None:
        super(CMMCorePlus, core).setDeviceAdapterSearchPaths([])
    try:
        with loadable(config) as file:
            core.loadSystemConfiguration(file)
    except BaseException:
        close_microscope(core)
        raise
    return core


def _choose_devices(core: CMMCorePlus, profile: MicroscopeProfile) -> None:
    """Make the profile's devices the current ones, whatever the `.cfg` chose; a wrong type is refused.

    Raises
    ------
    RuntimeError
        If a device is not what the profile takes it for.
    """
    stage = profile.stage
    for use, label, kind, choose in (
        ("camera.device", profile.camera.device, DeviceType.Camera, core.setCameraDevice),
        ("stage.xy_device", stage.xy_device, DeviceType.XYStage, core.setXYStageDevice),
        ("stage.z_device", stage.z_device, DeviceType.Stage, core.setFocusDevice),
        ("stage.autofocus_device", stage.autofocus_device, DeviceType.AutoFocus, core.setAutoFocusDevice),
        ("gating.shutter", profile.gating.shutter, DeviceType.Shutter, core.setShutterDevice),
    ):
        if label is None:
            continue
        found = core.getDeviceType(label)
        if found != kind:
            raise RuntimeError(f"{use} = {label!r} is a device of type {_kind(found)}, not {_kind(kind)}")
        choose(label)
    # A move over the whole stage must fit into MMCore's timeout.
    longest_um = max(stage.x_um[1] - stage.x_um[0], stage.y_um[1] - stage.y_um[0])
    core.setTimeoutMs(max(core.getTimeoutMs(), int(2000 * longest_um / stage.xy_um_per_s) + 2000))


def _kind(device_type: DeviceType) -> str:
    return device_type.name.removesuffix("Device")


def close_microscope(core: CMMCorePlus) -> None:
    """Unload the hardware and end MMCore's own threads. May be called twice.

    A callback thread of MMCore that is still alive when Python exits aborts the process (exit code 134), whatever
    the outcome of the work was.
    """
    core.unloadAllDevices()
    CMMCore.registerCallback(core, None)  # pymmcore-plus keeps this for itself


def switch_light_off(core: CMMCorePlus, profile: MicroscopeProfile) -> float:
    """Make every light that the profile names dark, close its shutters, and read both back.

    What does not obey is told again, a few times within a second or so: shutters take their time.

    Returns
    -------
    float
        How long the sample went on being lit, in milliseconds: 0, unless something had to be told again.

    Raises
    ------
    LightOnError
        If any of them still is not off; the others are nevertheless.
    """
    begun, lit_ms = time.perf_counter(), 0.0
    for pause_s in (*_OFF_PAUSES_S, None):
        failures = [*_command_darkness(core, profile), *lights_on(core, profile)]
        if not failures:
            return lit_ms
        if _reaches_the_sample(core, profile):
            lit_ms = (time.perf_counter() - begun + (pause_s or 0.0)) * 1000
        if pause_s is not None:
            time.sleep(pause_s)
    told = "the light could not be switched off: " + "; ".join(dict.fromkeys(failures))
    raise LightOnError(told, lit_ms)


def _reaches_the_sample(core: CMMCorePlus, profile: MicroscopeProfile) -> bool:
    """Return whether a light that is on reaches the sample: by the shutter, or by the camera's wire, it may not."""
    if profile.gating.how == "camera_ttl":
        return False
    if profile.gating.shutter is None:
        return True
    try:
        return bool(core.getShutterOpen(profile.gating.shutter))
    except Exception:  # who cannot be asked is not believed
        return True


def _command_darkness(core: CMMCorePlus, profile: MicroscopeProfile) -> Iterator[str]:
    """Tell all that gives light to be off, and yield what refuses."""
    for whose, setting, _ in profile.off_settings():
        try:
            core.setProperty(setting.device, setting.property, setting.as_text())
        except Exception as error:
            yield f"{whose}: {setting.device}.{setting.property} = {setting.as_text()}: {error}"
    for shutter in profile.shutters:
        try:
            core.setShutterOpen(shutter, False)
        except Exception as error:
            yield f"shutter {shutter}: {error}"


def lights_on(core: CMMCorePlus, profile: MicroscopeProfile) -> Iterator[str]:
    """Yield what is not off by its own account: powers and switches of all lights that the profile names, and its shutters."""
    for whose, setting, tolerance in profile.off_settings():
        name, wanted = f"{whose}: {setting.device}.{setting.property}", setting.as_text()
        try:
            found = core.getProperty(setting.device, setting.property)
        except Exception as error:
            yield f"{name} cannot be read: {error}"
        else:
            if not is_same(found, wanted, tolerance):
                yield f"{name} is {found} (off: {wanted})"
    for shutter in profile.shutters:
        try:
            if core.getShutterOpen(shutter):
                yield f"the shutter {shutter} is open"
        except Exception as error:
            yield f"the shutter {shutter} cannot be read: {error}"


def is_same(found: str, wanted: str, tolerance: float) -> bool:
    """Return whether two property values are the same: within a tolerance where both are numbers, else as texts."""
    try:
        return abs(float(found) - float(wanted)) <= tolerance
    except ValueError:
        return found == wanted


def define_light_levels(core: CMMCorePlus, profile: MicroscopeProfile, protocol: ImagingProtocol) -> None:
    """Define the config group `LightLevel`: one preset a level, of its channel's preset and the LED power.

    Of the channel's preset that is left out which is ours to command (`presets.ours`): a preset may open the shutter, or
    make another camera the current one.
    """
    if core.isGroupDefined(LIGHT_LEVEL_GROUP):
        core.deleteConfigGroup(LIGHT_LEVEL_GROUP)
    core.defineConfigGroup(LIGHT_LEVEL_GROUP)
    for level, settings in light_level_settings(core, profile, protocol).items():
        for (device, name), value in settings.items():
            core.defineConfig(LIGHT_LEVEL_GROUP, level, device, name, value)


def light_level_settings(
    core: CMMCorePlus, profile: MicroscopeProfile, protocol: ImagingProtocol
) -> dict[str, dict[tuple[str, str], str]]:
    """Return what each light level sets: (device, property) -> value; filters first, the power last."""
    settings = {}
    for level in protocol.light_levels:
        channel = protocol.channel_of(level)
        source = profile.light_source(channel)
        power = {(source.device, source.property): source.setting(level.led_percent).text}
        settings[level.name] = channel_settings(core, profile, channel) | power
    return settings


def channel_settings(core: CMMCorePlus, profile: MicroscopeProfile, channel: str) -> dict[tuple[str, str], str]:
    """Return what a channel's presets set, without what is ours to command: (device, property) -> value."""
    source = profile.light_source(channel)
    lines = (line for group, preset in source.presets(channel) for line in core.getConfigData(group, preset))
    return {(line[0], line[1]): line[2] for line in lines if not ours(profile, source, line[0], line[1])}
