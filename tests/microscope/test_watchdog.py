"""The thread that lets no light outlive a hang."""

from __future__ import annotations

import threading
import time

import pytest

from scotopic.microscope.watchdog import HungError, Watchdog


class Light:
    """A light, a log of what is published of it, and whoever was told."""

    def __init__(self, *, obeys: bool = True) -> None:
        self.obeys, self.offs = obeys, []
        self.published, self.told, self.given_up = [], [], []
        self.watchdog = Watchdog(self.off, publish=lambda *mark: self.published.append(mark))

    def off(self) -> None:
        self.offs.append(time.perf_counter())
        if not self.obeys:
            raise RuntimeError("LED.Power is 50 (off: 0)")


def wait_for(what) -> None:
    until = time.monotonic() + 5
    while not what():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_light_that_is_on_too_long_is_switched_off_and_told_and_must_not_be_let_on_again():
    light = Light()
    with light.watchdog as watchdog:
        watchdog.expect_light(0.1, light.told.append, power=0.5)
        watchdog.asks("the LED")
        wait_for(lambda: len(light.told) == 2)
        assert [told.partition("; ")[2] for told in light.told] == [
            "the light is being switched off",
            "the light is off",
        ]
        with pytest.raises(
            HungError, match=r"the LED gave no answer for 0\.1\S* s; the light was switched off meanwhile"
        ):
            watchdog.asks("the shutter")
        watchdog.dark()
    assert light.published == [(0.1, 0.5), (0.0, 0.0)]


def test_light_behind_a_shutter_is_counted_from_its_opening_on_and_has_no_longer_limit():
    light = Light()
    watchdog = light.watchdog
    watchdog.expect_light(2, power=0.5, reaches_sample=False)
    assert watchdog.shines_since is None
    time.sleep(0.05)
    watchdog.shines()
    watchdog.dark()
    (_, before), (left_s, power), (_, after) = light.published
    assert (before, power, after) == (0, 0.5, 0)
    assert left_s < 2
    assert watchdog.shines_since is not None


def test_what_ends_in_time_is_left_alone():
    light = Light()
    with light.watchdog as watchdog:
        for _ in range(5):
            watchdog.expect_light(0.3)
            watchdog.asks("the LED")
            watchdog.darkens()
            watchdog.dark()
        time.sleep(0.4)
    assert light.offs == []
    assert len(light.published) == 10


def test_while_a_hang_lasts_the_light_is_switched_off_again_and_again(monkeypatch):
    """A command that hangs may reach the LED late."""
    monkeypatch.setattr("scotopic.microscope.watchdog._AGAIN_S", 0.05)
    light = Light()
    with light.watchdog as watchdog:
        watchdog.expect_light(0.01, light.told.append)
        wait_for(lambda: len(light.offs) >= 3)
    assert len(light.told) == 2, "told once"


@pytest.mark.parametrize("how", ["refuses", "hangs"])
def test_where_dark_cannot_be_confirmed_it_gives_up(how, monkeypatch):
    monkeypatch.setattr("scotopic.microscope.watchdog.SWITCH_OFF_S", 0.1)
    light, release = Light(obeys=False), threading.Event()
    off = light.off if how == "refuses" else release.wait
    with Watchdog(off, give_up=light.given_up.append) as watchdog:
        watchdog.expect_light(0.01)
        watchdog.asks("the LED")
        wait_for(lambda: light.given_up)
        release.set()
    why = {"refuses": r"LED.Power is 50 (off: 0)", "hangs": "the light cannot be reached: LOOK WHETHER IT IS ON"}[how]
    assert light.given_up[0] == f"the LED has not answered for 0.01 s; {why}"


def test_light_that_nobody_can_write_down_is_not_given():
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    watchdog = Watchdog(lambda: None, publish=full)
    with pytest.raises(OSError, match="No space"):
        watchdog.expect_light(1)
    watchdog.dark()  # which is said as far as it can be


def test_a_process_that_was_stopped_meanwhile_lets_no_light_on():
    """It wakes before the watchdog's thread does: it has not bitten yet."""
    watchdog = Watchdog(lambda: None)
    watchdog.expect_light(0.01)
    watchdog.asks("the LED")
    time.sleep(0.02)
    with pytest.raises(HungError):
        watchdog.asks("the shutter")


def test_alive_is_who_goes_on_or_waits_as_announced():
    watchdog = Watchdog(lambda: None)
    watchdog.step("loading", 100)
    assert watchdog.alive_at == pytest.approx(time.time(), abs=0.05)
    watchdog.step("a frame")
    at = time.time()
    time.sleep(0.05)
    assert watchdog.alive_at == pytest.approx(at, abs=0.02), "the thread that asks is no sign of life"
