"""From a working Micro-Manager configuration to a profile."""

from __future__ import annotations

import re

import pytest
import yaml
from typer.testing import CliRunner

from conftest import ROOT
from scotopic.cli import app
from scotopic.microscope.new_profile import Hardware, Power, profile_text

CONFIGS = ROOT / "hardware_configs"
FILLED = {
    "offset_counts": "0",
    "gain_e_per_count": "1",
    "read_noise_e": "1",
    "overhead_ms": "10",
    "x_um": "[-10000, 110000]",
    "y_um": "[-10000, 80000]",
    "z_um": "[-300, 300]",
    "A1": "[0, 0]",
    "A12": "[99000, 0]",
    "H1": "[0, 63000]",
}


def run(*words):
    return CliRunner().invoke(app, [str(word) for word in words])


def filled_in(text):
    """Fill in what a user must."""
    for key, value in FILLED.items():
        text, count = re.subn(rf"^( +{key}:) +# \?", rf"\1 {value} #", text, flags=re.MULTILINE)
        assert count == 1, key
    return text


@pytest.mark.parametrize("name", ["demo", "simulated"])
def test_the_hardware_tells_what_it_is_and_the_rest_is_asked_for(name, tmp_path):
    path = tmp_path / "new.yaml"
    made = run("profile", "new", CONFIGS / f"{name}.cfg", "--out", path)
    assert made.exit_code == 0, made.output
    assert "10 lines with `# ?`" in made.output
    protocol = ROOT / "protocols" / "quickstart.yaml"
    asked = run("check", protocol, "--microscope", path)
    assert asked.exit_code == 2
    for key in ("camera.offset_counts", "gating.overhead_ms", "stage.x_um", "plate_calibration.A1"):
        assert key in asked.output
    path.write_text(filled_in(path.read_text(encoding="utf-8")), encoding="utf-8")
    ours, new = (yaml.safe_load(each.read_text(encoding="utf-8")) for each in (CONFIGS / f"{name}.yaml", path))
    for part, keys in {
        "camera": ("device", "width_px", "height_px", "pixel_size_um", "saturation_counts"),
        "stage": ("xy_device", "z_device", "autofocus_device"),
    }.items():
        assert {key: new[part][key] for key in keys} == {key: ours[part][key] for key in keys}
    light, own = new["light_sources"]["DAPI"], ours["light_sources"]["DAPI"]
    assert [light[key] for key in ("device", "property", "max")] == [own[key] for key in ("device", "property", "max")]
    assert new["gating"]["shutter"] == ours["gating"]["shutter"]
    if name == "demo":
        passed = run("check", protocol, "--microscope", path, "--connect")
        assert passed.exit_code == 0, passed.output


def test_a_profile_that_is_there_is_not_written_over(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine", encoding="utf-8")
    refused = run("profile", "new", CONFIGS / "demo.cfg", "--out", path)
    assert refused.exit_code == 2
    assert "is there already" in refused.output
    assert path.read_text(encoding="utf-8") == "name: mine"
    assert run("profile", "new", tmp_path / "none.cfg").exit_code == 2


def test_what_the_hardware_lacks_is_asked_for_and_odd_names_stay_what_they_are():
    bare = Hardware(
        cameras=("Cam: left", "Cam #2"),
        xy_stages=(),
        z_drives=("on",),
        autofocus=(),
        shutters=(),
        gated=(),
        lamps=(),
        powers=(
            Power("it's # 1", "Intensity", 0, 1048575, is_whole=True),
            Power("Other", "Power", 2, 5, is_whole=False),
        ),
        switches=(),
        presets={},
        width_px=2048,
        height_px=2048,
        bits=12,
        pixel_size_um=0,
        exposure_ms=(0.1, 1000),
    )
    text = profile_text(bare, "a: b", "x y.cfg")
    read = yaml.safe_load(text)
    assert read["name"] == "a: b"
    assert read["camera"]["device"] == "Cam: left"
    assert "or Cam #2" in text
    assert read["stage"]["z_device"] == "on"
    assert read["stage"]["xy_device"] is None
    assert read["camera"]["pixel_size_um"] is None
    assert read["camera"]["saturation_counts"] == 4095
    assert read["light_sources"]["DAPI"]["device"] == "it's # 1"
    assert read["light_sources"]["DAPI"]["max"] == 1048575
    assert read["light_sources"]["DAPI"]["settle_ms"] == 0, "with gating by software it would be refused"
    other = read["light_sources"]["Other Power"]
    assert (other["device"], other["max"]) == ("Other", 5), "what is not named would not be switched off"
    assert other["switch_off"] == [{"device": "Other", "property": "Power", "value": 0}]
    assert "the device allows 2 at least" in text
    assert read["gating"] == {"how": "software", "overhead_ms": None}
