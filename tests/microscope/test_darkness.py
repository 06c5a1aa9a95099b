"""Off is read back, and nothing is lit that nobody asked for: the devices are the judge."""

from __future__ import annotations

import pytest

from conftest import ROOT, acquired, load_job, small
from scotopic.microscope import LightOnError, check_files, open_microscope, switch_light_off
from scotopic.microscope import core as core_module
from scotopic.protocol import LIGHT_LEVEL_GROUP, MicroscopeProfile
from scotopic.store import Recorder


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
