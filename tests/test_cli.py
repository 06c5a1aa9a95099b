"""What a user types: the commands as separate processes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import imageio.v3 as iio
import numpy as np
import pandas as pd
import pytest
import tifffile
import zarr

from conftest import DATA, ROOT, without_seal
from scotopic.nuclei import matching, pooled
from scotopic.protocol import ImagingProtocol
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.report import Report
from scotopic.simulator import make_specimen
from scotopic.simulator.specimen import Field
from scotopic.store import RunFolder

QUICKSTART = ROOT / "protocols" / "quickstart.yaml"
SIMULATED = ROOT / "hardware_configs" / "simulated.yaml"
DEMO = ROOT / "hardware_configs" / "demo.yaml"


def scotopic(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "scotopic", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=900, check=False, encoding="utf-8")


def test_light_programs_stay_light():
    """No torch beside the microscope, and nothing heavy before a command needs it."""
    code = "import sys, scotopic.workflow; print(int('torch' in sys.modules))\n"
    code += "import scotopic.microscope, scotopic.simulator; print(int('torch' in sys.modules))\n"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["0", "0"]
    code = "import sys, scotopic.microscope; print({'pandas', 'scipy', 'skimage', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
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


def nuclei_in_empty_fields(path):
    """Count what a model finds in no light at all, in background, in a slope and in a step of it, at every level."""
    from scotopic.learning.model import Model
    from scotopic.learning.prediction import Predictor

    model = Model.load(path)
    predictor, card, rng = Predictor(model), model.card, np.random.default_rng(0)
    x = np.broadcast_to(np.linspace(0, 1, 512, dtype=np.float32), (512, 512))
    fields = [np.zeros_like(x), np.full_like(x, 0.1), 0.5 * x, np.where(x > 0.6, np.float32(0.4), np.float32(0.05))]
    return [
        int(predictor(card.camera.expose(field * np.float32(card.peak_e * dose), rng), dose).labels.max())
        for dose in card.levels.values()
        for field in fields
    ]


@pytest.mark.e2e
def test_a_run_goes_as_far_as_todays_parts_reach(tmp_path):
    """The thin path through everything: it grows with every part."""
    out, protocol = tmp_path / "RUN", tmp_path / "short.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace(
        "training: {minutes: 2}", "training: {steps: 180, least_f1: 0}"
    )
    protocol.write_text(text.replace("rows: 2, columns: 2", "rows: 1, columns: 2"), encoding="utf-8")
    result = scotopic("run", protocol, "--microscope", SIMULATED, "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "48 frames planned, held-out wells: B2, B4" in result.stdout
    assert "verified: 48 frames written, 0 skipped" in result.stdout
    assert "reference masks: 12 sites" in result.stdout
    assert result.stdout.splitlines()[-1] == f"report: {out / 'report.html'}"
    assert (out / "protocol.yaml").read_bytes() == protocol.read_bytes()
    assert (out / "simulated.cfg").exists()
    signals = [
        zarr.open_array(out / "plate.ome.zarr" / "C" / "3" / "1" / "0", mode="r")[0, channel, 0].astype(float).mean()
        - 200
        for channel in range(4)
    ]
    assert signals == pytest.approx(signals[0] * np.array([1, 0.02, 0.002, 0.0005]), rel=0.1)
    assert scotopic("verify", out).returncode == 0
    report = without_seal(json.loads((out / "report.json").read_text(encoding="utf-8")))
    assert Report.model_validate(report).held_out_wells == ("B2", "B4")
    rows = {(row["source"], row["name"]): row for row in report["levels"]}
    assert len(rows) == 12
    assert rows["network", "100%"]["against"]["truth"]["f1_at_0.5"]["value"] > 0.5, "after 180 steps"
    assert rows["reference", "0.05%"]["against"]["truth"]["f1_at_0.5"]["value"] > 0.9
    assert rows["classical", "0.05%"]["against"]["truth"]["f1_at_0.5"]["value"] < 0.7
    page = (out / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") > 20, "fields, diagrams, maps, curves"
    assert "http" not in page, "nothing leaves the page"
    model = RunFolder(out).latest_model()
    assert nuclei_in_empty_fields(model) == [0] * 16
    assert report["recommendation"]["purposes"]["each_nucleus"]["outcome"] in {"too few wells", "none"}, "two wells"
    assert report["recommendation"]["learned"]["f1"] > 0.5
    screen = scotopic("protocol", "from", out, "--out", tmp_path / "screen.yaml")
    assert screen.returncode == 2
    assert "recommends no light for each_nucleus" in screen.stderr
    dark = scotopic("segment", out, "--model", model, "--light", "0.2%", "--out", tmp_path / "dark")
    assert dark.returncode == 0, dark.stderr
    assert len(list((tmp_path / "dark" / "labels").iterdir())) == 12
    coarse = tmp_path / "coarse.yaml"
    coarse.write_text(SIMULATED.read_text(encoding="utf-8").replace("pixel_size_um: 0.65", "pixel_size_um: 1.3"))
    image = DATA / "nuclei" / "images" / "007.png"
    refused = scotopic("segment", image, "--model", model, "--light", "2%", "-m", coarse, "--out", tmp_path / "no")
    assert refused.returncode == 2
    assert "pixels of 0.65 um, these images have 1.3 um" in refused.stderr
    assert (
        "--microscope must be given"
        in scotopic("segment", image, "--model", model, "--dose", "1", "--out", tmp_path).stderr
    )
    again = scotopic("run", protocol, "--microscope", SIMULATED, "--out", out)
    assert again.returncode == 0
    assert "there is a model already" in again.stdout
    assert len((out / "frames.jsonl").read_text().splitlines()) == 48, "nothing is exposed again"
    assert "B2_0:" in result.stdout
    assert "B2_0:" not in again.stdout, "masks are made once"
    other = scotopic("run", ROOT / "protocols" / "low_light_96.yaml", "--microscope", SIMULATED, "--out", out)
    assert other.returncode == 2
    assert "protocol.wells = 'B2:C4' in the run that was begun here, 'A1:H12' now" in other.stderr
    masks = tmp_path / "masks"
    segmented = scotopic("segment", out, "--reference", "--out", masks)
    assert segmented.returncode == 0, segmented.stderr
    nuclei = pd.read_parquet(masks / "nuclei.parquet")
    assert nuclei.image.nunique() == 12
    assert nuclei.mean_intensity_e.between(200, 12_000).mean() > 0.9, "in photo-electrons: a bright nucleus has 8000"
    run = RunFolder(out)
    plate = run.plate(run.read_protocol(), run.read_profile())
    setup = SimulatorSetup.of(run.read_profile(), run.read_protocol())
    specimen = make_specimen(setup)
    fields = []
    for record in run.ledger.read():
        if record.level == "100%" and record.site == 0:
            x_um, y_um = setup.placement.to_plate(*record.xy_um)
            field = Field(x_um, y_um, setup.width_px, setup.height_px, setup.pixel_size_um)
            labels = iio.imread(masks / "labels" / f"{record.well}_0.png")
            np.testing.assert_array_equal(plate.read_labels(record.well, 0, "reference"), labels)
            fields.append(matching(specimen.truth(field).labels, labels))
    assert pooled(fields).at(0.5).f1 > 0.9, "against the truth of the simulator"


@pytest.mark.e2e
def test_the_network_learns_beside_the_acquisition_and_live_segmentation_takes_what_it_offers(tmp_path):
    out, protocol = tmp_path / "RUN", tmp_path / "beside.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("minutes: 2}", "minutes: 0.3, threads: 1, least_f1: 0}")
    text = text.replace("B2:C4", "B2:B5").replace("held_out: 2", "held_out: B5")  # B3, the second, is checked on
    text = text.replace("exposure_ms: 200, led_percent: 100", "exposure_ms: 5000, led_percent: 4")
    protocol.write_text(text + "live: {}\n", encoding="utf-8")  # a minute, so that there is something to be beside
    slow = tmp_path / "slow.yaml"
    profile = SIMULATED.read_text(encoding="utf-8").replace("simulated.cfg", str(SIMULATED.with_suffix(".cfg")))
    slow.write_text(profile.replace("clock: fast", "clock: real"), encoding="utf-8")
    result = scotopic("run", protocol, "--microscope", slow, "--out", out)
    assert result.returncode == 0, result.stdout + result.stderr
    said = result.stdout
    assert "model " in said.partition("verified: 64 frames")[0], said
    assert "no more sites come: " in said
    run = RunFolder(out)
    training = run.read_status("train")
    assert training["state"] == "completed"
    assert training["offers"] >= 1
    live = [record for record in run.live.read() if record.state == "segmented"]
    assert live, "an offered network was used before the plate was complete"
    assert {record.model for record in live} <= {path.stem for path in run.models_path.glob("*.safetensors")}


@pytest.mark.e2e
def test_a_run_that_nothing_can_be_learned_from_says_so_and_its_report_too(tmp_path):
    """MMCore's demo camera shows no nuclei."""
    protocol = tmp_path / "p.yaml"
    protocol.write_text(QUICKSTART.read_text(encoding="utf-8").replace("rows: 2, columns: 2", "rows: 1, columns: 1"))
    result = scotopic("run", protocol, "--microscope", DEMO, "--out", tmp_path / "RUN")
    assert result.returncode == 1
    assert "nothing can be learned: the quality gate refuses all 4 training sites" in result.stdout
    assert "missing in the report: there is no model" in result.stdout
    assert "Traceback" not in result.stdout + result.stderr
    report = json.loads((tmp_path / "RUN" / "report.json").read_text(encoding="utf-8"))
    assert report["model"] is None
    assert "nothing can be learned" in report["missing"][0]


