from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import load_job
from scotopic.protocol import LightSource, Plate, fit_placement

PLATE = Plate.model_validate("96-well")


def source(**changes: object) -> LightSource:
    keys = {"device": "LED", "property": "Power", "max": 100, "step": 1}
    off = [{"device": "LED", "property": "Power", "value": 0}]
    return LightSource.model_validate(keys | {"switch_off": off} | changes)


@given(
    angle=st.floats(-30, 30),
    mirror_x=st.sampled_from([1, -1]),
    mirror_y=st.sampled_from([1, -1]),
    x0=st.floats(-1e5, 1e5),
    y0=st.floats(-1e5, 1e5),
)
def test_a_plate_is_found_however_it_lies(angle, mirror_x, mirror_y, x0, y0):
    turn = math.radians(angle)
    matrix = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]]) * [mirror_x, mirror_y]

    def stage(well):
        return tuple(matrix @ PLATE.centre_um(well) + [x0, y0])

    placement = fit_placement({w: stage(w) for w in ("A1", "A12", "H1")}, PLATE)
    assert placement.to_stage(*PLATE.centre_um("F7")) == pytest.approx(stage("F7"), abs=0.01)
    assert placement.to_plate(*stage("F7")) == pytest.approx(PLATE.centre_um("F7"), abs=0.01)


WRONG = {
    "another plate": ({"A1": (0, 0), "A2": (4500, 0), "B1": (0, 4500)}, "0.500 times as far apart"),
    "wrong well": ({"A1": (0, 0), "A11": (99000, 0), "H1": (0, 63000)}, "times as far apart"),
    "on one line": ({"A1": (0, 0), "A2": (9000, 0), "A3": (18000, 0)}, "one line"),
    "too few": ({"A1": (0, 0), "B2": (9000, 9000)}, "two more wells"),
    "off the plate": ({"A1": (0, 0), "A13": (0, 0), "H1": (0, 63000)}, "A13 not on a 96-well plate"),
    "one well off": (
        {"A1": (0, 0), "A12": (99000, 0), "H1": (0, 63000), "H12": (99000, 63000), "D6": (46000, 27000)},
        "from where the others put it",
    ),
}


@pytest.mark.parametrize(("wells", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_calibration_that_cannot_be_is_refused(wells, message):
    with pytest.raises(ValueError, match=message):
        fit_placement(wells, PLATE)


def test_one_well_is_enough_for_a_coverslip():
    plate = Plate.model_validate("coverslip-22mm-square")
    assert fit_placement({"A1": (500, 600)}, plate).to_stage(10, 20) == pytest.approx((510, 620))


def test_a_led_gives_whole_steps_and_says_when_that_is_not_what_was_asked():
    led = source(step=1)
    assert (led.setting(10).text, led.setting(10).exact) == ("10", True)
    assert not led.setting(2.5).exact
    assert led.setting(2.5).led_percent == 2
    volts = source(max=10, step=0.0001)
    assert (volts.setting(2.5).text, volts.setting(2.5).exact) == ("0.2500", True)
    assert source(min=5).setting(2.5).led_percent == 5


def test_a_measured_curve_replaces_the_nominal_power():
    curve = [{"led_percent": 10, "relative_power": 0.05}, {"led_percent": 100, "relative_power": 1}]
    assert source().relative_power(10) == pytest.approx(0.1)
    assert source(dose_curve=curve).relative_power(10) == pytest.approx(0.05)
    assert source(dose_curve=curve).relative_power(55) == pytest.approx(0.525)


def test_a_channel_without_light_is_told_with_the_nearest_name():
    profile = load_job("quickstart", "demo").profile
    with pytest.raises(ValueError, match="did you mean 'DAPI'"):
        profile.light_source("DAPO")
