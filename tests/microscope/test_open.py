from __future__ import annotations

import time

import numpy as np
import pytest
from pymmcore_plus import CMMCorePlus
from pymmcore_plus.experimental.unicore import UniMMCore

from conftest import ROOT, Job, load_job
from scotopic.microscope import image_site, open_microscope, switch_light_off
from scotopic.protocol import LIGHT_LEVEL_GROUP


def opened(job: Job) -> CMMCorePlus:
    return open_microscope(job.profile, job.profile_path, job.protocol)


def led_of(core: CMMCorePlus, job: Job) -> float:
    source = job.profile.light_source(job.protocol.channel)
    return float(core.getProperty(source.device, source.property))


def test_the_demo_microscope_is_plain_mmcore_and_the_simulated_one_is_unimmcore():
    assert type(opened(load_job("quickstart", "demo"))) is CMMCorePlus
    assert isinstance(opened(load_job("quickstart", "simulated")), UniMMCore)


def test_opening_defines_one_preset_for_each_light_level(job):
    core = opened(job)
    assert set(core.getAvailableConfigs(LIGHT_LEVEL_GROUP)) == {level.name for level in job.protocol.light_levels}
    source = job.profile.light_source("DAPI")
    for level in job.protocol.light_levels:
        core.setConfig(LIGHT_LEVEL_GROUP, level.name)
        assert led_of(core, job) == pytest.approx(level.led_percent / 100 * source.max)


def test_opening_leaves_the_light_off(job):
    core = opened(job)
    assert led_of(core, job) == 0
    assert not core.getShutterOpen()


def test_all_four_levels_are_taken_and_the_light_is_off_afterwards(job):
    core = opened(job)
    position = job.protocol.to_sequence(job.profile).stage_positions[0]
    z_before = core.getZPosition()
    images = image_site(core, job.profile, job.protocol, position.x, position.y, position.z)
    assert list(images) == [level.name for level in job.protocol.levels_in_exposure_order]
    for exposure in images.values():
        assert exposure.image.shape == (512, 512)
        assert exposure.image.dtype == np.uint16
    assert core.getXYPosition() == pytest.approx((position.x, position.y), abs=0.1)
    assert core.getZPosition() == pytest.approx(z_before, abs=2)
    assert led_of(core, job) == 0
    assert not core.getShutterOpen()


def test_the_light_is_off_after_a_failure_as_well():
    job = load_job("quickstart", "simulated")
    core = opened(job)
    core.setProperty("Simulator", "Faults", '[{"kind": "snap_fails", "after": 2}]')
    with pytest.raises(RuntimeError, match="no image was read out"):
        image_site(core, job.profile, job.protocol, 9500, 9800, None)
    assert led_of(core, job) == 0
    assert not core.getShutterOpen()


def test_a_led_that_ignores_its_setting_gives_no_light():
    job = load_job("quickstart", "simulated")
    core = opened(job)
    core.setProperty("Simulator", "Faults", '[{"kind": "led_ignores", "after": 0}]')
    with pytest.raises(RuntimeError, match="this level was not lit"):
        image_site(core, job.profile, job.protocol, 9500, 9800, None)
    assert float(core.getProperty("Simulator", "DeliveredLight_ms")) == 0


def test_light_off_tries_everything_before_it_complains():
    job = load_job("quickstart", "simulated")
    core = opened(job)
    core.setProperty("LED", "Power", 50)
    core.setShutterOpen(True)
    bad = {"device": "LED", "property": "Powr", "value": 0}
    good = {"device": "LED", "property": "Power", "value": 0}
    source = job.profile.light_source("DAPI").model_copy(update={"switch_off": ()})
    source = type(source).model_validate(source.model_dump() | {"switch_off": [bad, good]})
    profile = job.profile.model_copy(update={"light_sources": {"DAPI": source}})
    with pytest.raises(RuntimeError, match=r"LED\.Powr = 0"):
        switch_light_off(core, profile)
    assert led_of(core, job) == 0
    assert not core.getShutterOpen()


