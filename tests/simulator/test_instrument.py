from __future__ import annotations

import math
import threading
import time

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from scotopic.protocol import Fault, SimulatorSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument
from scotopic.simulator.bleaching import BleachingMap
from scotopic.simulator.light import LightRecord


def instrument(width_px=256, **changes: object) -> Instrument:
    settings = SimulatorSettings.model_validate({"illumination_falloff": 0, "drift_um": 0} | changes)
    scope = Instrument(SimulatorSetup(settings=settings, width_px=width_px, height_px=width_px))
    scope.move_xy(0, 0)
    return scope


def light_on(scope: Instrument, percent: float) -> None:
    scope.set_led_percent(percent)
    scope.set_shutter_open(True)
    while scope.light_is_pending():
        time.sleep(1e-4)


@pytest.mark.parametrize("camera", ["ccd", "scmos"])
def test_photon_transfer_gives_back_gain_and_read_noise(camera):
    """Variance of the difference of two images against the mean: Janesick, Photon Transfer (2007)."""
    scope = instrument(camera=camera, bleaching_per_full_exposure=0)
    noise = scope._sensor.noise
    means, variances = [], []
    light_on(scope, 100)
    for exposure_ms in (0.01, 5, 20, 60, 120, 200):
        a, b = (scope.expose(exposure_ms).astype(float) for _ in range(2))
        signal = (a + b) / 2 - noise.offset_counts
        # Pixels of about the same signal: one point each of the photon transfer curve.
        for low, high in ((0, 50), (50, 90)):
            edges = np.percentile(signal, [low, high])
            chosen = (signal >= edges[0]) & (signal <= edges[1])
            means.append(signal[chosen].mean())
            variances.append(((a - b)[chosen] ** 2).mean() / 2)
    slope, _ = np.polyfit(means, variances, 1, w=1 / np.sqrt(np.array(variances)))
    assert 1 / slope == pytest.approx(noise.gain_e_per_count, rel=0.03)
    scope.set_shutter_open(False)
    a, b = (scope.expose(4).astype(float) for _ in range(2))
    read_noise_e = np.sqrt((a - b).var() / 2 - 1 / 12) * noise.gain_e_per_count
    assert read_noise_e == pytest.approx(noise.read_noise_e, rel=0.03)


def test_a_closed_shutter_means_dark():
    scope = instrument()
    scope.set_led_percent(100)
    dark = scope.expose(200)
    assert dark.mean() == pytest.approx(scope._sensor.noise.offset_counts, abs=0.2)
    assert scope.delivered_ms == 0


def test_light_that_is_left_on_reaches_the_sample_and_bleaches_it():
    scope = instrument(bleaching_per_full_exposure=0.2)
    light_on(scope, 50)
    before = scope.expose(200).astype(float).mean()
    scope._clock.wait_until(scope._clock.now() + 1)
    scope.set_shutter_open(False)
    assert scope.delivered_ms == pytest.approx(0.5 * 1200, rel=0.01)
    light_on(scope, 50)
    after = scope.expose(200).astype(float).mean()
    offset = scope._sensor.noise.offset_counts
    assert (after - offset) / (before - offset) == pytest.approx(0.8**3, rel=0.02)


def test_a_place_beside_a_bleached_one_keeps_its_light():
    bleaching = BleachingMap((100, 100), -math.log(0.99))
    bleaching.add(0, 0, 100)
    np.testing.assert_allclose(bleaching.left(0, 0, (10, 10)), 0.99**100, rtol=1e-4)
    assert bleaching.left(150, 0, (10, 10)) == 1
    half = bleaching.left(50, 0, (10, 10))
    np.testing.assert_allclose(half[:, :5], 0.99**100, rtol=1e-4)
    np.testing.assert_allclose(half[:, 5:], 1)


def test_light_comes_after_its_delay_and_goes_at_once():
    scope = instrument(led_delay_ms=2)
    scope.set_led_percent(100)
    scope.set_shutter_open(True)
    early = scope.expose(4)  # without waiting for the shutter
    ready = scope.expose(4)
    offset = scope._sensor.noise.offset_counts
    assert (early.mean() - offset) / (ready.mean() - offset) == pytest.approx(0.5, rel=0.05)
    delivered = scope.delivered_ms
    scope.set_led_percent(0)
    scope._clock.wait_until(scope._clock.now() + 1)
    assert scope.delivered_ms == delivered


def test_a_record_of_light_adds_up():
    record = LightRecord()
    record.set_power(1, 1.0)
    record.set_power(2, 0.25)
    record.set_power(4, 0.0)
    assert record.integral_ms(0, 10) == pytest.approx(1500)
    assert record.integral_ms(1.5, 3) == pytest.approx(750)
    assert record.power_at(3) == 0.25
    record.set_power(3, 0.0)  # switched off earlier than was planned
    assert record.integral_ms(0, 10) == pytest.approx(1250)


