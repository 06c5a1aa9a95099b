"""What a user types: the commands as separate processes."""

from __future__ import annotations

import json
import subprocess
import sys

import imageio.v3 as iio
import numpy as np
import pytest
import tifffile

from conftest import DATA, ROOT
from scotopic.protocol import ImagingProtocol

QUICKSTART = ROOT / "protocols" / "quickstart.yaml"
SIMULATED = ROOT / "hardware_configs" / "simulated.yaml"
DEMO = ROOT / "hardware_configs" / "demo.yaml"


def scotopic(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scotopic", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, encoding="utf-8")


def test_light_programs_stay_light():
    """No torch beside the microscope, and nothing heavy before a command needs it."""
    code = "import sys, scotopic.workflow; print(int('torch' in sys.modules))\n"
    code += "import scotopic.microscope, scotopic.simulator; print(int('torch' in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["0", "0"]
    code = "import sys, scotopic.cli; print({'numpy', 'pymmcore_plus', 'torch', 'pydantic'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"


def test_logging_is_left_to_the_user():
    code = "import logging, scotopic.microscope; print(logging.getLogger().level == logging.WARNING)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "True"


@pytest.mark.parametrize("microscope", [DEMO, SIMULATED], ids=["demo", "simulated"])
@pytest.mark.parametrize("connect", [[], ["--connect"]], ids=["files", "connect"])
def test_the_white_papers_plate_passes_the_check(microscope, connect, tmp_path):
    protocol = ROOT / "protocols" / "low_light_96.yaml"
    result = scotopic("check", protocol, "--microscope", microscope, "--out", tmp_path / "RUN", *connect)
    assert result.returncode == 0, result.stderr
    assert "3,456" in result.stdout
    assert "Check passed" in result.stdout
    assert not (tmp_path / "RUN").exists()


def test_mistakes_of_both_files_are_told_together_with_exit_code_2(tmp_path):
    protocol, profile = tmp_path / "p.yaml", tmp_path / "m.yaml"
    protocol.write_text(QUICKSTART.read_text(encoding="utf-8").replace("channel: DAPI", "chanel: DAPI"))
    profile.write_text(SIMULATED.read_text(encoding="utf-8").replace("step: 0.5", "step: -1"))
    for command in (["check"], ["run", "--out", tmp_path / "RUN"]):
        result = scotopic(command[0], protocol, "--microscope", profile, *command[1:])
        assert result.returncode == 2
        assert "Traceback" not in result.stderr
        lines = result.stderr.splitlines()
        assert any("p.yaml:11: chanel is no key here; did you mean 'channel'?" in line for line in lines)
        assert any("light_sources.DAPI.step = -1: should be greater than 0" in line for line in lines)
    assert not (tmp_path / "RUN").exists()


def test_the_schema_is_printed():
    result = scotopic("protocol", "schema")
    assert json.loads(result.stdout) == ImagingProtocol.model_json_schema()
    assert json.loads(scotopic("profile", "schema").stdout)["title"] == "MicroscopeProfile"


@pytest.mark.e2e
def test_a_run_goes_as_far_as_todays_parts_reach(tmp_path):
    out = tmp_path / "RUN"
    result = scotopic("run", QUICKSTART, "--microscope", SIMULATED, "--out", out)
    assert result.returncode == 0, result.stderr
    assert "96 frames planned, 2 wells held out" in result.stdout
    assert "still missing" in result.stdout
    assert (out / "protocol.yaml").read_bytes() == QUICKSTART.read_bytes()
    assert (out / "microscope.cfg").exists()
    (tiff,) = out.glob("*.ome.tif")
    with tifffile.TiffFile(tiff) as file:
        images = file.series[0].asarray().astype(float)
        assert file.series[0].axes == "CYX"
        assert 'Name="0.05%"' in file.ome_metadata
    signal = images.mean((1, 2)) - 200
    assert signal == pytest.approx(signal[-1] * np.array([0.0005, 0.002, 0.02, 1]), rel=0.1)
    (png,) = out.glob("*.png")
    assert iio.imread(png).shape == (512, 4 * 512)


@pytest.mark.e2e
def test_a_run_on_real_images_says_which_wells_they_fill(tmp_path):
    protocol = tmp_path / "p.yaml"
    protocol.write_text(QUICKSTART.read_text(encoding="utf-8").replace("rows: 2, columns: 2", "rows: 2, columns: 1"))
    result = scotopic("run", protocol, "-m", SIMULATED, "--out", tmp_path / "RUN", "--specimen", DATA / "nuclei")
    assert result.returncode == 0, result.stderr
    assert "6 images fill 3 wells of 2 sites; 3 of 6 wells are left out" in result.stdout
    assert "24 frames planned, 1 wells held out" in result.stdout.replace("well held", "wells held")


def test_images_that_fill_no_well_are_refused(tmp_path):
    low_light = ROOT / "protocols" / "low_light_96.yaml"
    result = scotopic("check", low_light, "--microscope", SIMULATED, "--specimen", DATA / "nuclei")
    assert result.returncode == 2
    assert "6 images fill 0 wells of 9 sites: give more images, or fewer sites" in result.stderr


def test_a_real_microscope_takes_no_specimen(tmp_path):
    result = scotopic("check", QUICKSTART, "--microscope", DEMO, "--specimen", tmp_path)
    assert result.returncode == 2
    assert "this microscope is not simulated" in result.stderr


def test_ci_runs_the_very_command_that_the_readme_gives():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    commands = [line for line in readme.splitlines() if line.startswith("python3 -m venv")]
    main_job, tests = commands
    assert "scotopic run" in main_job
    assert "pytest" in tests
    assert tests in ci.splitlines()