def test_plain_unimmcore_loads_the_simulated_configuration():
    core = UniMMCore()
    core.loadSystemConfiguration(ROOT / "hardware_configs" / "simulated.cfg")
    core.setProperty("LED", "Power", 100)
    core.setExposure(200)
    core.setShutterOpen(True)
    core.waitForDevice("Shutter")
    assert core.snap().mean() > 1000


def test_the_signal_follows_the_relative_dose_at_every_level():
    """Averaged over enough frames, within 2 %."""
    job = load_job("quickstart", "simulated")
    core = opened(job)
    core.setXYPosition(9500, 9800)
    core.waitForSystem()
    signals = {}
    for level in job.protocol.levels_in_exposure_order:
        core.setConfig(LIGHT_LEVEL_GROUP, level.name)
        core.setExposure(level.exposure_ms)
        frames = 60 if level.led_percent < 100 else 2
        means = [core.snap().mean() for _ in range(frames)]  # autoshutter opens and closes the light
        signals[level.name] = np.mean(means) - job.profile.camera.offset_counts
    for level in job.protocol.light_levels:
        dose = signals[level.name] / signals[job.protocol.reference.name]
        assert dose == pytest.approx(job.protocol.relative_dose(level), rel=0.02), level.name


def test_the_stock_engine_takes_the_same_four_levels_from_the_sequence(job):
    core = opened(job)
    sequence = job.protocol.to_sequence(job.profile)
    sequence = sequence.replace(stage_positions=sequence.stage_positions[:2])
    seen = []

    def note(image: np.ndarray, event: object) -> None:
        seen.append((event.channel.config, led_of(core, job), core.getExposure(), float(image.mean())))

    core.mda.engine.use_hardware_sequencing = False
    core.mda.events.frameReady.connect(note)
    core.mda.run(sequence)
    source = job.profile.light_source("DAPI")
    expected = [
        (level.name, pytest.approx(level.led_percent / 100 * source.max), level.exposure_ms)
        for level in job.protocol.levels_in_exposure_order
    ]
    assert [frame[:3] for frame in seen] == expected * 2
    if job.profile.simulator:
        signals = [mean - job.profile.camera.offset_counts for *_, mean in seen[:4]]
        assert signals == pytest.approx([signals[3] * dose for dose in (0.0005, 0.002, 0.02, 1)], rel=0.1)


def test_the_profiles_devices_are_used_whatever_the_cfg_has_chosen(tmp_path):
    job = load_job("quickstart", "demo")
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text()
    text = text.replace("Property,Core,Initialize,1", "Device,Piezo,DemoCamera,DStage\nProperty,Core,Initialize,1")
    (tmp_path / "two.cfg").write_text(text.replace("Core,Focus,Z", "Core,Focus,Piezo"))
    job.profile = job.profile.model_copy(update={"config": str(tmp_path / "two.cfg")})
    core = opened(job)
    assert core.getFocusDevice() == "Z"
    stage = job.profile.stage.model_copy(update={"z_device": "XY"})
    job.profile = job.profile.model_copy(update={"stage": stage})
    with pytest.raises(RuntimeError, match=r"stage\.z_device = 'XY' is a device of type XYStage, not Stage"):
        opened(job)


def test_whole_numbers_are_set_without_decimals():
    """MMCore refuses "0.000000" for an integer property."""
    job = load_job("quickstart", "demo")
    source = job.profile.light_source("DAPI")
    off = [{"device": "Excitation", "property": "State", "value": 1.0}]
    source = type(source).model_validate(source.model_dump() | {"switch_off": off})
    job.profile = job.profile.model_copy(update={"light_sources": {"DAPI": source}})
    assert opened(job).getProperty("Excitation", "State") == "1"


