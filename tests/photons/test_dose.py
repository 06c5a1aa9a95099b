from __future__ import annotations

import numpy as np
import pytest

from scotopic.photons import CameraNoise, DoseRatio, dose_ratio, is_dark, pooled

CAMERA = CameraNoise(offset_counts=200, gain_e_per_count=0.8, read_noise_e=6, saturation_counts=65535)


def scene(n_nuclei, seed=1, size=512):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size]
    light = np.full((size, size), 0.04)
    for cx, cy in rng.uniform(0, size, (n_nuclei, 2)):
        light[(x - cx) ** 2 + (y - cy) ** 2 < 14**2] = 0.6
    return light.astype(np.float32) * 8000


def shot(light, dose, seed):
    return CAMERA.expose(light * np.float32(dose), np.random.default_rng(seed))


@pytest.mark.parametrize("dose", [0.02, 0.002, 0.0005])
def test_the_images_show_the_dose_with_an_honest_error(dose):
    light = scene(60)
    full = shot(light, 1, 0)
    found = [dose_ratio(shot(light, dose, seed), full, CAMERA) for seed in range(1, 41)]
    z = [(f.ratio - dose) / f.error for f in found]
    assert abs(np.mean(z)) < 0.8
    assert 0.7 < np.std(z) < 1.4
    assert {f.verdict(dose) for f in found} == {"ok"}


@pytest.mark.parametrize("true_dose", [0.001, 0.00025, 0.0])
def test_another_light_is_found_out(true_dose):
    light = scene(60)
    assert dose_ratio(shot(light, true_dose, 1), shot(light, 1, 0), CAMERA).verdict(0.0005) == "wrong"


def test_an_error_of_the_offset_does_not_matter():
    light = scene(60)
    camera = CAMERA.model_copy(update={"offset_counts": 150})
    assert dose_ratio(shot(light, 0.002, 1), shot(light, 1, 0), camera).ratio == pytest.approx(0.002, rel=0.02)


@pytest.mark.parametrize("n_nuclei", [0, 1])
def test_an_empty_field_determines_nothing_about_the_dimmest_light(n_nuclei):
    light = scene(n_nuclei) if n_nuclei else np.full((512, 512), 300, np.float32)
    assert dose_ratio(shot(light, 0.0005, 1), shot(light, 1, 0), CAMERA).verdict(0.0005) == "undetermined"


def test_sites_together_show_what_one_alone_could_not():
    alone = [DoseRatio(0.0005 + 0.0001 * s, 0.0001) for s in (-1, 1, -0.5, 0.5, 1, -1, 0, 0, 0)]
    assert {r.verdict(0.0005) for r in alone} == {"undetermined"}
    together = pooled([*alone, DoseRatio(float("nan"), float("inf"))])
    assert together.verdict(0.0005) == "ok"
    assert pooled([]).verdict(1) == "undetermined"


@pytest.mark.parametrize(
    ("light", "dark"),
    [
        (np.zeros((512, 512), np.float32), True),
        (np.full((512, 512), 40, np.float32), False),
        (scene(1) - 320, False),
        (scene(60), False),
    ],
    ids=["lamp died", "medium alone", "one nucleus on black", "nuclei"],
)
def test_only_an_image_without_any_light_is_dark(light, dark):
    bright, dim = shot(light, 1, 1), shot(light, 0.02, 2)
    for image in (bright, dim):
        image[:, ::100] += 30  # lines of the camera
    bright[::40, ::40] += 5000  # pixels that are hot in a long exposure
    assert is_dark(bright, dim, CAMERA) is dark


def test_cameras_without_noise_and_images_without_pixels_are_judged_too():
    camera = CAMERA.model_copy(update={"read_noise_e": 0, "gain_e_per_count": 1})
    black = np.full((64, 64), 100, np.uint16)
    assert is_dark(black, black, camera)
    assert not is_dark(black + np.uint16(2), black, camera)
    assert not is_dark(black[:3], black[:3], camera), "nothing is known of it"
