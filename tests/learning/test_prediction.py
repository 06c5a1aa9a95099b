"""A network at work: batches, memory, devices, other pixels, ONNX."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scotopic.learning import onnx_file
from scotopic.learning.model import CutOff, Model, ModelCard
from scotopic.learning.network import NucleusNet
from scotopic.learning.prediction import MapMaker, Predictor
from scotopic.nuclei import matching
from scotopic.photons import CameraNoise
from scotopic.protocol import ProblemsError
from scotopic.workflow import model_facts

CAMERA = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)


@pytest.fixture(scope="module")
def model() -> Model:
    """A network that has learned nothing, with cut-offs so low that it finds many things."""
    torch.manual_seed(0)
    doses = {"100%": 1.0, "0.2%": 0.002}
    card = ModelCard(
        run="none", channel="DAPI", pixel_size_um=0.65, camera=CAMERA, reference_exposure_ms=200,
        reference_led_percent=100, levels=doses, peak_e=8000, network={"width": 16, "depth": 3},
        cut_offs=tuple(CutOff(dose=dose, probability=0.1, foreground=0.45) for dose in doses.values()),
        training_wells=("B2",), validation_wells=("B3",), held_out_wells=("B4",), training_sites=1, steps=0, seed=0,
        dtype="float32", f1={"100%": 0.5, "0.2%": 0.25}, versions={"scotopic": "0"},
    )  # fmt: skip
    network = NucleusNet()
    with torch.no_grad():
        network.head.weight.mul_(20)
    return Model(card, network.eval())


def images(*shapes, level=300):
    rng = np.random.default_rng(0)
    return [rng.poisson(level, shape).astype(np.uint16) for shape in shapes]


def test_images_looked_at_together_are_as_if_each_was_alone(model):
    several = images((96, 128), (96, 128), (64, 80), (96, 128))
    predictor = Predictor(model, dtype="float32")
    alone = [predictor(image, 0.002) for image in several]
    predictor._maps.batch = 3
    together = list(predictor.predict(iter(several), [0.002] * 4))
    for one, other in zip(alone, together, strict=True):
        assert one.labels.max() > 0
        assert np.mean(one.labels != other.labels) < 0.01


def test_what_does_not_fit_into_memory_is_looked_at_in_parts_and_at_last_by_the_processor(model, monkeypatch, caplog):
    several = [(image, 0.002) for image in images(*[(64, 64)] * 5)]
    maker = MapMaker(model.network, CAMERA, 8000, dtype="float32", device="cpu")
    expected = maker.many(several)
    look, tried = MapMaker._look, []

    def small_memory(self, planes):
        tried.append((self.device.type, len(planes)))
        if self.device.type != "cpu" and len(planes) > fits:
            raise torch.OutOfMemoryError
        return look(self, planes) if self.device.type == "cpu" else on_the_processor(self, planes)

    def on_the_processor(self, planes):
        device, self.device = self.device, torch.device("cpu")
        try:
            return look(self, planes)
        finally:
            self.device = device

    monkeypatch.setattr(MapMaker, "_look", small_memory)
    fits = 2
    maker.device, maker.batch = torch.device("cuda"), 5
    found = maker.many(several)
    assert [count for _, count in tried] == [5, 2, 2, 1]
    assert maker.batch == 2
    monkeypatch.setattr(maker, "_to", lambda device: setattr(maker, "device", device))
    fits = 0
    found_by_processor = maker.many(several)
    assert maker.device.type == "cpu"
    assert "the processor goes on" in caplog.text
    for each in (found, found_by_processor):
        for one, other in zip(expected, each, strict=True):
            np.testing.assert_allclose(one.foreground, other.foreground, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_a_device_that_is_not_there_is_told(model):
    with pytest.raises(RuntimeError, match="device 'cuda' is asked for, and torch finds none here"):
        Predictor(model, device="cuda")


@pytest.mark.parametrize(("pixel_size_um", "shape"), [(0.325, (128, 192)), (1.3, (33, 51))])
def test_images_of_other_pixels_are_rescaled_and_their_labels_back(model, pixel_size_um, shape):
    predictor = Predictor(model, pixel_size_um=pixel_size_um, dtype="float32")
    (image,) = images(shape, level=1000)
    seen = predictor._rescaled(image)
    assert seen.shape == tuple(round(n * pixel_size_um / 0.65) for n in shape)
    assert seen.sum() == pytest.approx(CAMERA.to_electrons(image).sum(), rel=0.02), "photons of an area are as many"
    labels = predictor(image, 1.0).labels
    assert labels.shape == shape
    assert set(np.unique(labels)) == set(range(labels.max() + 1))


def test_images_of_nearly_the_same_pixels_are_taken_as_they_are(model):
    (image,) = images((64, 64))
    assert Predictor(model, pixel_size_um=0.68, dtype="float32")._rescaled(image) is image


def test_a_model_says_what_it_is(model, tmp_path):
    facts = dict(model_facts(model.save(tmp_path)))
    assert facts["never saw"] == "1 well (B4)"
    assert facts["pixels"] == "0.65 um"
    assert "0.2%: dose 0.002, F1 0.250" in facts["light levels"]


@pytest.mark.e2e
def test_onnxruntime_finds_the_same_nuclei(model, tmp_path):
    import onnxruntime

    onnx_file.export_onnx(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (image,) = images((160, 96))
    labels = onnx_file.labels_by_onnx(session, model, image, 0.002)
    expected = Predictor(model, dtype="float32")(image, 0.002).labels
    assert expected.max() > 3
    assert matching(expected, labels).mean_f1 > 0.99


def test_an_onnx_network_that_finds_something_else_is_refused(model, monkeypatch):
    monkeypatch.setattr(onnx_file, "labels_by_onnx", lambda *_: np.ones((256, 256), np.int32))
    with pytest.raises(ProblemsError, match="onnxruntime finds 1 nuclei at 100%"):
        onnx_file._compare(model, None, None)
