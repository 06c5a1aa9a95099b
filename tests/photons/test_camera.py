from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from scotopic.photons import CameraNoise

CCD = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)
SHAPE = (1000, 1000)


@pytest.mark.parametrize("read_noise_e", [0.0, 1.6, 6.0])
@pytest.mark.parametrize("mean_e", [0.0, 0.3, 3.0, 40.0, 8000.0])
def test_noise_has_the_mean_variance_and_skewness_of_physics(mean_e, read_noise_e):
    camera = CCD.model_copy(update={"read_noise_e": read_noise_e, "gain_e_per_count": 0.2})
    counts = camera.expose(np.full(SHAPE, mean_e, np.float32), np.random.default_rng(1))
    electrons = camera.to_electrons(counts).astype(float)
    variance = mean_e + read_noise_e**2
    n = electrons.size
    assert electrons.mean() == pytest.approx(mean_e, abs=5 * np.sqrt(variance / n) + 1e-4)
    assert electrons.var() == pytest.approx(variance, rel=0.007, abs=0.004)
    if read_noise_e >= 1:
        assert stats.skew(electrons.ravel()) == pytest.approx(mean_e / variance**1.5, abs=0.012)


@pytest.mark.parametrize(("mean_e", "read_noise_e"), [(0.5, 1.6), (4, 1.6), (2, 6), (30, 1.0)])
def test_the_fast_noise_is_distributed_like_the_exact_one(mean_e, read_noise_e):
    rng = np.random.default_rng(2)
    camera = CameraNoise(offset_counts=1000, gain_e_per_count=0.05, read_noise_e=read_noise_e, saturation_counts=65535)
    fast = camera.to_electrons(camera.expose(np.full(SHAPE, mean_e, np.float32), rng)).ravel()
    fast = fast + 0.05 * (rng.random(fast.size) - 0.5)  # undo the steps of counts
    exact = rng.poisson(mean_e, fast.size) + read_noise_e * rng.standard_normal(fast.size)
    assert stats.ks_2samp(fast, exact).statistic < 0.005


def test_counts_stay_between_zero_and_saturation():
    camera = CCD.model_copy(update={"offset_counts": 2, "saturation_counts": 4095})
    counts = camera.expose(np.array([[0.0, 1e6]], np.float32).repeat(500, 0), np.random.default_rng(3))
    assert counts.dtype == np.uint16
    assert counts.min() == 0
    assert set(counts[:, 1]) == {4095}


def test_maps_replace_the_values_of_the_camera():
    mean = np.full((200, 300), 1000, np.float32)
    offset, gain = np.full(mean.shape, 50, np.float32), np.full(mean.shape, 2, np.float32)
    counts = CCD.expose(mean, np.random.default_rng(4), offset_counts=offset, gain_e_per_count=gain)
    assert counts.mean() == pytest.approx(550, abs=1)
