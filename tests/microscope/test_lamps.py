"""Light that the profile does not name: a preset that switches it on is refused, and what is named stays dark."""

from __future__ import annotations

import pytest
import yaml

from conftest import ROOT, acquired, load_job, small
from scotopic.microscope import check_files, check_hardware, close_microscope, engine, load_config, open_microscope
from scotopic.microscope.config_file import read_config
from scotopic.microscope.lamp_check import refuse_unnamed_light
from scotopic.microscope.light_alone import light_devices
from scotopic.microscope.shots import Shots
from scotopic.protocol import LIGHT_LEVEL_GROUP, MicroscopeProfile, ProblemsError

DIA = "Device,DiaShutter,DemoCamera,DShutter"
MULTI = "Device,Both,Utilities,Multi Shutter\nDevice,Inner,DemoCamera,DShutter"
SWITCH = "Label,TL,0,Off\nLabel,TL,1,On"


def cfg(folder, devices="", *lines):
    """Write the demo configuration with more devices and lines, and return the place of its profile."""
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text(encoding="utf-8")
    text = text.replace("Device,XY,", f"{devices}\nDevice,XY,") + "\n".join(lines) + "\n"
    (folder / "demo.cfg").write_text(text, encoding="utf-8")
    return folder / "demo.yaml"


def changed(job, light=(), **profile):
    data = job.profile.model_dump(mode="json") | profile
    data["light_sources"]["DAPI"] |= dict(light)
    job.profile = MicroscopeProfile.model_validate(data)
    return job


def by_files(job, path):
    report = check_files(job.protocol, job.protocol_path, job.profile, path, path.parent)
    return [str(each) for each in report.problems], "\n".join(map(str, report.warnings))


def by_core(job, path):
    """What MMCore's own knowledge of the devices refuses of the channel's presets."""
    core = load_config(path.with_suffix(".cfg"))
    try:
        refuse_unnamed_light(core, job.profile, ["DAPI"])
    except ProblemsError as error:
        return [str(each) for each in error.problems]
    finally:
        close_microscope(core)
    return []


def preset(*lines):
    return [f"ConfigGroup,Channel,DAPI,{line}" for line in lines]


REFUSED = {
    "a second shutter": (DIA, preset("DiaShutter,State,1"), "DiaShutter.State = 1, which opens a shutter", "keep_closed: [DiaShutter]"),
    "of an odd name": ("Device,Aux,DemoCamera,DShutter", preset("Aux,State,1"), "Aux.State = 1, which opens a shutter", "keep_closed: [Aux]"),
    "inside a multi-shutter": (MULTI, ["Property,Both,Physical Shutter 1,Inner", *preset("Inner,State,1")], "Inner.State = 1", "keep_closed: [Inner]"),
    "a multi-shutter": (MULTI, ["Property,Both,Physical Shutter 1,Inner", *preset("Both,State,1")], "Both.State = 1", "keep_closed: [Both]"),
    "a voltage": ("Device,Out2,DemoCamera,D-DA2", preset("Out2,Voltage,0.5"), "Out2.Voltage = 0.5, which sets the power", "{device: Out2, property: Voltage, value: 0}"),
    "another LED": ("Device,LED2,DemoCamera,D-DA2", preset("LED2,Voltage,5"), "LED2.Voltage = 5, which switches on a lamp", "property: Voltage, value: 0}"),
    "behind a DA shutter": (
        "Device,Gate,Utilities,DA Shutter\nDevice,Out2,DemoCamera,D-DA2",
        ["Property,Gate,DA Device,Out2", *preset("Out2,Voltage,5")], "Out2.Voltage = 5, which switches on a lamp", "keep_off: [{device: Out2"),
    "behind a shutter of positions": (
        "Device,Gate,Utilities,State Device Shutter\nDevice,Lines,DemoCamera,DStateDevice",
        ["Property,Gate,State Device,Lines", *preset("Lines,State,2")], "Lines.State = 2", "{device: Lines, property: State, value: 0}"),
    "a lamp by its position": ("Device,Halogen,DemoCamera,DStateDevice", preset("Halogen,State,1"), "Halogen.State = 1, which switches on a lamp", "property: State, value: 0}"),
    "a lamp by its label": ("Device,TL,DemoCamera,DWheel", [SWITCH, *preset("TL,Label,On")], "TL.Label = On", "{device: TL, property: Label, value: Off}"),
    "what startup switches off": (
        "Device,B1,DemoCamera,DWheel", [SWITCH.replace("TL", "B1"), "ConfigGroup,System,Startup,B1,Label,Off", *preset("B1,State,1")],
        "B1.State = 1, which switches on what the system presets", "property: State, value: 0}"),
    "what shutdown switches off": (
        "Device,B1,DemoCamera,DStateDevice", ["ConfigGroup,System,Shutdown,B1,State,0", *preset("B1,State,3")],
        "B1.State = 3, which switches on what the system presets", "property: State, value: 0}"),
}  # fmt: skip


