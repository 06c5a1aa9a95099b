"""Training, the model file and prediction, on a small run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from conftest import rewrite_json
from scotopic.learning import checking, training
from scotopic.learning.calibration import PLANES
from scotopic.learning.checking import check_levels, even_pairs
from scotopic.learning.model import Model
from scotopic.learning.network import NucleusNet, freeze_normalisation, fused
from scotopic.learning.pairs import NothingToLearnError, TrainingSite, difference, find_pairs, merged
from scotopic.learning.prediction import MapMaker, Predictor
from scotopic.learning.targets import make_targets
from scotopic.photons import CameraNoise
from scotopic.protocol import ProblemsError
from scotopic.store import RunFolder
from scotopic.workflow import model_facts, train
from scotopic.workflow.command import ENDS_WITH_STDIN

CAMERA = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)


@pytest.fixture
def run(segmented_plate, tmp_path):
    return RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))


def test_held_out_wells_are_never_among_the_pairs(run):
    pairs = find_pairs(run)
    assert set(pairs.training_wells) | set(pairs.validation_wells) == {"B2", "B4", "B5"}
    assert not set(pairs.training_wells) & set(pairs.validation_wells)


def test_a_network_that_has_not_learned_is_not_promoted(run):
    """A model with an F1 of 0.000 was, and was used live."""
    job_path = run.path / "job.json"
    job = json.loads(job_path.read_text(encoding="utf-8"))
    job["protocol"]["training"]["least_f1"] = 0.85
    rewrite_json(job_path, job)
    said = []
    assert train(run.path, said.append, steps=2) is False
    assert run.latest_model() is None, "nothing that live segmentation could take"
    status = run.read_status("train")
    assert (status["state"], status["learned"], status["promoted"]) == ("completed", False, False)
    assert "it has not learned yet: its F1 is 0." in said[-1]
    (left,) = [path.stem for path in run.models_path.glob("*.safetensors")]
    assert left == status["model"], "the file is kept, to be looked at"
    card = Model.load(run.models_path / f"{left}.safetensors").card
    (learned,) = card.learned
    assert learned.run_id == run.run_id != ""
    assert set(learned.wells) == {"B2", "B4", "B5"}
    assert "B2_0" in learned.sites


def test_frames_with_the_wrong_light_are_not_learned_from(run):
    checks = run.light_checks.read()
    wrong = [c.model_copy(update={"verdict": "wrong"}) for c in checks if c.well == "B2" and c.level == "2%"]
    run.light_checks.append(wrong)
    pairs = find_pairs(run)
    of_b2 = [set(frames) for key, frames in (pairs.training | pairs.validation).items() if key[1] == "B2"]
    assert of_b2 == [{"100%", "0.2%", "0.05%"}] * 2


def test_one_training_well_is_not_enough_and_is_told_so(run):
    lines = [r for r in run.reference_lines.read() if r.well in {"B3", "B4"}]
    (run.path / "nuclei" / "reference" / "sites.jsonl").write_text(
        "".join(r.model_dump_json() + "\n" for r in lines), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="B4 is the only training well"):
        find_pairs(run)


def test_light_that_was_measured_to_be_more_uneven_is_varied_as_much(run):
    from scotopic.learning.batches import UNEVEN
    from scotopic.learning.training import unevenness

    def measured(falloff):
        profile, coefficients = run.read_profile(), (0.0, 0.0, 0.0, -falloff, 0.0, -falloff)
        source = profile.light_source("DAPI").model_copy(update={"illumination": coefficients})
        changed_profile = profile.model_copy(update={"light_sources": profile.light_sources | {"DAPI": source}})
        run.note_edits(run.read_protocol(), changed_profile, [])
        return unevenness(run)

    assert unevenness(run) == UNEVEN
    assert measured(0.1) == UNEVEN
    brightest, darkest = 1.0, np.exp(-2 * 0.8)
    assert measured(0.8) == pytest.approx((brightest - darkest) / (brightest + darkest), abs=0.03)


def changed(run, path, **protocol):
    """Return a copy of a run with another protocol."""
    other = RunFolder(shutil.copytree(run.path, path))
    before, profile = other.read_protocol(), other.read_profile()
    other.note_edits(type(before).model_validate(before.model_dump() | protocol), profile, [])
    return other


def test_what_one_run_is_judged_on_is_learned_from_in_none(run, tmp_path):
    other = changed(run, tmp_path / "other", held_out="B5")
    both = merged([find_pairs(run), find_pairs(other)])
    assert both.runs == (run, other)
    wells = {*both.training_wells, *both.validation_wells}
    assert {well.removeprefix("other/") for well in wells} == {"B2", "B4"}
    assert len(both.training) + len(both.validation) == 8
    site = both.load((1, "B2", 1, 0))
    assert site.name == "other/B2_1"
    with pytest.raises(NothingToLearnError, match="no well to check on is left"):
        merged([find_pairs(run), find_pairs(changed(run, tmp_path / "third", held_out="B2,B4"))])


def test_runs_that_one_network_cannot_look_at_are_told_apart(run, tmp_path):
    levels = [level.model_dump() for level in run.read_protocol().light_levels]
    levels[1]["exposure_ms"] = 5
    other = changed(run, tmp_path / "other", light_levels=levels)
    assert difference(run, run) == ""
    assert "its light levels are others" in difference(run, other)
    with pytest.raises(ProblemsError, match=r"other: its light levels.*\n.*is given twice"):
        train(run.path, lambda _: None, also=[other.path, run.path])
    with pytest.raises(ProblemsError, match="--also is for complete runs"):
        train(run.path, lambda _: None, also=[other.path], follow=True)


@pytest.mark.e2e
def test_a_model_of_two_runs_says_so(run, tmp_path):
    other = changed(run, tmp_path / "other")
    assert train(run.path, lambda _: None, also=[other.path])
    card = Model.load(run.latest_model()).card
    assert card.further_runs == ("other",)
    assert any(well.startswith("other/") for well in card.training_wells)
    assert other.latest_model() is None
    assert dict(model_facts(run.latest_model()))["and from"] == "other"


@pytest.mark.e2e
def test_the_same_steps_give_the_same_model_twice_and_a_kill_changes_nothing(run, segmented_plate, tmp_path):
    assert train(run.path, lambda _: None)
    first = run.latest_model()
    status = run.read_status("train")
    assert status["state"] == "completed"
    assert set(status["f1"]) == {"100%", "2%", "0.2%", "0.05%"}
    other = RunFolder(shutil.copytree(segmented_plate, tmp_path / "other"))

    class Stopped(BaseException):
        pass

    steps = iter(range(3))
    real = training.loss

    def stops(*args):
        if next(steps) == 2:
            raise Stopped
        return real(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "loss", stops)
        patch.setattr(training, "_CHECKPOINT_S", 0)
        with pytest.raises(Stopped):
            train(other.path, lambda _: None)
    assert other.checkpoint_path.exists()
    said = []
    train(other.path, said.append)
    assert "training goes on at step 2" in said
    assert other.latest_model().name == first.name, "the name is the hash of weights and card"
    model = Model.load(first)
    assert model.card.held_out_wells == ("B3",)
    assert model.card.misfit(0.65, "DAPI") == ""
    assert "pixels of 0.65 um, these images have 1.3 um" in model.card.misfit(1.3, "DAPI")
    assert "channel 'DAPI', these images are of 'GFP'" in model.card.misfit(0.65, "GFP")


def test_what_is_no_model_is_refused_in_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ProblemsError, match="cannot be read as a model"):
        Model.load(path)


def test_normalisation_is_folded_without_a_change():
    torch.manual_seed(0)
    network = NucleusNet()
    with torch.no_grad():
        network(torch.randn(2, PLANES, 32, 32))
    network.eval()
    planes = torch.randn(1, PLANES, 32, 32)
    with torch.inference_mode():
        before = network(planes)
        after = fused(network)(planes)
    for a, b in zip(before, after, strict=True):
        torch.testing.assert_close(a, b, atol=1e-3, rtol=1e-3)


def test_frozen_normalisation_is_that_of_prediction():
    torch.manual_seed(0)
    network = NucleusNet()
    with torch.no_grad():
        network(torch.randn(2, PLANES, 32, 32) * 3)
    planes = torch.randn(1, PLANES, 32, 32)
    before = network.eval()(planes)[0].detach()
    network.train()
    assert not torch.allclose(network(planes)[0], before, atol=1e-3), "a batch is normalised by itself"
    network.eval()
    before = network(planes)[0].detach()
    network.train()
    freeze_normalisation(network)
    after = network(planes)[0]
    torch.testing.assert_close(after, before)
    assert after.requires_grad


def test_cut_offs_are_those_that_make_the_count_even():
    counts = {(0.1, 0.2): 1210, (0.2, 0.2): 1003, (0.3, 0.2): 980, (0.1, 0.5): 998, (0.2, 0.5): 950}
    assert even_pairs(counts, 1000) == [(0.2, 0.2), (0.1, 0.5)]
    assert even_pairs(counts, 1500) == [(0.1, 0.2)], "as near as can be"
    assert even_pairs(counts, 1000, 0.05) == [(0.2, 0.2), (0.3, 0.2), (0.1, 0.5), (0.2, 0.5)]


POINTS = tuple(np.mgrid[:258:3, :351:5].reshape(2, -1))
"""Of the grid of an image of 515 x 702."""


def test_tiles_leave_no_seam(monkeypatch):
    torch.manual_seed(0)
    network = NucleusNet()
    counts = np.random.default_rng(0).poisson(300, (515, 702)).astype(np.uint16)
    whole = MapMaker(network, CAMERA, 8000, dtype="float32")(counts, 0.002)
    monkeypatch.setattr("scotopic.learning.prediction._LARGEST_TILE_PX", 320)
    tiled = MapMaker(network, CAMERA, 8000, dtype="float32")(counts, 0.002)
    assert whole.foreground.shape == counts.shape
    assert whole.probability.shape == (258, 351)
    np.testing.assert_allclose(tiled.foreground, whole.foreground, atol=1e-4)
    np.testing.assert_allclose(tiled.rays_at(*POINTS), whole.rays_at(*POINTS), atol=1e-2)


def started(command, run, **surroundings):
    """Start a training, and return its process when it has done two steps."""
    (run.path / "status" / "train.json").unlink(missing_ok=True)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes, **surroundings)
    deadline = time.monotonic() + 90
    while run.read_status("train").get("step", 0) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    return process


@pytest.mark.e2e
def test_a_killed_training_process_goes_on(run):
    job_path = run.path / "job.json"
    job = json.loads(job_path.read_text())
    job["protocol"]["training"] |= {"steps": 120, "least_f1": 0}
    rewrite_json(job_path, job)
    command = [sys.executable, "-m", "scotopic", "train", str(run.path)]
    process = started(command, run)
    process.kill()
    process.communicate()
    assert run.read_status("train")["state"] == "training", "no time to say anything"
    process = started(command, run, env=os.environ | {ENDS_WITH_STDIN: "1"})
    _, told = process.communicate()  # closes its standard input, as the death of `scotopic run` does
    assert process.returncode == 130, told
    assert "Traceback" not in told
    assert run.read_status("train")["state"] == "interrupted"
    assert run.latest_model() is None
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert run.latest_model() is not None
    predictor = Predictor(Model.load(run.latest_model()), dtype="float32")
    protocol, profile = run.read_protocol(), run.read_profile()
    image = run.plate(protocol, profile).read("B3", 0, "100%")
    prediction = predictor(image, 1.0)
    assert prediction.labels.shape == image.shape
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "there is a model already" in again.stdout


def test_what_an_image_must_have_lies_between_noise_and_nuclei():
    real = [0.85, 0.86, 0.9]
    assert checking._presence(0.3, real) == pytest.approx(0.575), "half-way"
    assert checking._presence(0.84, real) == pytest.approx(0.85), "no image is lost"
    assert checking._presence(0.9, [0.2] + [0.6] * 19) == 0.6, "one in twenty may be"
    assert checking._presence(0.9, [0.2, 0.6]) == 0.2, "not one in two"
    assert checking._presence(0.3, []) == pytest.approx(0.35)


def test_images_without_nuclei_can_be_checked_on(monkeypatch):
    monkeypatch.setattr(checking, "_EMPTY_FIELDS", 2)
    monkeypatch.setattr(checking, "_EMPTY_PX", 64)
    shape = (64, 64)
    labels = np.zeros(shape, np.uint32)
    targets = make_targets(labels.astype(np.int32), labels == 0)
    counts = np.full(shape, 200, np.uint16)
    site = TrainingSite("B2_0", {"100%": counts}, {"100%": 1.0}, counts, None, labels, targets, 0)
    torch.manual_seed(0)
    made = MapMaker(NucleusNet(width=4, depth=1), CAMERA, 8000.0, dtype="float32", device="cpu")
    checks = check_levels(made, [site])
    assert checks["100%"].reference_nuclei == 0
    assert 0 < checks["100%"].cut_off.presence <= 0.95
