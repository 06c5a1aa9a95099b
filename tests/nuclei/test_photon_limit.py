from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.special import ive

from scotopic.nuclei import THRESHOLDS
from scotopic.nuclei.photon_limit import SHAPE_SD, _information, _snr2, photon_limit

TYPICAL = {"area_px": 560, "mean_e": 3600, "background_e": 210, "read_noise_e": 6}
BLUR_PX = 1.5


def test_bright_nuclei_are_found_and_faint_ones_are_not():
    at = {dose: photon_limit(**TYPICAL, dose=dose, thresholds=(0.5, 0.7, 0.9))[:, 0] for dose in (1, 0.002, 1e-5)}
    assert (at[1] == 1).all()
    assert at[0.002][1] > 0.95
    assert (at[1e-5] < 0.05).all()


@given(
    area=st.floats(1, 1e5),
    mean=st.floats(1, 1e5),
    background=st.floats(0, 1e4),
    noise=st.floats(0, 20),
    dose=st.floats(1e-6, 1),
    factor=st.floats(1, 100),
)
def test_more_light_never_hurts_and_more_noise_never_helps(area, mean, background, noise, dose, factor):
    chance = photon_limit(area, mean, background, noise, dose, thresholds=THRESHOLDS)
    assert (chance >= 0).all()
    assert (chance <= 1).all()
    assert (np.diff(chance, axis=0) <= 1e-12).all()
    brighter = photon_limit(area, mean, background, noise, dose * factor, thresholds=THRESHOLDS)
    noisier = photon_limit(area, mean, background, noise * factor, dose, thresholds=THRESHOLDS)
    hazier = photon_limit(area, mean, background * factor, noise, dose, thresholds=THRESHOLDS)
    assert (brighter >= chance - 1e-12).all()
    assert (noisier <= chance + 1e-12).all()
    assert (hazier <= chance + 1e-12).all()


def test_read_noise_and_blur_lower_the_limit_at_low_light():
    def recall(**changed):
        return photon_limit(**TYPICAL | {"mean_e": 2000} | changed, dose=0.0005)[1, 0]

    assert recall(read_noise_e=1.4) > recall() + 0.1
    assert recall(blur_px=3) < recall() - 0.1


def disc(radius, width=48, fine=5):
    """Draw a blurred disc of height 1 by brute force: fine pixels, of which each fifth is kept."""
    place = (np.arange(width * fine) - width * fine // 2) / fine
    sharp = np.hypot(place[:, None], place) < radius
    return gaussian_filter(sharp.astype(float), BLUR_PX * fine)[::fine, ::fine]


def test_the_best_fit_of_a_radius_varies_as_the_information_says():
    radius, signal_e, background_e, read_noise_e = 12.0, 12.0, 3.0, 4.0
    rng = np.random.default_rng(3)
    tried = np.linspace(radius - 1.5, radius + 1.5, 61)
    means = np.array([background_e + signal_e * disc(r) for r in tried]).reshape(tried.size, -1)
    images = rng.poisson(means[30], (500, means.shape[1])) + rng.normal(0, read_noise_e, (500, means.shape[1]))
    noise = means + read_noise_e**2
    misfit = images**2 @ (1 / noise).T - 2 * images @ (means / noise).T + (means**2 / noise + np.log(noise)).sum(axis=1)
    fitted = []
    for curve in misfit:
        near = np.abs(tried - tried[curve.argmin()]) < 0.4
        a, b, _ = np.polyfit(tried[near], curve[near], 2)
        fitted.append(-b / (2 * a))

    snr2 = _snr2(np.array([np.pi * radius**2]), np.array([signal_e]), np.array([background_e]), read_noise_e)
    information = _information(snr2, [radius**2 / (2 * BLUR_PX**2)])[0, 0]
    assert abs(np.mean(fitted) - radius) < 0.05
    assert np.var(fitted) == pytest.approx(radius**2 / information, rel=0.15)


# Where the signal adds little to the noise, the closed form is exact. Otherwise the noise differs across the edge.
@pytest.mark.parametrize(("signal_e", "tolerance"), [(0.01, 1e-3), (6.0, 0.06)])
@pytest.mark.parametrize("harmonic", range(len(SHAPE_SD)))
def test_the_closed_form_is_the_integral_over_the_image(harmonic, signal_e, tolerance):
    radius, background_e, read_noise_e = 10.0, 2.0, 2.0
    step = 0.02
    p = np.arange(step / 2, 25, step)
    exponent = -((p - radius) ** 2) / (2 * BLUR_PX**2)
    slope = signal_e * radius**2 / BLUR_PX**2 * np.exp(exponent) * ive(harmonic, p * radius / BLUR_PX**2)
    # The slope along the radius of a blurred disc, integrated from outside in, is its brightness.
    falling = radius / BLUR_PX**2 * np.exp(exponent) * ive(1, p * radius / BLUR_PX**2)
    ring = np.cumsum(falling[::-1])[::-1] * step
    noise = background_e + read_noise_e**2 + signal_e * ring
    over_angles = 2 * np.pi if harmonic == 0 else np.pi
    expected = over_angles * (slope**2 * p / noise).sum() * step

    snr2 = _snr2(np.array([np.pi * radius**2]), np.array([signal_e]), np.array([background_e]), read_noise_e)
    found = _information(snr2, [radius**2 / (2 * BLUR_PX**2)])[0, harmonic]
    assert found == pytest.approx(expected, rel=tolerance)


def test_values_may_be_a_table_or_a_single_background():
    many = photon_limit([560, 560], [3600, 400], [210, 210], 6, 0.002)
    assert many.shape == (2, 2)
    assert (photon_limit([560, 560], [3600, 400], 210, 6, 0.002) == many).all()
    assert many[0, 0] > many[0, 1]


def test_no_nuclei_and_no_light_are_no_error():
    assert photon_limit([], [], [], 6, 0.1, thresholds=THRESHOLDS).shape == (10, 0)
    assert photon_limit([], [], 210, 6, 0.1).shape == (2, 0)
    found = photon_limit([560, 560, 0, 560, 1], [0, -5, 3600, 3600, 3600], [210, 210, 210, -3, 0], 6, 1)
    assert (found[:, :3] == 0).all()
    assert (found[:, 3] == 1).all()
    assert np.isfinite(found[:, 4]).all()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"dose": 0}, "dose"),
        ({"dose": -0.1}, "dose"),
        ({"dose": float("nan")}, "dose"),
        ({"read_noise_e": -1}, "read_noise_e"),
        ({"blur_px": 0}, "blur_px"),
        ({"thresholds": (0.5, 50)}, "thresholds"),
        ({"mean_e": float("nan")}, "mean_e"),
        ({"background_e": float("inf")}, "background_e"),
    ],
)
def test_senseless_values_are_refused_by_name(changed, message):
    with pytest.raises(ValueError, match=message):
        photon_limit(**{**TYPICAL, "dose": 0.1} | changed)
