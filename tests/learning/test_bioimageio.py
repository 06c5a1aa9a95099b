"""A model as a package of the BioImage Model Zoo."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from conftest import DATA
from scotopic.cli import app
from scotopic.learning.model import Model
from scotopic.learning.prediction import Predictor
from scotopic.nuclei import matching
from scotopic.store import RunFolder

MODEL = DATA / "model.safetensors"


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo") / "nuclei.zip"
    words = ["-m", "scotopic", "model", "export", str(MODEL), "--bioimageio", str(path), "--light", "0.2%"]
    subprocess.run([sys.executable, *words], check=True)
    return path


def test_the_zoos_own_validator_passes_it(package):
    """In a process of its own: the validator's packages warn, and change settings of torch."""
    script = f"import bioimageio.core as b; s = b.test_model({str(package)!r}); print(s.status); print(s.format())"
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert result.stdout.splitlines()[0] == "passed", result.stdout + result.stderr


def test_its_script_finds_nuclei_without_scotopic(package, segmented_plate, tmp_path):
    with zipfile.ZipFile(package) as file:
        file.extractall(tmp_path)
    script = re.search(r"```python\n(.*?)```", (tmp_path / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert "scotopic" not in script
    run = RunFolder(segmented_plate)
    image = run.plate(run.read_protocol(), run.read_profile()).read("B2", 0, "0.2%")[:500, :460]
    tifffile.imwrite(tmp_path / "image.tif", image)
    words = [tmp_path / "weights.onnx", tmp_path / "image.tif", tmp_path / "labels.tif"]
    subprocess.run([sys.executable, "-c", script, *map(str, words)], check=True)
    found, model = tifffile.imread(tmp_path / "labels.tif"), Model.load(MODEL)
    expected = Predictor(model)(image, model.card.levels["0.2%"]).labels
    assert expected.max() > 20
    assert found.shape == image.shape
    assert matching(expected, found).mean_f1 > 0.7
    assert abs(int(found.max()) - int(expected.max())) <= 0.1 * expected.max()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--onnx or --bioimageio: one of the two must be given"),
        (["--bioimageio", "x.zip"], "--light = : allowed: 100%, 2%, 0.2%, 0.05%"),
        (["--bioimageio", "x.zip", "--light", "3%"], "--light = 3%: allowed: 100%, 2%"),
        (["--bioimageio", "x", "--light", "2%"], "--bioimageio = x: must end with .zip"),
    ],
)
def test_mistakes_get_a_line(words, told):
    result = CliRunner().invoke(app, ["model", "export", str(MODEL), *words])
    assert result.exit_code == 2
    assert told in result.output


def test_counts_in_planes_out_are_those_of_the_predictor():
    import torch

    from scotopic.learning.bioimageio_package import OfCounts, _example
    from scotopic.learning.prediction import MapMaker

    model = Model.load(MODEL)
    counts = _example(model, 0.02, None)
    with torch.inference_mode():
        probability = OfCounts(model, 0.02)(torch.from_numpy(counts))[0].numpy()[0, 0]
    maker = MapMaker(model.network, model.card.camera, model.card.peak_e, dtype="float32", device=torch.device("cpu"))
    expected = maker(counts[0, 0].astype(np.uint16), 0.02).probability
    assert np.abs(probability - expected).max() < 1e-3
