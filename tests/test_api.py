"""scotopic from Python, as a notebook would use it."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import scotopic
from conftest import DATA, ROOT
from scotopic import api


def test_import_is_fast_and_all_stable_names_are_there():
    code = "import sys, scotopic; print([m for m in ('torch', 'numpy', 'zarr', 'pymmcore_plus') if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
    assert set(api.__all__) <= set(dir(scotopic))
    for name in api.__all__:
        assert getattr(scotopic, name) is getattr(api, name)
        assert getattr(api, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        scotopic.nothing  # noqa: B018


def test_a_run_is_read_as_arrays_and_tables(segmented_plate):
    run = scotopic.open_run(segmented_plate)
    assert run.protocol.name
    sites = list(run.sites())
    assert [site.name for site in run.sites({"B3"})] == ["B3_0", "B3_1"]
    assert len(sites) == 8
    site = sites[0]
    bright, dark = site.image("100%"), site.image("0.2%")
    assert bright.shape == dark.shape == (512, 512)
    assert site.dose("0.2%") == pytest.approx(0.002)
    labels = site.labels()
    nuclei = site.nuclei()
    assert labels.max() == len(nuclei[nuclei.level == "100%"])
    assert bright[labels > 0].mean() > 3 * bright[labels == 0].mean()
    assert len(run.nuclei()) == sum(len(each.nuclei()) for each in sites)
    frames = run.frames()
    assert len(frames) == len(sites) * len(run.protocol.light_levels)
    assert set(frames.state) == {"written"}
    with pytest.raises(FileNotFoundError, match="no nuclei of 'nobody'"):
        run.nuclei("nobody")
    assert run.latest_model is None


def test_a_model_finds_nuclei_in_a_dark_image(segmented_plate):
    site = next(iter(scotopic.open_run(segmented_plate).sites()))
    predict = scotopic.load_model(DATA / "model.safetensors")
    found = predict(site.image("0.2%"), site.dose("0.2%"))
    assert abs(found.labels.max() / site.labels().max() - 1) < 0.2
    assert found.scores.shape == (found.labels.max(),)


def test_a_microscope_is_opened_dark_and_closed_dark():
    protocol = scotopic.read_protocol(ROOT / "protocols" / "quickstart.yaml")
    with scotopic.open_microscope(ROOT / "hardware_configs" / "demo.yaml", protocol) as core:
        assert not core.getShutterOpen()
        core.setConfig("LightLevel", "0.2%")
        assert float(core.getProperty("LED", "Voltage")) == pytest.approx(1)
        assert np.ndim(core.snap()) == 2
    assert core.getLoadedDevices() in {(), ("Core",)}


def test_mistakes_are_told_as_they_are_on_the_command_line(tmp_path):
    with pytest.raises(scotopic.ProblemsError, match="holds no run"):
        scotopic.open_run(tmp_path)
    path = tmp_path / "protocol.yaml"
    path.write_text("name: x\nwels: A1\n", encoding="utf-8")
    with pytest.raises(scotopic.ProblemsError, match="wels"):
        scotopic.read_protocol(path)
