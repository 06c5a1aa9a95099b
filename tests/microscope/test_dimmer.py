"""A dimmer with positions: a wheel of neutral density filters, as MMCore's demo adapter has them."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from conftest import ROOT, acquired, load_job, small
from scotopic.cli import app
from scotopic.microscope import check_files, check_hardware, close_microscope, open_microscope
from scotopic.microscope.config_file import read_config
from scotopic.microscope.light_alone import light_devices
from scotopic.protocol import ImagingProtocol, LightSource, MicroscopeProfile, setting_for

LABELS = {"ND16": 2.5, "ND10": 10, "Open": 100}
WHEEL = {"device": "ND", "property": "Label", "labels": LABELS, "min": 0, "max": None, "step": None}


def with_wheel(job, folder, *lines, switch_off=(), gating=None, **light):
    """The demo microscope with a lamp that is always on, and a wheel of filters between it and the shutter."""
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text(encoding="utf-8")
    text = text.replace("Device,XY,", "Device,ND,DemoCamera,DWheel\nDevice,Lamp,DemoCamera,DStateDevice\nDevice,XY,")
    more = ["Label,ND,0,Open", "Label,ND,1,ND10", "Label,ND,2,ND16", "Label,ND,3,Blocked", *lines]
    (folder / "demo.cfg").write_text(text + "\n".join(more) + "\n", encoding="utf-8")
    data = job.profile.model_dump(mode="json")
    data["light_sources"]["DAPI"] |= WHEEL | {"switch_off": list(switch_off)} | light
    data["gating"] = gating or data["gating"]
    job.profile = MicroscopeProfile.model_validate(data)
    return folder / "demo.yaml"


def problems_of(job, path):
    return [str(p) for p in check_files(job.protocol, job.protocol_path, job.profile, path, path.parent).problems]


def at(job, **light):
    levels = [level.model_dump() for level in job.protocol.light_levels]
    levels[1] |= light
    job.protocol = ImagingProtocol.model_validate(job.protocol.model_dump() | {"light_levels": levels})
    return job


def test_each_level_has_its_position_and_the_ledger_what_was_read_back(tmp_path):
    job = small("demo")
    path = with_wheel(job, tmp_path)
    assert problems_of(job, path) == []
    core = open_microscope(job.profile, path, job.protocol)
    assert [str(p) for p in check_hardware(core, job.protocol, job.profile, path).problems] == []
    seen = []

    def look(image, event, *_) -> None:
        seen.append((event.channel.config, core.getProperty("ND", "Label"), core.getShutterOpen()))

    core.mda.events.frameReady.connect(look)
    run, result = acquired(job, tmp_path / "RUN", core)
    close_microscope(core)
    assert result.end_reason == "completed"
    wheel = {"100%": "Open", "2%": "Open", "0.2%": "ND10", "0.05%": "ND16"}
    assert set(seen) == {(level, label, False) for level, label in wheel.items()}
    for record in run.ledger.read():
        assert record.led_read_percent == LABELS[wheel[record.level]] == record.led_percent
        assert record.signal_dose_ms == pytest.approx(record.exposure_ms * record.led_percent / 100)


def test_a_power_that_no_position_has_is_refused_with_those_that_there_are(tmp_path):
    job = at(load_job("quickstart", "demo"), led_percent=20)
    (line,) = problems_of(job, with_wheel(job, tmp_path))
    assert "light_levels 2%: led_percent = 20: ND.Label has 2.5 % (ND16), 10 % (ND10), 100 % (Open)" in line
    assert "the same dose: 8 ms at 10 %" in line


def test_a_dose_becomes_a_position_and_an_exposure(tmp_path):
    job = load_job("quickstart", "demo")
    with_wheel(job, tmp_path)
    setting = setting_for(job.profile, "DAPI", 0.4, 4.0)
    assert (setting.exposure_ms, setting.led_percent) == (4.0, 10)
    setting = setting_for(job.profile, "DAPI", 0.24, 4.0)
    assert (setting.exposure_ms, setting.led_percent) == (2.4, 10)


def test_a_label_that_the_wheel_does_not_have_is_found(tmp_path):
    job = load_job("quickstart", "demo")
    path = with_wheel(job, tmp_path, labels={"ND10": 10, "Opened": 100, "ND16": 2.5})
    core = open_microscope(job.profile, path)
    found = [str(p) for p in check_hardware(core, job.protocol, job.profile, path).problems]
    close_microscope(core)
    assert any("light_sources.DAPI.labels: ND.Label = 'Opened'; did you mean 'Open'?" in line for line in found), found


def test_a_wheel_that_does_not_turn_is_not_exposed_through(tmp_path):
    job = small("demo")
    path = with_wheel(job, tmp_path)
    core = open_microscope(job.profile, path, job.protocol)
    real = core.setProperty
    core.setProperty = lambda device, *rest: None if device == "ND" else real(device, *rest)
    run, result = acquired(job, tmp_path / "RUN", core)
    close_microscope(core)
    assert result.end_reason == "failed", "two sites in a row"
    records = run.ledger.read()
    skipped = [r for r in records if r.state == "skipped"]
    assert {r.level for r in skipped} == {"0.2%", "0.05%"}
    assert "ND.Label is Open (asked: ND" in skipped[0].reason
    assert all(r.sample_dose_ms == 0 for r in skipped)


def test_a_lamps_switch_makes_it_dark_and_the_preset_lights_it(tmp_path):
    job = small("demo")
    off = [{"device": "Lamp", "property": "State", "value": 0}]
    (line,) = problems_of(job, with_wheel(job, tmp_path, switch_off=off))
    assert "Lamp.State is switched off but never on: set it in the preset Channel: DAPI" in line
    job = small("demo")
    software = {"how": "software", "overhead_ms": 10}
    path = with_wheel(job, tmp_path, "ConfigGroup,Channel,DAPI,Lamp,State,1", switch_off=off, gating=software)
    assert problems_of(job, path) == []
    core, seen = open_microscope(job.profile, path, job.protocol), []
    look = lambda *_: seen.append((core.getProperty("Lamp", "State"), core.getProperty("ND", "Label")))  # noqa: E731
    core.mda.events.frameReady.connect(look)
    _, result = acquired(job, tmp_path / "RUN", core)
    close_microscope(core)
    assert result.end_reason == "completed"
    assert {lamp for lamp, _ in seen} == {"0"}
    assert {label for _, label in seen} == set(LABELS)


@pytest.mark.parametrize("how", ["software", "camera_ttl"])
def test_a_wheel_alone_cannot_make_it_dark(how, tmp_path):
    with pytest.raises(ValueError, match=r"DAPI\.switch_off: no label is dark: name what makes the light so"):
        with_wheel(load_job("quickstart", "demo"), tmp_path, gating={"how": how})


def test_a_position_that_lets_nothing_through_is_dark(tmp_path):
    job = load_job("quickstart", "demo")
    blocked = {"device": "ND", "property": "Label", "value": "Blocked"}
    path = with_wheel(job, tmp_path, switch_off=[blocked], gating={"how": "software", "overhead_ms": 10})
    assert problems_of(job, path) == []
    core = open_microscope(job.profile, path, job.protocol)
    assert core.getProperty("ND", "Label") == "Blocked"
    close_microscope(core)


WRONG = {
    "not dark": ({"switch_off": [{"device": "ND", "property": "Label", "value": "ND10"}]}, "sets Label to 'ND10', which is not dark: 10 %"),
    "a range as well": ({"max": 100}, "max: not with labels"),
    "nothing at 100": ({"labels": {"ND10": 10}}, "labels: the brightest is 100"),
    "one power twice": ({"labels": {"A": 10, "B": 10, "Open": 100}}, "two of them have the same power"),
    "neither": ({"labels": None}, "max and step: missing; a dimmer with positions has labels instead"),
    "no light at all": ({"labels": {"Blocked": 0, "Open": 100}}, "greater than 0"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG.keys())
def test_a_wheel_that_cannot_be_is_refused(change, told):
    with pytest.raises(ValueError, match=told):
        LightSource.model_validate(WHEEL | change)


def test_positions_by_number_are_told_by_number():
    source = LightSource.model_validate(WHEEL | {"property": "State", "labels": {0: 100, 1: 10}})
    assert source.setting(10).text == "1"
    assert source.percent_of("0") == 100
    with pytest.raises(ValueError, match=r"ND\.State = '7': none of 0, 1"):
        source.percent_of("7")


def test_light_off_does_not_load_a_wheel_that_cannot_be_dark(tmp_path):
    job = load_job("quickstart", "demo")
    path = with_wheel(job, tmp_path)
    assert light_devices(read_config(path.with_suffix(".cfg")), job.profile) == {"Shutter", "DHub"}


def test_what_the_preset_says_of_the_wheel_is_left_out_by_either_name(tmp_path):
    job = load_job("quickstart", "demo")
    path = with_wheel(job, tmp_path, "ConfigGroup,Channel,DAPI,ND,State,1")
    report = check_files(job.protocol, job.protocol_path, job.profile, path, tmp_path)
    assert report.problems == []
    assert "sets ND.State = 1, which is left out: each light level sets the power" in "\n".join(
        map(str, report.warnings)
    )


def test_a_wheel_is_measured_with_a_power_meter(tmp_path):
    import yaml

    job = load_job("quickstart", "demo")
    path = with_wheel(job, tmp_path)
    data = job.profile.model_dump(mode="json", exclude_none=True)
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    refused = CliRunner().invoke(app, ["calibrate", "light", "--microscope", str(path), "--yes"])
    assert refused.exit_code == 2
    assert "ND has positions, not a range: write the transmission of each" in refused.output