@pytest.mark.e2e
def test_one_look_before_the_run(tmp_path):
    result = scotopic("snap", "c3", "-p", QUICKSTART, "-m", SIMULATED, "--site", "1", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    with tifffile.TiffFile(tmp_path / "C3_1.ome.tif") as file:
        assert file.series[0].shape == (4, 512, 512)
        assert 'Name="0.05%"' in file.ome_metadata
    assert iio.imread(tmp_path / "C3_1.png").shape == (512, 4 * 512)
    wrong = scotopic("snap", "A1", "-p", QUICKSTART, "-m", SIMULATED, "--out", tmp_path)
    assert wrong.returncode == 2
    assert "A1_0 is not in the protocol; allowed: wells B2, B3" in wrong.stderr


def test_one_look_needs_no_protocol(tmp_path):
    result = scotopic("snap", "B2", "-m", SIMULATED, "--level", "2%", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no --protocol: a 96-well plate" in result.stdout
    assert "signal dose 4 ms, sample dose 4 ms" in result.stdout
    assert "focus score" in result.stdout
    assert "more is sharper" in result.stdout
    bright = scotopic("snap", "B2", "-m", SIMULATED, "--level", "100%", "--out", tmp_path / "bright")
    assert "focus good (edges of nuclei" in bright.stdout, bright.stderr
    assert "of 65535 counts" in result.stdout
    with tifffile.TiffFile(tmp_path / "B2_0.ome.tif") as file:
        assert file.series[0].shape == (512, 512), "no other light level was exposed"
    for arguments, expected in (
        (("Z9",), "not on a 96-well plate: Z9"),
        (("B2", "--level", "3%"), "--level = '3%': no such light level; allowed: 100%, 2%, 0.2%, 0.05%"),
    ):
        wrong = scotopic("snap", *arguments, "-m", SIMULATED, "--out", tmp_path)
        assert wrong.returncode == 2
        assert expected in wrong.stderr


def test_a_look_that_cannot_be_kept_costs_no_light_and_none_is_overwritten(tmp_path):
    (tmp_path / "file").write_text("")
    wrong = scotopic("snap", "B2", "-m", SIMULATED, "--level", "2%", "--out", tmp_path / "file")
    assert wrong.returncode == 2
    assert "cannot be written to" in wrong.stderr
    for _ in range(2):
        assert scotopic("snap", "B2", "-m", SIMULATED, "--level", "2%", "--out", tmp_path).returncode == 0
    assert (tmp_path / "B2_0.ome.tif").exists()
    assert (tmp_path / "B2_0-2.ome.tif").exists()


def test_nothing_can_be_asked_of_a_run_that_is_not_there(tmp_path):
    result = scotopic("ask", tmp_path, "pause")
    assert result.returncode == 2
    assert "no acquisition is running into this folder" in result.stderr
    result = scotopic("ask", tmp_path, "dance")
    assert "allowed: pause, resume, finish, cancel" in result.stderr


def test_nuclei_of_images_are_found_measured_and_drawn(tmp_path):
    result = scotopic("segment", DATA / "nuclei" / "images", "--reference", "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert "no --microscope: areas are in pixels" in result.stdout
    table = pd.read_parquet(tmp_path / "nuclei.parquet")
    assert len(table) == len(pd.read_csv(tmp_path / "nuclei.csv")) > 500
    for path in (DATA / "nuclei" / "images").iterdir():
        labels = iio.imread(tmp_path / "labels" / f"{path.stem}.png")
        assert labels.dtype == np.uint16
        assert labels.max() == (table.image == path.stem).sum()
        assert iio.imread(tmp_path / "overlays" / f"{path.stem}.png").shape == (*labels.shape, 3)


def test_what_cannot_be_segmented_is_told_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty").mkdir()
    iio.imwrite(tmp_path / "colour.png", np.zeros((9, 9, 3), np.uint8))
    for source, expected in (
        ("text.png", "cannot be read as an image"),
        ("colour.png", "has the shape (9, 9, 3): several planes or colours; allowed: one grey plane"),
        ("empty", "holds nothing to segment"),
        ("nowhere.tif", "holds nothing to segment"),
    ):
        result = scotopic("segment", tmp_path / source, "--reference", "--out", tmp_path / "out")
        assert result.returncode == 2, result.stderr
        assert expected in result.stderr
        assert "Traceback" not in result.stderr
    result = scotopic("segment", tmp_path / "text.png", "--out", tmp_path / "out")
    images = scotopic("segment", DATA / "nuclei" / "images", "--reference")
    assert images.returncode == 2
    assert "holds no run" in images.stderr
    assert "--workers" in scotopic("segment", tmp_path, "--reference", "--workers", 0).stderr
    assert "--reference or --model: one of the two must be given" in result.stderr


def test_light_off_does_only_that():
    for microscope in (DEMO, SIMULATED):
        result = scotopic("light-off", "-m", microscope)
        assert result.returncode == 0, result.stderr
        assert result.stdout.strip() == "The light is off."


@pytest.mark.e2e
def test_a_run_on_real_images_says_which_wells_they_fill(tmp_path):
    protocol = tmp_path / "p.yaml"
    text = QUICKSTART.read_text(encoding="utf-8").replace("rows: 2, columns: 2", "rows: 2, columns: 1")
    protocol.write_text(text.replace("training: {minutes: 2}", "training: {steps: 4, least_f1: 0}"), encoding="utf-8")
    result = scotopic("run", protocol, "-m", SIMULATED, "--out", tmp_path / "RUN", "--specimen", DATA / "nuclei")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "6 images fill 3 wells of 2 sites; 3 of 6 wells are left out" in result.stdout
    assert "24 frames planned, held-out wells: B2\n" in result.stdout


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


def test_a_file_where_the_run_should_go_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    result = scotopic("check", QUICKSTART, "--microscope", SIMULATED, "--out", tmp_path / "file")
    assert result.returncode == 2
    assert "is a file, not a folder" in result.stderr


def test_a_failure_of_the_hardware_is_told_without_a_traceback(tmp_path):
    profile = tmp_path / "m.yaml"
    (tmp_path / "simulated.cfg").write_bytes((ROOT / "hardware_configs" / "simulated.cfg").read_bytes())
    fault = "simulator:\n  faults: [{kind: snap_fails, after: 1}]\n"
    profile.write_text(SIMULATED.read_text(encoding="utf-8").replace("simulator:", fault, 1))
    result = scotopic("snap", "B2", "--protocol", QUICKSTART, "--microscope", profile, "--out", tmp_path / "look")
    assert result.returncode == 1
    assert "error: camera error: no image was read out" in result.stderr
    assert "the light is off" in result.stdout
    assert "Traceback" not in result.stderr


def test_what_the_simulator_cannot_be_is_told(tmp_path):
    profile = tmp_path / "m.yaml"
    (tmp_path / "simulated.cfg").write_bytes((ROOT / "hardware_configs" / "simulated.cfg").read_bytes())
    good = SIMULATED.read_text(encoding="utf-8")
    for old, new, expected in (
        ("simulator:\n", "simulator:\n  placement: {A1: [0, 0], A12: [9000, 0], H1: [0, 9]}\n", "times as far apart"),
        ("  camera: ccd ", "  hub: LED\n  camera: ccd ", "simulator.hub = 'LED': is scotopic.simulator.devices.LED"),
        ("device: Camera", 'device: "[/x]"', "camera.device = '[/x]': no device of this label"),
        (
            "how: core_shutter\n  shutter: Shutter",
            "how: camera_ttl",
            "the simulated microscope has a shutter, use core_shutter",
        ),
    ):
        assert old in good
        profile.write_text(good.replace(old, new, 1))
        result = scotopic("check", QUICKSTART, "--microscope", profile)
        assert result.returncode == 2, result.stdout
        assert expected in result.stderr
        assert "Traceback" not in result.stderr
    profile.write_text(good.replace("camera: ccd ", "camera: scmos ", 1))
    result = scotopic("check", QUICKSTART, "--microscope", profile)
    assert result.returncode == 0
    assert "camera.offset_counts = 200: the simulated scmos has 100" in result.stdout


WAYS_TO_END = (signal.CTRL_BREAK_EVENT,) if sys.platform == "win32" else (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.e2e
@pytest.mark.parametrize("ending", WAYS_TO_END)
def test_a_look_that_is_interrupted_switches_the_light_off_and_says_so(ending, tmp_path):
    profile, protocol = tmp_path / "m.yaml", tmp_path / "p.yaml"
    (tmp_path / "simulated.cfg").write_bytes((ROOT / "hardware_configs" / "simulated.cfg").read_bytes())
    profile.write_text(SIMULATED.read_text(encoding="utf-8").replace("clock: fast", "clock: real"))
    text = QUICKSTART.read_text(encoding="utf-8")
    protocol.write_text(
        text.replace("exposure_ms: 4,", "exposure_ms: 8000,").replace("exposure_ms: 200,", "exposure_ms: 9000,")
    )
    command = [sys.executable, "-m", "scotopic", "snap", "B2", "-p", protocol, "-m", profile, "--out", tmp_path]
    flags = subprocess.CREATE_NEW_PROCESS_GROUP if sys.platform == "win32" else 0
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, creationflags=flags)
    assert process.stdout is not None
    while "exposing" not in (line := process.stdout.readline()):
        assert line
    time.sleep(1)  # the first exposure of 8 s is under way
    assert process.poll() is None
    process.send_signal(ending)
    said, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert "Interrupted." in errors
    assert "the light is off" in said
    assert "Traceback" not in errors