def test_sequences_and_live_mode_are_lit_as_well():
    core = opened(load_job("quickstart", "simulated"))
    core.setXYPosition(9500, 9800)
    core.setProperty("LED", "Power", 100)
    core.setExposure(200)
    core.startSequenceAcquisition(3, 0, True)
    while core.isSequenceRunning() or core.getRemainingImageCount() < 3:
        time.sleep(0.01)
    assert min(core.popNextImage().mean() for _ in range(3)) > 1000
    deadline = time.monotonic() + 5
    while core.getShutterOpen() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not core.getShutterOpen()


def test_a_python_camera_behind_a_compiled_shutter_is_lit(tmp_path):
    text = (ROOT / "hardware_configs" / "simulated.cfg").read_text()
    text = text.replace("#py pyDevice,LED", "Device,Demo,DemoCamera,DShutter\n#py pyDevice,LED")
    (tmp_path / "mixed.cfg").write_text(text.replace("#py Property,Core,Shutter,Shutter", "Property,Core,Shutter,Demo"))
    job = load_job("quickstart", "simulated")
    gating = job.profile.gating.model_copy(update={"shutter": "Demo"})
    job.profile = job.profile.model_copy(update={"config": str(tmp_path / "mixed.cfg"), "gating": gating})
    core = opened(job)
    seen = []
    camera = core._pydevices["Camera"]
    snap = type(camera).snap
    type(camera).snap = lambda self, buffer: (seen.append(core.getShutterOpen()), snap(self, buffer))[1]
    try:
        core.snapImage()
    finally:
        type(camera).snap = snap
    assert seen == [True]
    assert not core.getShutterOpen()


def test_long_moves_fit_into_the_timeout():
    job = load_job("quickstart", "simulated")
    assert opened(job).getTimeoutMs() > 1000 * 110_000 / job.profile.stage.xy_um_per_s


STOPPED = {
    "shutter_sticks": ("the shutter Shutter did not open", ""),
    "stage_stops_short": ("the stage is at", ', "amount": 100'),
}


@pytest.mark.parametrize("kind", STOPPED)
def test_no_image_is_taken_where_read_back_differs(kind):
    message, amount = STOPPED[kind]
    job = load_job("quickstart", "simulated")
    core = opened(job)
    core.setProperty("Simulator", "Faults", f'[{{"kind": "{kind}", "times": null{amount}}}]')
    with pytest.raises(RuntimeError, match=message):
        image_site(core, job.profile, job.protocol, 9500, 9800, None)
    assert float(core.getProperty("Simulator", "DeliveredLight_ms")) == 0


def test_the_autofocus_is_tried_again_as_often_as_the_protocol_says():
    job = load_job("quickstart", "simulated")
    core = opened(job)
    core.setProperty("Simulator", "Faults", '[{"kind": "autofocus_fails", "times": 2}]')
    assert len(image_site(core, job.profile, job.protocol, 9500, 9800, None)) == 4
    core.setProperty("Simulator", "Faults", '[{"kind": "autofocus_fails", "times": 3}]')
    with pytest.raises(RuntimeError, match="no focus found"):
        image_site(core, job.profile, job.protocol, 9500, 9800, None)


def test_a_fast_clock_jumps_over_waiting_times():
    job = load_job("quickstart", "simulated")
    core = opened(job)
    start = time.perf_counter()
    for x in (0, 99_000, 0):
        core.setXYPosition(x, 0)
        core.waitForDevice("XY")
    assert time.perf_counter() - start < 5  # it is 10 s of travel


def test_a_microscope_that_needs_no_adapters_looks_for_none(monkeypatch):
    """Else pymmcore-plus logs an error in red where there is no Micro-Manager, and a simulated microscope needs none."""

    def look_for_one():
        raise AssertionError("looked for a Micro-Manager")

    monkeypatch.setattr("pymmcore_plus.core._mmcore_plus.find_micromanager", look_for_one)
    core = opened(load_job("quickstart", "simulated"))
    assert not core.getDeviceAdapterSearchPaths()
