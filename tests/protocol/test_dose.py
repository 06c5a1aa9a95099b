"""A dose and its setting: there and back, by what was measured."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from conftest import load_job
from scotopic.protocol import MicroscopeProfile, full_light_ms, relative_dose, setting_for
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument

CURVES = {
    "straight": (0.0, 0.0),
    "sags": (0.0, 0.3),
    "bulges": (0.0, -0.3),
    "dead below 1.5 %": (1.5, 0.2),
}
LAGS_MS = (0.0, 1.3, 3.0)


def microscope(dead_percent, curvature, lag_ms):
    """The simulated microscope, and its profile with the curve and lag that a calibration would find."""
    data = load_job("low_light_96", "simulated").profile.model_dump(mode="json")
    data["gating"]["lag_ms"] = lag_ms
    data["camera"]["min_exposure_ms"] = 0.01
    data["simulator"] |= {"led_dead_percent": dead_percent, "led_curvature": curvature, "shutter_lag_ms": lag_ms}
    data["simulator"] |= {
        "specimen": {"kind": "slide", "brightness": 1},
        "bleaching_per_full_exposure": 0,
        "drift_um": 0,
    }
    share = np.maximum(np.arange(0.5, 100.5, 0.5) - dead_percent, 0) / (100 - dead_percent)
    light = share * (1 - 2 * curvature * (1 - share))
    data["light_sources"]["DAPI"]["dose_curve"] = [
        {"led_percent": float(percent), "relative_power": float(value)}
        for percent, value in zip(np.arange(0.5, 100.5, 0.5), light, strict=True)
    ]
    data["light_sources"]["DAPI"]["dose_curve"][-1]["relative_power"] = 1
    return MicroscopeProfile.model_validate(data)


def signal_e(scope, exposure_ms, led_percent):
    scope.set_led_percent(led_percent)
    scope.set_shutter_open(True)
    scope.light_is_pending()
    image = scope.expose(exposure_ms)
    scope.set_shutter_open(False)
    return (image.mean() - 200) * 0.8


@pytest.mark.parametrize(("curve", "lag_ms"), list(itertools.product(CURVES, LAGS_MS)))
def test_a_setting_gives_the_dose_that_was_wanted_on_the_microscope_itself(curve, lag_ms):
    """Twelve microscopes, three doses: what the image has is within 2 % of what was asked for."""
    protocol = load_job("low_light_96", "simulated").protocol
    profile = microscope(*CURVES[curve], lag_ms)
    setup = SimulatorSetup.of(profile, protocol)
    scope = Instrument(setup)
    scope.move_xy(*setup.placement.to_stage(*setup.plate.centre_um("B2")))
    scope.stage_is_moving()
    full = signal_e(scope, 200, 100)
    full_ms = full_light_ms(protocol, profile, protocol.reference)
    for dose in (0.02, 0.002, 0.000707):
        setting = setting_for(profile, "DAPI", dose * full_ms, 4.0)
        assert setting.led_percent in profile.light_source("DAPI").settable_percents
        images = [signal_e(scope, setting.exposure_ms, setting.led_percent) for _ in range(4)]
        assert np.mean(images) / full == pytest.approx(dose, rel=0.02)


def test_the_exposure_is_kept_where_a_power_of_the_led_gives_the_dose():
    profile = microscope(0.0, 0.0, 0.0)
    setting = setting_for(profile, "DAPI", 4 * 0.10, 4.0)
    assert (setting.exposure_ms, setting.led_percent) == (4.0, 10.0)


def test_a_dose_below_what_the_microscope_can_give_has_no_setting():
    profile = microscope(0.0, 0.0, 0.0)
    camera = profile.camera.model_copy(update={"min_exposure_ms": 1.0})
    assert setting_for(profile.model_copy(update={"camera": camera}), "DAPI", 0.001, 4.0) is None
    assert setting_for(profile, "DAPI", 0.0, 4.0) is None


def test_relative_doses_are_the_measured_ones():
    protocol = load_job("low_light_96", "simulated").protocol
    assert relative_dose(protocol, microscope(0, 0, 0), protocol.level("0.2%")) == pytest.approx(0.002)
    bent = microscope(0, 0.3, 1.0)
    share = 0.1 * (1 - 2 * 0.3 * 0.9)
    assert relative_dose(protocol, bent, protocol.level("0.2%")) == pytest.approx(3 * share / 199, rel=1e-3)