@pytest.mark.parametrize(("devices", "lines", "told", "remedy"), REFUSED.values(), ids=REFUSED.keys())
def test_a_preset_that_lets_light_on_which_the_profile_does_not_name_is_refused(devices, lines, told, remedy, tmp_path):
    job, path = load_job("quickstart", "demo"), cfg(tmp_path, devices, *lines)
    for found in (by_files(job, path)[0], by_core(job, path)):
        assert [told in problem and remedy in problem for problem in found] == [True], found
    with pytest.raises(ProblemsError, match="that the profile does not name"):
        open_microscope(job.profile, path, job.protocol)


PASSES = {
    "closes a shutter": (DIA, preset("DiaShutter,State,0")),
    "switches a lamp off": ("Device,TL,DemoCamera,DWheel", [SWITCH, *preset("TL,Label,Off")]),
    "sets a power to nothing": ("Device,LED2,DemoCamera,D-DA2", preset("LED2,Voltage,0.0000")),
    "turns a filter wheel that startup and shutdown turn back": (
        "Device,Second,DemoCamera,DWheel",
        ["Label,Second,0,Empty", "Label,Second,1,GFP", "ConfigGroup,System,Startup,Second,State,0",
         "ConfigGroup,System,Shutdown,Second,State,0", *preset("Second,Label,GFP")]),
    "turns a light path": ("Device,LightPath,DemoCamera,DLightPath", preset("LightPath,State,1")),
}  # fmt: skip


@pytest.mark.parametrize(("devices", "lines"), PASSES.values(), ids=PASSES.keys())
def test_a_preset_that_lets_no_light_on_passes(devices, lines, tmp_path):
    job, path = load_job("quickstart", "demo"), cfg(tmp_path, devices, *lines)
    assert by_files(job, path)[0] == []
    assert by_core(job, path) == []


@pytest.mark.parametrize("name", ["Lines", "LED2"])
def test_what_the_gating_shutter_works_on_is_gated_by_it(name, tmp_path):
    """As in the demo configuration of Micro-Manager, whose `LED Shutter` works on `LED`."""
    devices = f"Device,Gate,Utilities,State Device Shutter\nDevice,{name},DemoCamera,DStateDevice"
    path = cfg(tmp_path, devices, f"Property,Gate,State Device,{name}", *preset(f"{name},State,2"))
    job = load_job("quickstart", "demo")
    gating = job.profile.gating.model_dump() | {"shutter": "Gate"}
    changed(job, gating=gating)
    assert by_files(job, path)[0] == []
    assert by_core(job, path) == []


def test_what_is_no_light_is_said_in_the_profile(tmp_path):
    job = load_job("quickstart", "demo")
    path = cfg(tmp_path, "Device,Mirror,DemoCamera,D-DA2", *preset("Mirror,Voltage,3"))
    assert len(by_files(job, path)[0]) == len(by_core(job, path)) == 1
    changed(job, no_light=["Mirror"])
    assert by_files(job, path)[0] == by_core(job, path) == []
    (line,) = by_files(changed(job, no_light=["Miror"]), cfg(tmp_path, "Device,Mirror,DemoCamera,D-DA2"))[0]
    assert "no_light[0] = 'Miror': no device of this label in demo.cfg; did you mean 'Mirror'?" in line


