from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import fourier_shift, gaussian_filter

from scotopic.photons import CameraNoise, focus_score, image_shift

CCD = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)


def scene(seed: int = 1, size: int = 512) -> np.ndarray:
    """Blobs the size of nuclei, in electrons, brightest about 8000."""
    rng = np.random.default_rng(seed)
    points = np.zeros((size, size))
    points[rng.integers(0, size, 60), rng.integers(0, size, 60)] = 1
    smooth = gaussian_filter(points, 8)
    return 8000 * smooth / smooth.max()


def exposed(electrons: np.ndarray, seed: int) -> np.ndarray:
    return CCD.expose(electrons, np.random.default_rng(seed))


@pytest.mark.parametrize("dose", [1, 0.02, 0.0005])
@pytest.mark.parametrize("shift", [(0.0, 0.0), (3.4, -7.2), (-12.0, 1.0)])
def test_a_known_shift_is_found_at_every_light_level(dose, shift):
    full = scene()
    moved = np.clip(np.fft.ifft2(fourier_shift(np.fft.fft2(full), shift)).real, 0, None)
    found = image_shift(exposed(dose * moved, 2), exposed(full, 3))
    assert found == pytest.approx(shift, abs=0.25 if dose > 0.001 else 1.0)


def test_the_focus_score_falls_with_blur_and_is_not_fooled_by_noise():
    full = scene()
    scores = [focus_score(exposed(gaussian_filter(full, blur), 4), CCD) for blur in (0, 4, 8, 16)]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] > 2 * scores[3]
    dim = [focus_score(exposed(0.02 * full, seed), CCD) for seed in range(5)]
    assert np.mean(dim) == pytest.approx(scores[0], rel=0.2)
    assert focus_score(exposed(np.full((512, 512), 100.0), 5), CCD) == 0
