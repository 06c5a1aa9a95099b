from __future__ import annotations

import pytest
import yaml
from typer.testing import CliRunner

from conftest import ROOT
from lasting import STATE
from scotopic.cli import app
from scotopic.microscope.config_file import read_config
from scotopic.microscope.light_alone import light_config, light_devices
from scotopic.protocol import MicroscopeProfile, read_model


@pytest.fixture
def led(tmp_path, monkeypatch):
    """A microscope whose LED burns on, and whose camera and stage nobody can load."""
    text = (ROOT / "hardware_configs" / "simulated.cfg").read_text(encoding="utf-8")
    for label, module in {
        "LED": "lasting,LastingLED", "Shutter": "lasting,LastingShutter", "Camera": "nowhere,Camera", "XY": "nowhere,XYStage",
    }.items():  # fmt: skip
        line = next(each for each in text.splitlines() if each.startswith(f"#py pyDevice,{label},"))
        text = text.replace(line, f"#py pyDevice,{label},{module}")
    text += "#py ConfigGroup,System,Startup,LED,Power,100\n"
    (tmp_path / "burning.cfg").write_text(text, encoding="utf-8")
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    del data["simulator"]
    data["plate_calibration"] = {"A1": [0, 0], "A12": [99000, 0], "H1": [0, 63000]}
    (tmp_path / "burning.yaml").write_text(yaml.safe_dump(data | {"config": "burning.cfg"}), encoding="utf-8")
    state = tmp_path / "power.txt"
    state.write_text("80", encoding="utf-8")
    (tmp_path / "power.txt.shutter").write_text("open", encoding="utf-8")
    monkeypatch.setenv(STATE, str(state))
    return state


def test_light_goes_off_without_the_rest_of_the_microscope(led):
    result = CliRunner().invoke(app, ["light-off", "--microscope", str(led.parent / "burning.yaml")])
    assert result.exit_code == 0, result.output
    assert float(led.read_text(encoding="utf-8")) == 0
    assert (led.parent / "power.txt.shutter").read_text(encoding="utf-8") == "closed"


def test_what_the_light_needs_is_loaded_and_nothing_else(led):
    profile = read_model(led.parent / "burning.yaml", MicroscopeProfile)
    config = read_config(led.parent / "burning.cfg")
    needed = light_devices(config, profile)
    assert needed == {"LED", "Lamp", "Shutter", "Simulator"}, "with their hub"
    text = light_config(config, needed)
    assert "ConfigGroup" not in text, "a preset at startup may be light"
    assert "Camera" not in text


def test_ports_and_shutters_behind_a_shutter_are_needed_too(tmp_path):
    (tmp_path / "serial.cfg").write_text(
        "Property,Core,Initialize,0\n"
        "Device,COM3,SerialManager,COM3\nDevice,COM4,SerialManager,COM4\nDevice,Hub,Arduino,Hub\nDevice,Engine,Arduino,Engine\n"
        "Device,Both,Utilities,Multi Shutter\nDevice,Inner,Arduino,Shutter\nDevice,Stage,Other,Stage\n"
        "Property,Hub,Port,COM3\nProperty,Stage,Port,COM4\nParent,Engine,Hub\nParent,Inner,Hub\n"
        "Property,Core,Initialize,1\nProperty,Both,Physical Shutter 1,Inner\nProperty,Core,Shutter,Both\n",
        encoding="utf-8",
    )
    profile = read_model(ROOT / "hardware_configs" / "simulated.yaml", MicroscopeProfile)
    data = profile.model_dump(mode="json") | {"simulator": None}
    data["light_sources"] = {"DAPI": data["light_sources"]["DAPI"] | {"device": "Engine"}}
    data["light_sources"]["DAPI"]["switch_off"] = [{"device": "Engine", "property": "Power", "value": 0}]
    data["gating"]["shutter"] = "Both"
    needed = light_devices(read_config(tmp_path / "serial.cfg"), MicroscopeProfile.model_validate(data))
    assert needed == {"Engine", "Hub", "COM3", "Both", "Inner"}
