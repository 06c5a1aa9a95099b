"""Nuclei without a stain: a network that looks at brightfield images and has learned from fluorescence."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import scotopic
from conftest import ROOT, acquired, small
from scotopic.cli import app
from scotopic.learning.calibration import contrast, contrast_camera
from scotopic.learning.model import Model
from scotopic.learning.onnx_file import export_onnx
from scotopic.microscope import check_files, open_microscope
from scotopic.photons import CameraNoise
from scotopic.protocol import ImagingProtocol, ProblemsError
from scotopic.store import RunFolder
from scotopic.store.verify import verify
from scotopic.workflow import segment_run, train, validate

LEVELS = [
    {"name": "100%", "exposure_ms": 200, "led_percent": 100, "role": "reference"},
    {"name": "2%", "exposure_ms": 4, "led_percent": 100},
    {"name": "brightfield", "channel": "Brightfield", "exposure_ms": 10, "led_percent": 5},
]
CAMERA = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)


@pytest.fixture(scope="module")
def plate(tmp_path_factory):
    """A run of four wells of two sites, stained and in brightfield, with reference masks; to be copied before it is changed."""
    training = {"steps": 4, "threads": 2, "dtype": "float32", "least_f1": 0, "input_levels": ["brightfield"]}
    job = small("simulated", wells="B2:B5", held_out="B3", light_levels=LEVELS, training=training)
    run, _ = acquired(job, tmp_path_factory.mktemp("runs") / "run")
    segment_run(run.path, lambda _: None, workers=1)
    return run.path


def protocol(**changes):
    job = small("simulated", light_levels=LEVELS)
    return ImagingProtocol.model_validate(job.protocol.model_dump() | changes)


def test_light_is_relative_to_the_brightest_level_of_its_channel():
    asked = protocol()
    assert asked.channels == ("DAPI", "Brightfield")
    assert [asked.relative_dose(level) for level in asked.light_levels] == [1, 0.02, 1]
    assert [level.name for level in asked.levels_in_exposure_order] == ["brightfield", "2%", "100%"]
    assert [level.name for level in asked.inputs()] == ["100%", "2%"]
    brightest = protocol(exposure_order="brightest_first")
    assert [level.name for level in brightest.levels_in_exposure_order] == ["100%", "2%", "brightfield"]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training": {"input_levels": ["3%"]}}, "input_levels: 3% not among light_levels"),
        ({"training": {"input_levels": ["2%", "brightfield"]}}, "of one channel, not of Brightfield and DAPI"),
        ({"channel": "Brightfield"}, "no lower|is not dimmer|must be of the protocol's channel|same exposure"),
        ({"light_levels": [LEVELS[0] | {"channel": "Brightfield"}]}, "the reference 100% must be of the protocol's channel DAPI"),
        ({"light_levels": [LEVELS[0], LEVELS[2] | {"taken": "at_sentinels"}]}, "brightfield: taken: at_sentinels is for levels"),
    ],
)  # fmt: skip
def test_levels_that_do_not_go_together_are_refused(changes, told):
    if "channel" in changes:
        changes |= {"light_levels": [LEVELS[0] | {"channel": "DAPI"}]}
    with pytest.raises(ValueError, match=told):
        protocol(**changes)


def test_a_channel_that_the_microscope_does_not_have_is_told(tmp_path):
    job = small("simulated", light_levels=[LEVELS[0], LEVELS[2] | {"channel": "Phase"}])
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, tmp_path / "run")
    assert any("no light source for channel 'Phase'" in str(problem) for problem in report.problems)


def test_a_reference_that_shows_no_stain_is_refused(tmp_path):
    job = small("simulated", channel="Brightfield", light_levels=[LEVELS[0]])
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, tmp_path / "run")
    assert any("masks come from stained images" in str(problem) for problem in report.problems)


def test_light_is_told_for_each_channel(tmp_path):
    job = small("simulated", light_levels=LEVELS)
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, tmp_path / "run")
    facts = dict(report.facts)
    assert facts["light per site, Brightfield"].startswith("0.5 ms")
    assert facts["light in total, DAPI"].startswith("0.816 s")
    assert [row[0] for row in report.levels] == ["brightfield (Brightfield)", "2% (DAPI)", "100% (DAPI)"]


def test_contrast_does_not_depend_on_brightness_and_shading():
    rng = np.random.default_rng(0)
    pattern = np.ones((256, 256), np.float32)
    pattern[100:110, 100:110] = 0.9
    slope = np.linspace(0.7, 1.3, 256, dtype=np.float32)[None]
    for light in (5_000, 40_000):
        seen = contrast(CAMERA.expose(pattern * slope * light, rng), 1, CAMERA)
        dark = seen[102:108, 102:108].mean() - seen[150:200, 150:200].mean()
        assert dark == pytest.approx(-1000, abs=20)
        camera = contrast_camera(CAMERA, light)
        noise = camera.to_electrons(seen[150:200, 120:140]).std()
        assert noise == pytest.approx(camera.read_noise_e, rel=0.1)


def test_each_channel_has_its_own_light(plate):
    run = RunFolder(plate)
    assert verify(run) == []
    images = {level: [] for level in ("100%", "2%", "brightfield")}
    for site in scotopic.open_run(plate).sites():
        for level in images:
            images[level].append(float(np.median(site.image(level))))
        assert site.dose("brightfield") == 1
        assert site.frames["brightfield"].sample_dose_ms == pytest.approx(0.5)
        assert set(site.nuclei()["level"]) == {"100%", "2%"}, "intensities of brightfield are no DNA"
    assert np.mean(images["brightfield"]) > 8000 > np.median(images["100%"]) > 500 > 250 > np.median(images["2%"]) > 205
    assert {check.level for check in run.light_checks.read()} == {"2%"}


def test_the_ledger_counts_all_light_that_the_sample_got(tmp_path):
    job = small("simulated", light_levels=LEVELS)
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    run, _ = acquired(job, tmp_path / "run", core=core)
    given = float(core.getProperty("Simulator", "DeliveredLight_ms"))
    assert given == pytest.approx(run.sample_dose_ms(), rel=0.02)
    core.unloadAllDevices()


def test_a_network_learns_to_see_without_a_stain(plate, tmp_path):
    run = RunFolder(shutil.copytree(plate, tmp_path / "run"))
    train(run.path, lambda _: None)
    path = run.latest_model()
    model = Model.load(path)
    assert (model.card.channel, set(model.card.levels)) == ("Brightfield", {"brightfield"})
    assert model.card.field_e == pytest.approx(10_000, rel=0.2)
    assert 0 < model.card.peak_e < model.card.field_e / 3
    with pytest.raises(ProblemsError, match="looks at the contrast of Brightfield images"):
        export_onnx(model, tmp_path / "model.onnx")
    report = validate(run.path, lambda _: None)
    network = [row for row in report.levels if row.source == "network"]
    assert [(row.name, row.channel) for row in network] == [("brightfield", "Brightfield")]
    assert (network[0].g2_percent, network[0].mean_intensity) == (None, None)
    assert "Brightfield does not show DNA" in network[0].cell_cycle
    assert set(network[0].against) == {"reference", "truth"}
    assert {row.name for row in report.levels if row.source == "classical"} == {"100%", "2%"}
    assert report.recommendation is None
    assert report.sample_dose_by_channel["Brightfield"] == pytest.approx(8 * 0.5)
    words = [
        "segment",
        str(run.path),
        "--model",
        str(path),
        "--light",
        "brightfield",
        "--out",
        str(tmp_path / "nuclei"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    words[words.index("brightfield")] = "2%"
    assert "the model knows: brightfield" in CliRunner().invoke(app, words).output
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "in images of Brightfield, without any stain" in page


def test_levels_to_look_at_can_be_chosen_for_a_stored_run(plate, tmp_path):
    run = RunFolder(shutil.copytree(plate, tmp_path / "run"))
    result = CliRunner().invoke(app, ["train", str(run.path), "--steps", "2", "--input-level", "2%"])
    assert result.exit_code == 0, result.output
    card = Model.load(run.latest_model()).card
    assert (card.channel, set(card.levels), card.field_e) == ("DAPI", {"2%"}, None)
    result = CliRunner().invoke(app, ["train", str(run.path), "--again", "--input-level", "4%"])
    assert result.exit_code == 2
    assert "--input-level: 4% not among light_levels" in result.output.replace("\n", " ")


def test_pairs_of_brightfield_and_fluorescence_are_imported(plate, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for site in scotopic.open_run(plate).sites():
        for level, name in (("100%", "dapi"), ("brightfield", "bf")):
            Image.fromarray(site.image(level)).save(folder / f"{site.well}_s{site.site + 1}_{name}.tif")
    options = ["--pattern", "{well}_s{site}_{level}.tif", "--level", "dapi=200,100", "--level", "bf=10,5,Brightfield"]
    options += ["--transmitted", "Brightfield", "--pixel-size-um", "0.65", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["import", str(folder), *options])
    assert result.exit_code == 0, result.output
    profile = ROOT / "hardware_configs" / "demo.yaml"
    for words, told in (
        (["--transmitted", "DAPI"], "--transmitted = DAPI; allowed: Brightfield"),
        (["--microscope", str(profile)], "--transmitted is said by the profile"),
    ):
        refused = CliRunner().invoke(app, ["import", str(folder), *options[:-1], str(tmp_path / "other"), *words])
        assert refused.exit_code == 2, refused.output
        assert told in refused.output.replace("\n", " ")
    lit = [word for word in options if word not in {"--transmitted", "Brightfield"}]
    refused = CliRunner().invoke(
        app, ["import", str(folder), *lit[:-1], str(tmp_path / "other"), "--microscope", str(profile)]
    )
    assert refused.exit_code == 2
    assert "no light source for channel 'Brightfield'" in refused.output.replace("\n", " ")
    assert not train(tmp_path / "run", lambda _: None, steps=2, input_levels=["bf"]), "nothing is learned in two steps"
    (path,) = (tmp_path / "run" / "models").glob("*.safetensors")
    card = Model.load(path).card
    assert (card.channel, card.field_e is not None) == ("Brightfield", True)