def test_the_light_of_another_channel_is_not_switched_on_besides(tmp_path):
    path = cfg(tmp_path, "Device,Out2,DemoCamera,D-DA2", *preset("Out2,Voltage,5"))
    job = load_job("quickstart", "demo")
    sources = job.profile.model_dump(mode="json")["light_sources"]
    off = [{"device": "Out2", "property": "Voltage", "value": 0}]
    other = sources["DAPI"] | {"device": "Out2", "switch_off": off, "preset_group": None}
    changed(job, light_sources=sources | {"Brightfield": other})
    for (line,) in (by_files(job, path)[0], by_core(job, path)):
        assert "Out2.Voltage = 5, which switches on the light of Brightfield" in line


def test_another_line_of_the_same_light_engine_is_another_light():
    """By the names that Lumencor's adapter gives its properties."""
    from scotopic.microscope.lamp_check import light_of_preset
    from scotopic.microscope.lamps import Lamps

    engine_of = {"device": "Spectra", "property": "Violet_Level", "max": 100, "step": 1}
    off = [{"device": "Spectra", "property": "Violet_Level", "value": 0}]
    job = changed(load_job("quickstart", "demo"), light=engine_of | {"switch_off": off})
    lamps = Lamps(frozenset({"Spectra"}), frozenset(), frozenset(), {}, frozenset())
    told = {
        name: light_of_preset(lamps, job.profile, "DAPI", ("Spectra", name, value))
        for name, value in (("Violet_Enable", "1"), ("Cyan_Enable", "1"), ("Cyan_Level", "40"), ("Green_Enable", "0"),
                            ("Violet_Level", "70"), ("State", "1"), ("Set LED Mode", "1"))
    }  # fmt: skip
    assert [name for name, why in told.items() if why] == ["Cyan_Enable", "Cyan_Level", "State"]


AT_THE_ENDS = {
    "a shutter at startup": (DIA, "ConfigGroup,System,Startup,DiaShutter,State,1", "sets DiaShutter.State = 1 when it is loaded"),
    "a property of its own": (DIA, "Property,DiaShutter,State,1", "sets DiaShutter.State = 1 when it is loaded"),
    "a shutter at the end": (DIA, "ConfigGroup,System,Shutdown,DiaShutter,State,1", "the light would stay on"),
    "the channel's light at the end": ("", "ConfigGroup,System,Shutdown,LED,Voltage,3", "the light would stay on"),
}  # fmt: skip


@pytest.mark.parametrize(("devices", "line", "told"), AT_THE_ENDS.values(), ids=AT_THE_ENDS.keys())
def test_light_that_mmcore_switches_on_by_itself_is_refused(devices, line, told, tmp_path):
    (problem,) = by_files(load_job("quickstart", "demo"), cfg(tmp_path, devices, line))[0]
    assert told in problem


def test_light_of_the_profile_that_is_on_while_loading_is_warned_of(tmp_path):
    path = cfg(tmp_path, "", "ConfigGroup,System,Startup,LED,Voltage,3")
    problems, warnings = by_files(load_job("quickstart", "demo"), path)
    assert problems == []
    assert "sets LED.Voltage = 3, which switches on a lamp: it is on while the configuration is loaded" in warnings


def test_a_shutter_that_is_open_when_the_hardware_is_loaded_is_found(tmp_path):
    path = cfg(tmp_path, "Device,Aux,DemoCamera,DShutter", "Property,Aux,State,1")
    job = load_job("quickstart", "demo")
    core = open_microscope(job.profile, path, job.protocol)
    found = [str(each) for each in check_hardware(core, job.protocol, job.profile, path).problems]
    assert not core.getShutterOpen("Aux")
    close_microscope(core)
    assert ["the shutter Aux was open after loading" in problem for problem in found] == [True]


def test_a_shutter_that_a_preset_opens_by_the_way_is_found_and_closed(tmp_path):
    path = cfg(tmp_path, "Device,Aux,DemoCamera,DShutter")
    job = load_job("quickstart", "demo")
    core = open_microscope(job.profile, path, job.protocol)
    # As on stands that choose the shutter of a contrast method: to set a filter opens it.
    core.events.propertyChanged.connect(lambda device, *_: device == "Emission" and core.setShutterOpen("Aux", True))
    found = [str(each) for each in check_hardware(core, job.protocol, job.profile, path).problems]
    assert not core.getShutterOpen("Aux")
    close_microscope(core)
    assert ["was open after the channel's presets were set" in problem for problem in found] == [True]


