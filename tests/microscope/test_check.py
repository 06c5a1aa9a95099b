from __future__ import annotations

import yaml

from conftest import ROOT, Job, load_job
from scotopic.microscope import check_files, check_hardware, open_microscope
from scotopic.protocol import ImagingProtocol, MicroscopeProfile


def changed(microscope="demo", protocol=None, **profile) -> Job:
    """A job with some keys of the profile or the protocol changed (nested keys by `a__b`)."""
    job = load_job("quickstart", microscope)
    data = job.profile.model_dump(mode="json")
    for key, value in profile.items():
        *outer, last = key.split("__")
        inner = data
        for step in outer:
            inner = inner[step]
        inner[last] = value
    job.profile = MicroscopeProfile.model_validate(data)
    job.protocol = ImagingProtocol.model_validate(job.protocol.model_dump() | (protocol or {}))
    return job


def problems_of(job: Job, out=ROOT) -> list[str]:
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, out)
    prefix = str(ROOT / "hardware_configs")
    return [str(p).replace(prefix + "/", "").replace(prefix + "\\", "") for p in report.problems]


def test_nothing_is_wrong_with_the_shipped_files(job):
    assert problems_of(job) == []


def test_facts_are_stated():
    job = load_job("low_light_96", "simulated")
    facts = dict(check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT).facts)
    assert facts["frames"] == "3,456"
    assert facts["field of view"] == "332.8 x 332.8 um, 0.65 um a pixel"
    assert facts["focus"].startswith("hardware (Autofocus)")
    assert facts["disk"].startswith("1.81 GB raw")
    assert "204.5 ms at full power seen by the camera" in facts["light per site"]


def test_devices_and_presets_that_are_not_in_the_cfg_are_named():
    job = changed(camera__device="Camra", stage__xy_device="XYStage", light_sources__DAPI__preset="DAPY")
    found = problems_of(job)
    assert "demo.yaml: camera.device = 'Camra': no device of this label in demo.cfg; did you mean 'Camera'?" in found
    assert any(line.startswith("demo.yaml: stage.xy_device = 'XYStage'") for line in found)
    assert (
        "demo.yaml: light_sources.DAPI: no preset 'DAPY' in group 'Channel' in demo.cfg; did you mean 'DAPI'?" in found
    )
    assert len(found) == 3


def test_a_channel_that_the_profile_does_not_light_is_told():
    assert any(
        "no light source for channel 'FITC'" in line for line in problems_of(changed(protocol={"channel": "FITC"}))
    )


def test_a_led_that_knows_whole_percent_gets_the_nearest_pair_of_the_same_dose():
    (line,) = problems_of(changed("simulated", light_sources__DAPI__step=1))
    assert "led_percent = 2.5: LED.Power goes from 0 to 100 in steps of 1; the same dose: 5 ms at 2 %" in line


def test_a_led_that_cannot_go_so_low_is_told_what_it_can():
    (line,) = problems_of(changed("simulated", light_sources__DAPI__min=5))
    assert "the same dose: 2 ms at 5 %" in line


def test_positions_outside_the_stage_are_counted():
    found = problems_of(changed(stage__x_um=[0, 9000]))
    assert len(found) == 1
    assert "sites lie outside, for example" in found[0]
    assert "stage.x_um = [0, 9000]" in found[0]


def test_a_pixel_size_that_the_cfg_does_not_know_is_told():
    (line,) = problems_of(changed(camera__pixel_size_um=0.65))
    assert "camera.pixel_size_um = 0.65: demo.cfg knows Res20x 0.5 um" in line
    assert problems_of(changed(camera__pixel_size_um=1.0)) == []  # binning 2


def test_missing_calibration_focus_plane_and_autofocus_are_told():
    assert "plate_calibration is missing" in problems_of(changed(plate_calibration=None))[0]
    plane = {"focus": {"strategy": "plane"}}
    assert "no focus plane is measured" in problems_of(changed(protocol=plane))[0]
    assert "needs stage.autofocus_device" in problems_of(changed(stage__autofocus_device=None))[0]


def test_a_disk_that_is_too_small_is_told():
    (line,) = problems_of(
        changed(
            camera__width_px=20000,
            camera__height_px=20000,
            protocol={"time_lapse": {"count": 900000, "interval_s": 0}, "wells": "B2", "held_out": 0},
        )
    )
    assert "may be needed" in line


def test_light_beyond_the_exposure_and_sites_beyond_the_wall_are_warned_of():
    job = changed("simulated", gating__overhead_ms=15, protocol={"sites": {"rows": 20, "columns": 20}})
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT)
    text = "\n".join(str(w) for w in report.warnings)
    assert "at 0.2% the sample is lit for 19 ms, the image sees 4 ms" in text
    assert "reach beyond the wall of their well (6.4 mm)" in text
    assert ("2%", "4 ms", "Power 100.0", "2.0000%", "8.8372%") in report.levels


def test_too_few_wells_to_learn_from_are_warned_of():
    for wells, count in (("B2:B3", 1), ("B2:B4", 0)):
        job = changed("simulated", protocol={"wells": wells, "held_out": 1})
        report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT)
        assert sum("Only one training well" in str(w) for w in report.warnings) == count