def test_the_shutter_answers_another_thread_during_an_exposure():
    scope = instrument(clock="real", bleaching_per_full_exposure=0)
    light_on(scope, 100)
    full = scope.expose(300)
    threading.Timer(0.15, scope.set_shutter_open, args=[False]).start()
    cut = scope.expose(300)
    offset = scope._sensor.noise.offset_counts
    assert 0.3 < (cut.mean() - offset) / (full.mean() - offset) < 0.8


def test_computing_an_image_lights_no_sample():
    """On the real clock a new site takes tens of milliseconds to compute, with the shutter open."""
    scope = instrument(512, clock="real")
    light_on(scope, 100)
    before = scope.delivered_ms
    scope.expose(4)
    scope.set_shutter_open(False)
    assert 4 <= scope.delivered_ms - before < 15


@pytest.mark.parametrize("kind", ["camera_hangs", "device_slow"])
def test_light_goes_on_while_a_device_hangs(kind):
    scope = instrument()
    light_on(scope, 100)
    scope.set_faults((Fault(kind=kind, amount=0.2),))
    before = scope.delivered_ms
    scope.expose(4)
    scope.set_shutter_open(False)
    assert scope.delivered_ms - before == pytest.approx(204, abs=1)


def test_the_real_clock_takes_its_time():
    scope = instrument(clock="real", stage_um_per_s=50_000)
    start = time.perf_counter()
    scope.move_xy(5000, 0)
    assert scope.stage_is_moving()
    time.sleep(0.11)
    assert not scope.stage_is_moving()
    scope.expose(50)
    assert time.perf_counter() - start >= 0.15


def test_the_focus_decides_how_sharp_the_image_is():
    scope = instrument(512, tilt_um_per_mm=(0.5, 0))
    light_on(scope, 100)

    def sharpness():
        smooth = gaussian_filter(scope.expose(200).astype(float), 1.5)
        return float(np.abs(np.diff(smooth, axis=0)).mean())

    scope.move_xy(9000, 0)
    scope.autofocus()
    sharp = sharpness()
    assert scope.z_um == pytest.approx(1200 + 4.5, abs=1)
    scope.move_z(scope.focus_z_um + 20)
    assert sharpness() < 0.7 * sharp


def test_drift_moves_the_image_a_little_between_exposures():
    from skimage.registration import phase_cross_correlation

    scope = instrument(drift_um=1.0)
    light_on(scope, 100)
    a, b = scope.expose(200), scope.expose(200)
    shift, *_ = phase_cross_correlation(a, b, upsample_factor=20)
    assert 0.1 < np.hypot(*shift) < 10


FAULTS = {
    "snap_fails": lambda s: fails(lambda: s.expose(4)),
    "led_ignores": lambda s: (s.set_led_percent(10), s.led_percent == 0)[1],
    "led_stays_on": lambda s: (s.set_led_percent(10), s.set_led_percent(0), s.led_percent == 10)[2],
    "led_misreports": lambda s: (light_on(s, 10), s.led_percent == 10 and s.expose(200).mean() > 900)[1],
    "shutter_sticks": lambda s: (s.set_shutter_open(True), not s.shutter_open)[1],
    "stage_stops_short": lambda s: (s.move_xy(1000, 0), s.xy_um == pytest.approx((900, 0)))[1],
    "autofocus_fails": lambda s: fails(s.autofocus),
    "camera_hangs": lambda s: timed(lambda: s.expose(4)) > 0.09,
    "device_slow": lambda s: timed(lambda: s.set_led_percent(1)) > 0.09,
}
AMOUNTS = {"led_misreports": 100, "stage_stops_short": 100, "camera_hangs": 0.1, "device_slow": 0.1}


def fails(action):
    with pytest.raises(RuntimeError):
        action()
    return True


def timed(action):
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


@pytest.mark.parametrize("kind", FAULTS)
def test_things_go_wrong_on_purpose(kind):
    scope = instrument()
    scope.set_faults((Fault(kind=kind, amount=AMOUNTS.get(kind, 0)),))
    assert FAULTS[kind](scope)


def test_a_fault_strikes_when_and_as_often_as_asked():
    scope = instrument()
    scope.set_faults((Fault(kind="autofocus_fails", after=2, times=2),))
    for expected_to_fail in (False, False, True, True, False, False):
        if expected_to_fail:
            assert fails(scope.autofocus)
        else:
            scope.autofocus()


def test_a_large_disk_is_never_filled(tmp_path):
    import shutil

    if shutil.disk_usage(tmp_path).total <= 2 * 1024**3:
        pytest.fail("this test needs a temporary folder on a file system larger than 2 GiB")
    scope = instrument()
    scope.set_faults((Fault(kind="disk_fills", folder=str(tmp_path)),))
    with pytest.raises(RuntimeError, match="will not be filled"):
        scope.expose(4)
    assert not list(tmp_path.iterdir())