def test_calibrations_give_no_unnamed_light_either(tmp_path):
    job, path = load_job("quickstart", "demo"), cfg(tmp_path, DIA, *preset("DiaShutter,State,1"))
    core = open_microscope(job.profile, path)
    with pytest.raises(ProblemsError, match="opens a shutter"):
        Shots(core, job.profile, "DAPI")
    close_microscope(core)


def test_what_is_kept_dark_is_dark_from_loading_to_the_end(tmp_path, monkeypatch):
    lines = ["ConfigGroup,System,Startup,DiaShutter,State,1", "ConfigGroup,System,Startup,Out2,Voltage,5"]
    path = cfg(
        tmp_path, f"{DIA}\nDevice,Out2,DemoCamera,D-DA2", *lines, *preset("DiaShutter,State,1", "Out2,Voltage,5")
    )
    off = {"device": "Out2", "property": "Voltage", "value": 0}
    job = changed(small("demo"), keep_closed=["DiaShutter"], keep_off=[off])
    problems, warnings = by_files(job, path)
    assert problems == []
    assert "sets DiaShutter.State = 1, which is left out: keep_closed keeps it closed" in warnings
    assert "sets Out2.Voltage = 5, which is left out: keep_off keeps it off" in warnings
    core, seen = open_microscope(job.profile, path, job.protocol), []
    devices = {line[0] for line in core.getConfigData(LIGHT_LEVEL_GROUP, "2%")}
    assert devices == {"Dichroic", "Emission", "Excitation", "LED"}

    def look(*_) -> None:
        seen.append((core.getShutterOpen("DiaShutter"), float(core.getProperty("Out2", "Voltage"))))

    look()
    real = engine.expose
    monkeypatch.setattr(engine, "expose", lambda *a, **k: (look(), real(*a, **k), look())[1])
    core.mda.events.frameReady.connect(
        lambda image, event, *_: core.setShutterOpen("DiaShutter", event.index["p"] == 1)
    )
    run, result = acquired(job, tmp_path / "RUN", core)
    look()
    assert set(seen) == {(False, 0.0)}
    assert len(seen) == 34
    assert run.read_status("acquire")["times_found_lit"] == 4, (
        "somebody opens it: it is closed before the next exposure"
    )
    assert result.end_reason == "completed_with_errors"


def test_light_off_loads_and_closes_what_is_kept_dark(tmp_path):
    path = cfg(tmp_path, f"{DIA}\nDevice,Out2,DemoCamera,D-DA2")
    off = {"device": "Out2", "property": "Voltage", "value": 0}
    job = changed(load_job("quickstart", "demo"), keep_closed=["DiaShutter"], keep_off=[off])
    needed = light_devices(read_config(path.with_suffix(".cfg")), job.profile)
    assert needed == {"LED", "Shutter", "DHub", "DiaShutter", "Out2"}


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"keep_closed": ["Shutter"]}, "keep_closed: 'Shutter' is gating.shutter"),
        ({"keep_closed": ["LED"]}, "keep_closed: 'LED' is what lights DAPI"),
        ({"keep_off": [{"device": "LED", "property": "Voltage", "value": 0}]}, "LED.Voltage is what lights DAPI"),
    ],
)
def test_what_lights_a_channel_is_not_kept_dark(keys, told):
    with pytest.raises(ValueError, match=told):
        changed(load_job("quickstart", "demo"), **keys)


def test_a_new_profile_proposes_to_keep_dark_what_no_channel_needs(tmp_path):
    from typer.testing import CliRunner

    from scotopic.cli import app

    path = cfg(tmp_path, f"{DIA}\nDevice,TL,DemoCamera,DWheel", SWITCH, *preset("DiaShutter,State,1", "TL,Label,On"))
    made = CliRunner().invoke(app, ["profile", "new", str(path.with_suffix(".cfg"))])
    assert made.exit_code == 0, made.output
    new = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert new["keep_closed"] == ["DiaShutter"]
    assert new["keep_off"] == [{"device": "TL", "property": "State", "value": "0"}]
    job = changed(load_job("quickstart", "demo"), keep_closed=new["keep_closed"], keep_off=new["keep_off"])
    assert by_files(job, path)[0] == by_core(job, path) == []