def test_too_few_held_out_wells_for_a_verdict_are_warned_of():
    for held_out, count in ((0, 0), (1, 1), (2, 1), (3, 0)):
        job = changed("simulated", protocol={"wells": "B2:B8", "held_out": held_out})
        report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT)
        assert sum("the report cannot recommend a light level" in str(w) for w in report.warnings) == count


def test_a_cfg_that_is_missing_or_broken_is_told(tmp_path):
    assert "cannot be read" in problems_of(changed(config="none.cfg"))[0]
    broken = tmp_path / "broken.cfg"
    broken.write_text("Device,Camera\n")
    assert "is not a valid configuration" in problems_of(changed(config=str(broken)))[0]


def hardware_problems(job: Job) -> list[str]:
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    try:
        return [str(p) for p in check_hardware(core, job.protocol, job.profile, job.profile_path).problems]
    finally:
        core.unloadAllDevices()


def test_the_hardware_fits_the_shipped_profiles(job):
    assert hardware_problems(job) == []


def test_what_only_the_hardware_knows_is_compared():
    job = changed(camera__width_px=600, light_sources__DAPI__max=20)
    text = "\n".join(hardware_problems(job))
    assert "= 600 x 512: the camera gives 512 x 512" in text
    assert "min and max are 0 and 20, the device allows 0 to 10" in text


def test_the_hardware_is_compared_without_a_move(job):
    core = open_microscope(job.profile, job.profile_path, job.protocol)
    before = core.getXYPosition(), core.getZPosition()
    check_hardware(core, job.protocol, job.profile, job.profile_path)
    assert before == (core.getXYPosition(), core.getZPosition())
    if job.profile.simulator:
        assert float(core.getProperty("Simulator", "DeliveredLight_ms")) == 0


def test_the_template_of_a_real_microscope_has_a_configuration_of_its_own_to_fit():
    path = ROOT / "hardware_configs" / "template_serial_led.yaml"
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["gating"]["how"] == "camera_ttl"


def test_planes_of_a_stack_stay_inside_the_limits_too():
    stack = {"z_stack": {"planes": 201, "step_um": 50}, "focus": {"strategy": "fixed", "z_um": 4990}}
    (line,) = problems_of(changed("simulated", protocol=stack))
    assert "stage.z_um = [0, 5000]: 24 of 24 sites lie outside" in line
    assert "planes up to 5000 um away" in line


def test_what_is_switched_off_must_be_switched_on_by_the_preset():
    off = [
        {"device": "LED", "property": "Voltage", "value": 0},
        {"device": "Objective", "property": "State", "value": 0},
    ]
    (line,) = problems_of(changed(light_sources__DAPI__switch_off=off))
    assert "Objective.State is switched off but never on: set it in the preset Channel: DAPI" in line


def test_the_same_dose_follows_the_measured_curve():
    curve = [
        {"led_percent": 2, "relative_power": 0.01},
        {"led_percent": 3, "relative_power": 0.02},
        {"led_percent": 100, "relative_power": 1},
    ]
    (line,) = problems_of(changed("simulated", light_sources__DAPI__step=1, light_sources__DAPI__dose_curve=curve))
    assert "the same dose: 6 ms at 2 %" in line or "the same dose: 3 ms at 3 %" in line


def test_a_plate_turned_by_a_quarter_needs_a_square_camera():
    turned = {"A1": [0, 0], "A12": [0, 99000], "H1": [63000, 0]}
    limits = {"stage__x_um": [-9000, 80000], "stage__y_um": [-9000, 110000]}
    assert problems_of(changed(plate_calibration=turned, **limits)) == []
    (line,) = problems_of(changed(plate_calibration=turned, camera__width_px=700, **limits))
    assert "turned by a quarter" in line


def test_a_mistyped_focus_height_is_found():
    plane = {"A1": 3012.5, "A12": 3020.1, "H1": 3005.9, "H12": 301.3}
    found = problems_of(changed("simulated", focus_plane=plane, protocol={"focus": {"strategy": "plane"}}))
    assert any("um off the plane through the wells" in line for line in found)


def test_a_configuration_saved_by_mmcore_is_read_with_a_word_on_what_is_not_known(tmp_path):
    text = (ROOT / "hardware_configs" / "demo.cfg").read_text() + "PixelSizeAngle_dxdz,Res20x,0.1\n# µm\n"
    (tmp_path / "saved.cfg").write_bytes(text.encode("cp1252"))
    job = changed(config=str(tmp_path / "saved.cfg"))
    report = check_files(job.protocol, job.protocol_path, job.profile, job.profile_path, ROOT)
    assert report.problems == []
    assert any("PixelSizeAngle_dxdz" in str(w) for w in report.warnings)


def test_a_plan_beyond_the_light_budget_is_told():
    (line,) = problems_of(changed("simulated", protocol={"light_budget_s": 1}))
    assert "light_budget_s = 1: 4.91 s at full power are planned" in line
