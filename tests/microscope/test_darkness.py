"""Off is read back, and nothing is lit that nobody asked for: the devices are the judge."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import pytest

from conftest import ROOT, acquired, load_job, small
from scotopic.microscope import (
    LightOnError,
    acquire,
    check_files,
    check_hardware,
    engine,
    open_microscope,
    prepare_run,
    switch_light_off,
)
from scotopic.microscope import core as core_module
from scotopic.protocol import LIGHT_LEVEL_GROUP, ImagingProtocol, MicroscopeProfile, ProblemsError
from scotopic.store import Recorder, RunFolder


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(core_module, "_OFF_PAUSES_S", (0.001, 0.001))


def delivered(core):
    return float(core.getProperty("Simulator", "DeliveredLight_ms"))


def fault(kind, after=0, times=None):
    return {"kind": kind, "after": after, "times": times}


@pytest.mark.parametrize("kinds", [("led_stays_on",), ("shutter_sticks",), ("led_stays_on", "shutter_sticks")])
@pytest.mark.parametrize("frame", [0, 7, 15])
def test_light_that_stays_on_ends_the_run_at_once_also_at_its_last_frame(kinds, frame, tmp_path):
    after = {"led_stays_on": frame, "shutter_sticks": 2 * frame + 1}
    job = small("simulated", [fault(kind, after[kind]) for kind in kinds])
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "the light could not be switched off" in result.message
    assert run.read_status("acquire")["state"] == "failed"
    records = run.ledger.read()
    assert len(records) == frame + 1, "the light that was given is noted, and no other is given"
    core.setProperty("Simulator", "Faults", "[]")
    switch_light_off(core, job.profile)


def test_a_light_that_obeys_at_the_second_time_is_off(tmp_path):
    job = small("simulated", [fault("led_stays_on", 2, times=1), fault("shutter_sticks", 5, times=1)])
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    core.setProperty("LED", "Power", 50)
    core.setShutterOpen(True)
    core.setProperty("Simulator", "Faults", '[{"kind": "led_stays_on"}, {"kind": "shutter_sticks"}]')
    switch_light_off(core, job.profile)
    assert float(core.getProperty("LED", "Power")) == 0
    assert not core.getShutterOpen()
    core.setProperty("LED", "Power", 50)
    core.setProperty("Simulator", "Faults", '[{"kind": "led_stays_on", "times": null}]')
    with pytest.raises(LightOnError, match=r"DAPI: LED\.Power is 50\S* \(off: 0\)"):
        switch_light_off(core, job.profile)


def test_led_and_shutter_are_both_off_between_two_exposures(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    seen = []
    look = lambda *_: seen.append((float(core.getProperty("LED", "Power")), core.getShutterOpen()))  # noqa: E731
    core.mda.events.frameReady.connect(look)
    _, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert set(seen) == {(0.0, False)}


def test_light_that_somebody_else_switches_on_is_switched_off_before_an_exposure_and_told(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)

    def meddle(image, event, *_) -> None:
        if event.index["p"] == 1 and event.channel.config == "2%":
            core.setShutterOpen(True)

    core.mda.events.frameReady.connect(meddle)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed_with_errors"
    assert "1 times light was on before an exposure" in result.message
    assert run.read_status("acquire")["times_found_lit"] == 1
    assert sum(r.sample_dose_ms for r in run.ledger.read()) == pytest.approx(delivered(core), rel=0.02)


def test_light_that_somebody_switches_on_and_that_stays_on_ends_the_run_unlit(tmp_path):
    job = small("simulated")
    core = open_microscope(job.profile, job.profile_path, job.protocol)

    def meddle(*_) -> None:
        core.setShutterOpen(True)
        core.setProperty("Simulator", "Faults", '[{"kind": "shutter_sticks", "times": null}]')

    core.mda.events.frameReady.connect(meddle)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "the light could not be switched off" in result.message
    assert [r.state for r in run.ledger.read()] == ["written", "skipped"], "no further frame is tried"


def by_software(job, **light):
    data = job.profile.model_dump(mode="json")
    data["gating"] = {"how": "software", "overhead_ms": 10}
    data["light_sources"]["DAPI"] |= light
    return MicroscopeProfile.model_validate(data)


def test_with_software_gating_nothing_is_waited_for_in_the_light(tmp_path, monkeypatch):
    job = small("demo")
    job.profile = by_software(job)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    power = []
    real = Recorder.wait_for_pixels

    def wait(self) -> None:
        power.append(float(core.getProperty("LED", "Voltage")))
        real(self)

    monkeypatch.setattr(Recorder, "wait_for_pixels", wait)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert len(power) >= 16
    assert set(power) == {0.0}
    for r in run.ledger.read():
        assert r.sample_dose_ms > r.exposure_ms * r.led_percent / 100, "the setting of the level is light too"


def test_with_software_gating_light_cannot_settle_in_the_dark():
    with pytest.raises(ValueError, match=r"light_sources\.DAPI\.settle_ms = 300: with gating by software"):
        by_software(load_job("quickstart", "demo"), settle_ms=300)


def with_preset_lines(job, folder, *lines):
    """Write the demo configuration with more lines in the channel's preset, and return the profile's new place."""
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text(encoding="utf-8")
    more = "".join(f"ConfigGroup,Channel,DAPI,{line}\n" for line in lines)
    (folder / "demo.cfg").write_text(text + more, encoding="utf-8")
    return folder / "demo.yaml"


def test_what_is_ours_is_left_out_of_a_channels_preset(tmp_path):
    job = load_job("quickstart", "demo")
    path = with_preset_lines(job, tmp_path, "Shutter,State,1", "Core,AutoShutter,1", "Z,Position,100", "LED,Voltage,5")
    report = check_files(job.protocol, job.protocol_path, job.profile, path, tmp_path)
    assert report.problems == []
    told = "\n".join(map(str, report.warnings))
    assert "sets Shutter.State = 1, which is left out: the shutter is open during an exposure alone" in told
    assert "sets Core.AutoShutter = 1, which is left out" in told
    assert "sets Z.Position = 100, which is left out: positions are the protocol's" in told
    core = open_microscope(job.profile, path, job.protocol)
    for level in job.protocol.light_levels:
        settings = {(s[0], s[1]): s[2] for s in core.getConfigData(LIGHT_LEVEL_GROUP, level.name)}
        assert {device for device, _ in settings} == {"Dichroic", "Emission", "Excitation", "LED"}
        assert float(settings["LED", "Voltage"]) == pytest.approx(level.led_percent / 10)


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("Camera,Binning,2", "Camera.Binning = 2, but it may change the camera's frame"),
        ("Core,Focus,Other", "Core.Focus = Other, but stage.z_device is 'Z'"),
        ("Core,Shutter,Other", "Core.Shutter = Other, but gating.shutter is 'Shutter'"),
    ],
)
def test_a_preset_that_contradicts_the_profile_is_refused(line, why, tmp_path):
    job = load_job("quickstart", "demo")
    path = with_preset_lines(job, tmp_path, line)
    report = check_files(job.protocol, job.protocol_path, job.profile, path, tmp_path)
    assert [why in str(problem) for problem in report.problems] == [True]


def test_a_preset_that_switches_the_light_off_is_refused(tmp_path):
    job = load_job("quickstart", "demo")
    off = [
        {"device": "LED", "property": "Voltage", "value": 0},
        {"device": "Emission", "property": "State", "value": 0},
    ]
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"]["switch_off"] = off
    path = with_preset_lines(job, tmp_path, "Emission,State,0")
    report = check_files(job.protocol, job.protocol_path, MicroscopeProfile.model_validate(data), path, tmp_path)
    assert ["the light would never be on" in str(problem) for problem in report.problems] == [True]


def test_a_microscope_without_filters_needs_no_preset(tmp_path):
    job = load_job("quickstart", "demo")
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"]["preset_group"] = None
    profile = MicroscopeProfile.model_validate(data)
    assert check_files(job.protocol, job.protocol_path, profile, job.profile_path, tmp_path).problems == []
    core = open_microscope(profile, job.profile_path, job.protocol)
    assert [s[0] for s in core.getConfigData(LIGHT_LEVEL_GROUP, "2%")] == ["LED"]


def test_a_misspelt_group_is_named_and_the_nearest_offered(tmp_path):
    job = load_job("quickstart", "demo")
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text(encoding="utf-8")
    (tmp_path / "demo.cfg").write_text(text.replace("ConfigGroup,Channel,", "ConfigGroup,Channels,"), encoding="utf-8")
    report = check_files(job.protocol, job.protocol_path, job.profile, tmp_path / "demo.yaml", tmp_path)
    told = "\n".join(map(str, report.problems))
    assert "no config group 'Channel' in demo.cfg; did you mean 'Channels'?" in told


def cfg(folder, *changes, more=""):
    """Write the demo configuration with texts replaced and lines added, and return the place of its profile."""
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "demo.cfg").write_text(text + more, encoding="utf-8")
    return Path(shutil.copy(ROOT / "hardware_configs" / "demo.yaml", folder))


def told_by_files(job, path, folder):
    report = check_files(job.protocol, job.protocol_path, job.profile, path, folder)
    return [str(p) for p in report.problems], "\n".join(map(str, report.warnings))


def told_by_hardware(job, path):
    core = open_microscope(job.profile, path, job.protocol)
    try:
        report = check_hardware(core, job.protocol, job.profile, path)
        return [str(p) for p in report.problems], "\n".join(map(str, report.warnings))
    finally:
        core.unloadAllDevices()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((("PixelType,16bit", "PixelType,8bit"), ("Camera,BitDepth,16", "Camera,BitDepth,8")), "counts to 255"),
        ((("Camera,BitDepth,16", "Camera,BitDepth,12"),), "counts to 4095"),
        ((("PixelType,16bit", "PixelType,32bitRGB"), ("Camera,BitDepth,16", "Camera,BitDepth,8")), "4 components"),
        ((("Camera,Binning,1", "Camera,Binning,2"),), "the camera gives 256 x 256"),
    ],
)
def test_what_mmcore_knows_of_the_camera_is_asked_before_any_light(change, why, tmp_path):
    job = load_job("quickstart", "demo")
    path = cfg(tmp_path, *change)
    problems, _ = told_by_hardware(job, path)
    assert any(why in problem for problem in problems), problems
    job.profile_path = path
    with pytest.raises(ProblemsError, match=why):
        acquired(job, tmp_path / "RUN")
    assert RunFolder(tmp_path / "RUN").read_status("acquire")["state"] == "failed"
    assert RunFolder(tmp_path / "RUN").ledger.read() == []


def test_several_cameras_behind_one_are_refused(tmp_path):
    job = load_job("quickstart", "demo")
    devices = "Device,Second,DemoCamera,DCam\nDevice,Both,Utilities,Multi Camera\nDevice,XY,"
    more = "Property,Both,Physical Camera 1,Camera\nProperty,Both,Physical Camera 2,Second\n"
    path = cfg(tmp_path, ("Device,XY,", devices), more=more)
    job.profile = job.profile.model_copy(update={"camera": job.profile.camera.model_copy(update={"device": "Both"})})
    problems, _ = told_by_hardware(job, path)
    assert any("stands for 2 cameras (Camera, Second); name one of them" in problem for problem in problems), problems


@pytest.mark.parametrize("affine", ["0.0,-0.5,0.0,0.5,0.0,0.0", "-0.5,0.0,0.0,0.0,0.5,0.0"])
def test_a_camera_that_lies_askew_on_the_stage_is_warned_of(affine, tmp_path):
    job = load_job("quickstart", "demo")
    oblong = job.profile.camera.model_copy(update={"width_px": 1024})
    job.profile = job.profile.model_copy(update={"camera": oblong})
    path = cfg(tmp_path, more=f"PixelSizeAffine,Res20x,{affine}\n")
    _, warnings = told_by_files(job, path, tmp_path)
    if affine.startswith("0.0"):
        assert "turned by 90 degrees against the plate, and it is not square" in warnings
        assert "overlap by 50% in y and leave gaps of 256 um in x" in warnings
    else:
        assert "and mirrored: positions of nuclei follow the image's axes" in warnings
    assert "affine" not in told_by_files(job, cfg(tmp_path, more="PixelSizeAffine,Res20x,1,0,0,0,1,0\n"), tmp_path)[1]
    assert (
        "affine" not in told_by_files(job, cfg(tmp_path, more="PixelSizeAffine,Res20x,0.5,0,0,0,0.5,0\n"), tmp_path)[1]
    )


def test_each_level_must_be_possible_for_the_hardware(tmp_path):
    job = load_job("quickstart", "demo")
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"] |= {"max": 20, "min": 0}
    job.profile = MicroscopeProfile.model_validate(data)
    problems, _ = told_by_hardware(job, job.profile_path)
    assert any("min and max are 0 and 20, the device allows 0 to 10" in problem for problem in problems)
    job = load_job("quickstart", "demo")
    problems, _ = told_by_hardware(job, cfg(tmp_path, ("MaximumExposureMs,10000.0", "MaximumExposureMs,100.0")))
    assert ["light_levels 100%: the camera exposes for" in problem for problem in problems] == [True]


def test_presets_of_every_channel_are_compared(tmp_path):
    job = load_job("quickstart", "demo")
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["GFP"] = data["light_sources"]["DAPI"] | {"preset": None}
    job.profile = MicroscopeProfile.model_validate(data)
    path = cfg(tmp_path, more="ConfigGroup,Channel,GFP,Emission,Label,Chroma-HQ620\n")
    _, warnings = told_by_hardware(job, path)
    assert "light_sources.GFP: Emission.Label = 'Chroma-HQ620'" in warnings
    job.protocol = ImagingProtocol.model_validate(job.protocol.model_dump() | {"channel": "GFP"})
    problems, _ = told_by_hardware(job, path)
    assert any("Emission.Label = 'Chroma-HQ620'" in problem for problem in problems)
    _, warnings = told_by_files(load_job("quickstart", "demo"), tmp_path / "demo.yaml", tmp_path)
    assert "GFP" not in warnings


def test_a_core_that_was_opened_with_another_protocol_is_refused(tmp_path):
    job = small("demo")
    brighter = [level.model_dump() for level in job.protocol.light_levels]
    brighter[1]["led_percent"] = 50
    other = ImagingProtocol.model_validate(job.protocol.model_dump() | {"light_levels": brighter})
    core = open_microscope(job.profile, job.profile_path, other)
    with pytest.raises(ProblemsError, match=r"sets LED\.Voltage = 5\S* on this core, not"):
        acquired(job, tmp_path / "RUN", core)
    core = open_microscope(job.profile, job.profile_path)
    with pytest.raises(ProblemsError, match="is not defined on this core"):
        acquired(job, tmp_path / "RUN", core)


def test_a_filter_that_is_not_there_lights_nothing(tmp_path, monkeypatch):
    job = small("demo")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    real = type(core).getProperty

    def stuck(device, name):
        return "Chroma-HQ700" if (device, name) == ("Emission", "Label") else real(core, device, name)

    monkeypatch.setattr(core, "getProperty", stuck)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "Emission.Label is Chroma-HQ700 (asked: Chroma-D460): this level was not lit" in result.message
    assert run.sample_dose_ms() == 0


def test_state_and_label_are_one_thing(tmp_path):
    job = load_job("quickstart", "demo")
    off = [
        {"device": "LED", "property": "Voltage", "value": 0},
        {"device": "Emission", "property": "State", "value": 0},
    ]
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"]["switch_off"] = off
    job.profile = MicroscopeProfile.model_validate(data)
    assert told_by_files(job, cfg(tmp_path), tmp_path)[0] == [], (
        "the preset's Label switches on what State switches off"
    )
    path = cfg(tmp_path, ("Label,Emission,1,Chroma-D460", "Label,Emission,0,Chroma-D460"))
    problems, _ = told_by_files(job, path, tmp_path)
    assert ["the light would never be on" in problem for problem in problems] == [True]


def test_a_channel_may_need_several_presets(tmp_path):
    job = load_job("quickstart", "demo")
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"]["more_presets"] = {"Light path": "Camera"}
    job.profile = MicroscopeProfile.model_validate(data)
    path = cfg(tmp_path, more="ConfigGroup,Light path,Camera,Objective,State,3\n")
    assert told_by_files(job, path, tmp_path)[0] == []
    core = open_microscope(job.profile, path, job.protocol)
    settings = [(s[0], s[1]) for s in core.getConfigData(LIGHT_LEVEL_GROUP, "2%")]
    assert ("Objective", "State") in settings
    assert ("Emission", "Label") in settings
    problems, _ = told_by_files(job, cfg(tmp_path, more="ConfigGroup,LightPath,Camera,Objective,State,3\n"), tmp_path)
    assert any("no config group 'Light path' in demo.cfg; did you mean 'LightPath'?" in problem for problem in problems)


def test_blanks_in_names_are_shown(tmp_path):
    job = load_job("quickstart", "demo")
    path = cfg(tmp_path, ("ConfigGroup,Channel,", "ConfigGroup,  Channel,"))
    problems, _ = told_by_files(job, path, tmp_path)
    assert any("no config group 'Channel' in demo.cfg; did you mean '  Channel'?" in problem for problem in problems), (
        problems
    )


def test_a_configuration_in_a_windows_code_page_is_read_and_loaded(tmp_path):
    job = load_job("quickstart", "demo")
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text(encoding="utf-8")
    text = text.replace("ConfigGroup,Channel,DAPI", "ConfigGroup,Kanäle,DAPI").replace(
        "Chroma-D460", "Chroma-460±25 nm"
    )
    (tmp_path / "demo.cfg").write_bytes(text.encode("cp1252"))
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"]["preset_group"] = "Kanäle"
    job.profile = MicroscopeProfile.model_validate(data)
    problems, warnings = told_by_files(job, tmp_path / "demo.yaml", tmp_path)
    assert problems == []
    assert "is not UTF-8" in warnings
    core = open_microscope(job.profile, tmp_path / "demo.yaml", job.protocol)
    settings = {(s[0], s[1]): s[2] for s in core.getConfigData(LIGHT_LEVEL_GROUP, "2%")}
    assert settings["Emission", "Label"] == "Chroma-460±25 nm"
    assert check_hardware(core, job.protocol, job.profile, tmp_path / "demo.yaml").problems == []


def test_a_hang_that_cannot_be_cut_short_is_told():
    job = load_job("quickstart", "demo")
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT)
    assert any("of one adapter library (DemoCamera)" in str(warning) for warning in report.warnings)
    job = load_job("quickstart", "simulated")
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT)
    assert {warning.key for warning in report.warnings} == {"held_out"}, "two wells held out, and nothing else"


def test_saturation_is_told_while_it_can_be_mended(tmp_path, caplog):
    job = small("simulated")
    data = job.profile.model_dump(mode="json")
    data["camera"]["saturation_counts"] = 4095
    job.profile = MicroscopeProfile.model_validate(data)
    seen = []
    run = prepare_run(job.protocol_path, job.profile_path, job.protocol, job.profile, tmp_path / "RUN")
    acquire(job.protocol, job.profile, job.profile_path, run, on_progress=lambda p: seen.append(p.frames_saturated))
    run.unlock()
    assert seen[0] == 1, "after the first site"
    assert run.read_status("acquire")["frames"]["saturated"] == 4
    told = [r.message for r in caplog.records if "is saturated" in r.message]
    assert len(told) == 1
    assert told[0].startswith("100% of B2_0 is saturated")


def test_an_image_of_another_shape_is_a_frame_that_failed_and_its_light_is_noted(tmp_path, monkeypatch):
    job = small("demo")
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    real = type(core).getImage
    monkeypatch.setattr(core, "getImage", lambda: real(core)[:256, :256])
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "failed"
    assert "the camera gave an image of shape (256, 256), not 512 x 512" in result.message
    assert all(r.state == "skipped" and r.sample_dose_ms > 0 for r in run.ledger.read())


def test_no_disk_is_filled_to_the_brim(monkeypatch):
    job = load_job("quickstart", "demo")
    free = shutil.disk_usage(ROOT)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: free._replace(free=400_000_000))
    problems, _ = told_by_files(job, job.profile_path, ROOT)
    assert ["0.50 GB must stay free, 0.40 GB are free" in problem for problem in problems] == [True]


@pytest.mark.parametrize("how", ["software", "core_shutter"])
def test_what_lets_light_on_is_not_set_with_the_filters(how, tmp_path, monkeypatch):
    """A shutter of the lamp that the channel's preset opens is open for the exposure, not while the disk is waited for."""
    job = small("demo")
    off = [
        {"device": "LED", "property": "Voltage", "value": 0},
        {"device": "Emission", "property": "State", "value": 0},
    ]
    data = by_software(job, switch_off=off).model_dump(mode="json")
    if how == "core_shutter":
        data["gating"] = {"how": how, "shutter": "Shutter"}
    job.profile = MicroscopeProfile.model_validate(data)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    waiting, exposing = [], []
    real_wait, real_snap = Recorder.wait_for_pixels, type(core).snapImage

    def wait(self) -> None:
        waiting.append((float(core.getProperty("LED", "Voltage")), core.getProperty("Emission", "State")))
        real_wait(self)

    def snap() -> None:
        exposing.append(core.getProperty("Emission", "State"))
        real_snap(core)

    monkeypatch.setattr(Recorder, "wait_for_pixels", wait)
    monkeypatch.setattr(core, "snapImage", snap)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "completed"
    assert len(waiting) >= 16
    if how == "software":
        assert set(waiting) == {(0.0, "0")}
    assert exposing == ["1"] * 16
    assert core.getProperty("Emission", "State") == "0"
    assert run.read_status("acquire")["times_found_lit"] == 0


def test_light_of_an_attempt_is_noted_when_the_run_is_stopped_before_the_next(tmp_path, monkeypatch):
    job = small("demo")
    job.profile = by_software(job)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    real = engine.set_level
    engines = []
    monkeypatch.setattr(core.mda, "set_engine", lambda e, old=core.mda.set_engine: engines.append(e) or old(e))

    def lit_but_wrong(*args):
        real(*args)
        time.sleep(0.2)
        engines[0].stop_now = True
        raise engine.NotAsAskedError("the power is another")

    monkeypatch.setattr(engine, "set_level", lit_but_wrong)
    run, result = acquired(job, tmp_path / "RUN", core)
    assert result.end_reason == "cancelled"
    power = job.protocol.levels_in_exposure_order[0].led_percent / 100
    assert run.sample_dose_ms() >= 200 * power
