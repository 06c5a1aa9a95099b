"""A trained network on images that it never saw."""

from __future__ import annotations

import numpy as np
import pytest

from conftest import DATA
from scotopic.learning.model import Model
from scotopic.learning.prediction import Predictor
from scotopic.nuclei import matching
from scotopic.photons import CameraNoise
from scotopic.protocol import Plate, SyntheticSpecimenSettings
from scotopic.simulator import Field, SyntheticSpecimen
from scotopic.simulator.optics import blur

DOSES = {"100%": 1.0, "2%": 0.02, "0.2%": 0.002, "0.05%": 0.0005}
SIDE = 512


@pytest.fixture(scope="module")
def model():
    return Model.load(DATA / "model.safetensors")


@pytest.fixture(scope="module")
def scene():
    """Photo-electrons at full light of a field of another plate than the network learned from, and its masks."""
    specimen = SyntheticSpecimen(SyntheticSpecimenSettings(seed=77), Plate.model_validate("96-well"))
    field = Field(18_000, 9_000, SIDE, SIDE, 0.65)
    origin = tuple(round(n) for n in field.origin_px)
    light = blur(specimen.scene(origin, (SIDE, SIDE), 0.65).light, 0.5 / 0.65)
    centred = Field(*((o + (SIDE - 1) / 2) * 0.65 for o in origin), SIDE, SIDE, 0.65)
    return np.float32(8000) * light, specimen.truth(centred).labels


@pytest.mark.parametrize(("level", "least"), [("100%", 0.96), ("2%", 0.96), ("0.2%", 0.94), ("0.05%", 0.86)])
def test_nuclei_are_found_at_each_light_and_touching_ones_apart(model, scene, level, least):
    electrons, truth = scene
    counts = model.card.camera.expose(electrons * np.float32(DOSES[level]), np.random.default_rng(1))
    found = Predictor(model)(counts, DOSES[level]).labels
    compared = matching(truth, found)
    assert compared.at(0.5).f1 > least
    assert compared.merges <= 4


@pytest.mark.parametrize("level", ["2%", "0.2%", "0.05%"])
def test_an_image_of_a_camera_with_other_offset_and_gain_is_understood_if_one_says_so(model, scene, level):
    electrons, truth = scene
    other = CameraNoise(offset_counts=1450, gain_e_per_count=0.23, read_noise_e=5.0, saturation_counts=65535)
    counts = other.expose(electrons * np.float32(DOSES[level]), np.random.default_rng(2))
    told = matching(truth, Predictor(model, other)(counts, DOSES[level]).labels).at(0.5).f1
    untold = matching(truth, Predictor(model)(counts, DOSES[level]).labels).at(0.5).f1
    assert told > 0.85
    assert untold < told - 0.1, "it has to be said"


@pytest.mark.parametrize("level", DOSES)
def test_where_there_are_no_nuclei_none_are_found(model, level):
    x = np.broadcast_to(np.linspace(0, 1, SIDE, dtype=np.float32), (SIDE, SIDE))
    rng, predictor = np.random.default_rng(3), Predictor(model)
    for light in (0 * x, 0 * x + 0.2, 0.4 * x, np.where(x > 0.5, np.float32(0.4), np.float32(0.05))):
        counts = model.card.camera.expose(np.float32(8000 * DOSES[level]) * light.astype(np.float32), rng)
        assert predictor(counts, DOSES[level]).labels.max() == 0


def test_a_level_between_those_learned_is_understood(model, scene):
    electrons, truth = scene
    counts = model.card.camera.expose(electrons * np.float32(0.001), np.random.default_rng(4))
    assert matching(truth, Predictor(model)(counts, 0.001).labels).at(0.5).f1 > 0.9
