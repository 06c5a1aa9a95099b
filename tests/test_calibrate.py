"""Commissioning: what is measured of a microscope is what the simulator was told to be."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

import scotopic
from conftest import ROOT, acquired, load_job, rewrite_json
from lasting import STATE
from scotopic.cli import app
from scotopic.microscope import check_files
from scotopic.nuclei import Illumination
from scotopic.photons import CameraMaps, CannotTellError, Pair, Shot, camera_figures, light_figures
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, Plate, ProblemsError, fit_placement, read_model
from scotopic.reference import read_corrected, read_frame, write_tables
from scotopic.simulator.cameras import NOISE, make_sensor
from scotopic.simulator.optics import illumination
from scotopic.store import RunFolder
from scotopic.workflow.profile_file import Measured, edit_profile


@pytest.fixture
def profile(tmp_path):
    """A simulated microscope that is not what its profile says, as real ones are not."""
    path = tmp_path / "odd.yaml"
    text = (ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8")
    odd = "  led_dead_percent: 1.5\n  led_curvature: 0.2\n  shutter_lag_ms: 1.2\n"
    path.write_text(text.replace("camera: ccd ", "camera: scmos ") + odd, encoding="utf-8")
    shutil.copy(ROOT / "hardware_configs" / "simulated.cfg", tmp_path)
    return path


def calibrate(*words):
    result = CliRunner().invoke(app, ["calibrate", *map(str, words), "--yes"])
    assert result.exit_code == 0, result.output
    return result.output


def true_light(percent):
    share = np.maximum(percent - 1.5, 0) / 98.5
    return share * (1 - 0.4 * (1 - share))


def test_the_camera_is_found(profile):
    told = calibrate("camera", "--microscope", profile, "--led-percent", 50)
    found, true = read_model(profile, MicroscopeProfile).camera, NOISE["scmos"]
    assert found.gain_e_per_count == pytest.approx(true.gain_e_per_count, rel=0.03)
    assert found.read_noise_e == pytest.approx(true.read_noise_e, rel=0.03)
    assert found.offset_counts == pytest.approx(true.offset_counts, abs=0.2)
    assert found.saturation_counts == 65535
    assert "camera.gain_e_per_count: 0.8 before, 0.46" in told
    assert "hot_pixels             26" in told
    record = next(profile.parent.glob("odd.calibration/camera_*"))
    assert {path.name for path in record.iterdir()} == {"maps.npz", "plot.png", "record.json"}
    maps, sensor = CameraMaps.load(profile.parent / found.maps), make_sensor("scmos", (512, 512), 1)
    good = ~maps.hot
    assert np.corrcoef(maps.offset_counts[good], sensor.offset_counts[good])[0, 1] > 0.98
    assert np.corrcoef(1 / maps.response[good], sensor.gain_e_per_count[good])[0, 1] > 0.98
    assert np.median(maps.read_noise_e) == pytest.approx(1.6, rel=0.03)
    even = sensor.expose(np.full((512, 512), 20_000, np.float32), 1.0, np.random.default_rng(0))
    corrected = maps.corrected(even, found.noise)
    by_noise = np.sqrt(20_000) / true.gain_e_per_count
    assert even[good].std() > 2.5 * by_noise
    assert corrected[good].std() == pytest.approx(by_noise, rel=0.1)
    values = json.loads((record / "record.json").read_text(encoding="utf-8"))
    assert values["before"]["camera.gain_e_per_count"] == 0.8
    assert values["values"]["nonlinearity_percent"] < 1


def test_pixels_that_are_alike_get_no_maps(askew):
    told = calibrate("camera", "--microscope", askew)
    assert read_model(askew, MicroscopeProfile).camera.maps is None
    assert "pixels differ" not in told
    assert not list(askew.parent.glob("*.calibration/*/maps.npz"))


def test_what_is_learned_from_has_equal_pixels(profile, tmp_path):
    calibrate("camera", "--microscope", profile, "--led-percent", 50)
    calibrate("light", "--microscope", profile)
    job = load_job("quickstart", "simulated")
    job.protocol = ImagingProtocol.model_validate(
        job.protocol.model_dump() | {"wells": "B2:B3", "held_out": 1, "sites": {"rows": 1, "columns": 1}}
    )
    job.profile, job.profile_path = read_model(profile, MicroscopeProfile), profile
    run, _ = acquired(job, tmp_path / "run")
    record = next(r for r in run.ledger.read() if r.level == "0.05%")
    raw, even = read_frame(run.path, record), read_corrected(run.path, record)
    maps = run.camera_maps()
    bright = read_frame(
        run.path, next(r for r in run.ledger.read() if r.level == "100%" and r.site_key == record.site_key)
    )
    dark = bright < np.percentile(bright, 60)
    assert np.corrcoef(raw[dark], maps.offset_counts[dark])[0, 1] > 0.3
    assert abs(np.corrcoef(even[dark], maps.offset_counts[dark])[0, 1]) < 0.1
    assert not np.isin(even[maps.hot], raw[maps.hot].max()).any()
    (run.path / "camera_maps.npz").write_bytes(b"no maps")
    with pytest.raises(ProblemsError, match=r"camera_maps\.npz: is damaged"):
        run.camera_maps()


def test_maps_that_are_not_there_are_told_before_anything_moves(profile, tmp_path):
    calibrate("camera", "--microscope", profile, "--led-percent", 50)
    next(profile.parent.glob("*.calibration/*/maps.npz")).unlink()
    words = [str(ROOT / "protocols" / "quickstart.yaml"), "--microscope", str(profile), "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(app, ["acquire", *words])
    assert result.exit_code == 2
    assert "no such file" in result.output


def test_the_light_is_found_and_doses_are_the_measured_ones(profile):
    calibrate("light", "--microscope", profile)
    found = read_model(profile, MicroscopeProfile)
    source = found.light_source("DAPI")
    for percent in (2, 2.5, 3.5, 6, 10, 12.5, 37, 75, 100):
        assert source.relative_power(percent) == pytest.approx(float(true_light(percent)), rel=0.02), percent
    assert source.min == 2
    assert found.gating.lag_ms == pytest.approx(1.2, abs=0.05)
    assert found.signal_ms("DAPI", 4, 10) == pytest.approx(2.8 * float(true_light(10)), rel=0.03)
    protocol = ImagingProtocol.white_paper("DAPI", "A1")
    report = check_files(protocol, ROOT / "protocols" / "low_light_96.yaml", found, profile, profile.parent)
    warned = [str(warning) for warning in report.warnings if "of its nominal" in str(warning)]
    assert len(warned) == 3
    assert any("light_levels 0.2%: gives 0.077% of full light as measured, -61 %" in each for each in warned)
    proposal = next(each for each in warned if "0.2%" in each).split("; ")[-1].split()
    dose = found.signal_ms("DAPI", float(proposal[0]), float(proposal[3])) / found.signal_ms("DAPI", 200, 100)
    assert dose == pytest.approx(0.002, rel=0.1)
    facts = dict(report.facts)
    assert facts["calibration, light of DAPI"].startswith("measured 20")
    assert facts["calibration, camera"].startswith("not measured")


def test_a_light_level_without_light_is_refused_and_doses_are_of_the_measured_full_light(profile):
    calibrate("light", "--microscope", profile)
    found = read_model(profile, MicroscopeProfile)
    job = load_job("quickstart", "simulated")
    levels = [
        {"name": "half", "exposure_ms": 200, "led_percent": 50, "role": "reference"},
        {"name": "short", "exposure_ms": 1, "led_percent": 50},
        {"name": "dead", "exposure_ms": 4, "led_percent": 1},
        {"name": "dim", "exposure_ms": 20, "led_percent": 50},
    ]
    protocol = ImagingProtocol.model_validate(
        job.protocol.model_dump() | {"light_levels": levels, "wells": "B2:B3", "held_out": 1}
    )
    report = check_files(protocol, job.protocol_path, found, profile, profile.parent)
    told = "\n".join(map(str, report.problems))
    assert "light_levels short: 1 ms at 50 % give no light" in told
    assert "light_levels dead: led_percent = 1" in told
    job.profile, job.profile_path = found, profile
    job.protocol = protocol.model_copy(update={"light_levels": (protocol.level("half"), protocol.level("dim"))})
    run, _ = acquired(job, profile.parent / "run")
    site = next(scotopic.open_run(run.path).sites())
    assert site.dose("half") == pytest.approx(1, rel=1e-3), "the LED gives less than half of its light at 50 %"
    assert site.dose("dim") == pytest.approx(18.8 / 198.8, rel=0.01)


def test_a_light_is_found_the_same_again(profile):
    calibrate("light", "--microscope", profile)
    first = read_model(profile, MicroscopeProfile).light_source("DAPI")
    calibrate("light", "--microscope", profile)
    again = read_model(profile, MicroscopeProfile).light_source("DAPI")
    assert again.min == first.min == 2, "powers below the profile's are tried too, and not raised to it"
    for one, other in zip(first.dose_curve, again.dose_curve, strict=True):
        assert other.relative_power == pytest.approx(one.relative_power, abs=2e-3)


def test_a_kill_during_a_calibration_leaves_no_light_on(tmp_path, monkeypatch):
    if os.name == "nt":
        pytest.skip("Windows has no SIGTERM that a process can catch")
    text = (ROOT / "hardware_configs" / "simulated.cfg").read_text(encoding="utf-8")
    for label, module in {"LED": "lasting,LastingLED", "Shutter": "lasting,LastingShutter"}.items():
        line = next(each for each in text.splitlines() if each.startswith(f"#py pyDevice,{label},"))
        text = text.replace(line, f"#py pyDevice,{label},{module}")
    (tmp_path / "simulated.cfg").write_text(text, encoding="utf-8")
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    data["simulator"] |= {"clock": "real"}
    (tmp_path / "lasting.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    led = tmp_path / "power.txt"
    monkeypatch.setenv(STATE, str(led))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))
    words = ["calibrate", "light", "--channel", "DAPI", "--microscope", str(tmp_path / "lasting.yaml"), "--yes"]
    process = subprocess.Popen([sys.executable, "-m", "scotopic", *words], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (led.exists() and float(led.read_text(encoding="utf-8") or 0) > 0):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.002)
    process.terminate()
    assert process.wait() == 130
    assert float(led.read_text(encoding="utf-8")) == 0


def test_a_light_that_settles_slowly_is_waited_for(askew):
    data = yaml.safe_load(askew.read_text(encoding="utf-8"))
    data["simulator"] |= {"led_settle_ms": 75, "clock": "real", "peak_e": 80_000}
    askew.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    told = calibrate("light", "--microscope", askew)
    assert "ms after a new power, to 1 %" in told
    # A slow computer waits in other ways too, and needs to be told less.
    assert read_model(askew, MicroscopeProfile).light_source("DAPI").settle_ms in {20, 50, 100}


def test_what_was_measured_passes_the_check_of_the_images(profile, tmp_path):
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
    protocol |= {"wells": "B2:B3", "held_out": 1, "sites": {"rows": 1, "columns": 2}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(protocol), encoding="utf-8")

    def verdicts(out):
        result = CliRunner().invoke(app, ["acquire", str(path), "--microscope", str(profile), "--out", str(out)])
        lines = [json.loads(line) for line in (out / "light.jsonl").read_text(encoding="utf-8").splitlines()]
        return result, {line["level"]: line["verdict"] for line in lines}

    _, nominal = verdicts(tmp_path / "nominal")
    assert "wrong" in nominal.values(), "a light that is not what the profile says is caught"
    calibrate("camera", "--microscope", profile, "--led-percent", 50)
    calibrate("light", "--microscope", profile)
    result, measured = verdicts(tmp_path / "measured")
    assert result.exit_code == 0, result.output
    assert "wrong" not in measured.values()


def test_a_profile_keeps_what_its_user_wrote(profile):
    before = profile.read_text(encoding="utf-8")
    calibrate("camera", "--microscope", profile, "--led-percent", 50)
    calibrate("camera", "--microscope", profile, "--led-percent", 50)
    after = profile.read_text(encoding="utf-8")
    for line in before.splitlines():
        if line.lstrip().startswith("#"):
            assert line in after.splitlines(), line
    changed = [line for line in after.splitlines() if line not in before.splitlines() and line.startswith("  ")]
    assert changed[0].startswith("  offset_counts: 100")
    assert "# measured 20" in changed[0]
    assert changed[0].count("measured") == 1, "the second measurement takes the place of the first"
    assert "\n\nlight_sources:" in after
    assert read_model(profile, MicroscopeProfile).calibrations.camera.before["camera.gain_e_per_count"] < 0.5


def test_a_value_that_is_no_profile_leaves_it_as_it_was(profile):
    before = profile.read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="gain_e_per_count"):
        edit_profile(
            profile,
            Measured("camera", None, {("camera", "gain_e_per_count"): -1.0}, {}, {}),
            "2026-01-01T00:00:00+00:00",
            "x",
        )
    assert profile.read_text(encoding="utf-8") == before
    assert not list(profile.parent.glob(".*partial"))


@pytest.mark.parametrize(
    ("change", "words", "told"),
    [
        ("  peak_e: 0.01\n", ("camera",), "hardly any light at 1000 ms and 100 % power"),
        ("  peak_e: 100000000\n", ("camera",), "saturated at 4 ms and 100 % power: less power"),
        ("  peak_e: 0.01\n", ("light",), "hardly any light at 1000 ms and 100 % power"),
        ("", ("light", "--channel", "GFP"), "no light source for channel 'GFP'"),
        ("  bleaching_per_full_exposure: 0.2\n", ("light",), "a slide that bleaches less"),
    ],
)
def test_a_wrong_step_is_told_and_changes_nothing(profile, change, words, told):
    with profile.open("a", encoding="utf-8") as file:
        file.write(change)
    before = profile.read_text(encoding="utf-8")
    result = CliRunner().invoke(app, ["calibrate", *words, "--microscope", str(profile), "--yes"])
    assert result.exit_code == 2, result.output
    assert told in result.output.replace("\n", " ")
    assert profile.read_text(encoding="utf-8") == before
    assert not list(profile.parent.glob("*.calibration"))
    assert words == ("light", "--channel", "GFP") or "light given to what lies there" in result.output


def test_who_does_not_want_the_stage_to_move_says_so(askew):
    before = askew.read_text(encoding="utf-8")
    words = ["calibrate", "plate", "--microscope", str(askew), *wells_at("A1", "A12", "H1")]
    result = CliRunner().invoke(app, words, input="n\n")
    assert result.exit_code == 2
    assert "stopped before the move to H12" in result.output.replace("\n", " ")
    assert askew.read_text(encoding="utf-8") == before


def test_who_says_no_is_not_measured(profile):
    result = CliRunner().invoke(app, ["calibrate", "camera", "--microscope", str(profile)], input="n\n")
    assert result.exit_code == 1
    assert "Put an even fluorescent slide" in result.output
    assert "light given" not in result.output


@pytest.mark.e2e
def test_the_demo_camera_says_what_it_cannot_tell(tmp_path):
    for name in ("demo.yaml", "demo.cfg"):
        shutil.copy(ROOT / "hardware_configs" / name, tmp_path)
    before = (tmp_path / "demo.yaml").read_text(encoding="utf-8")
    for what in ("camera", "light"):
        result = CliRunner().invoke(app, ["calibrate", what, "--microscope", str(tmp_path / "demo.yaml"), "--yes"])
        assert result.exit_code == 2, result.output
        assert "the profile is as it was" in result.output.replace("\n", " ")
    assert (tmp_path / "demo.yaml").read_text(encoding="utf-8") == before


def test_images_that_move_between_the_two_of_a_pair_determine_nothing():
    rng, camera = np.random.default_rng(0), NOISE["ccd"]
    scene = np.zeros((256, 256), np.float32)
    scene[::16] = 1
    scene += np.roll(scene, 1, 0)

    def pair(light, shift=0):
        return Pair(
            float(light),
            camera.expose(100 * scene * light + light, rng),
            camera.expose(100 * np.roll(scene, shift, 0) * light + light, rng),
        )

    darks = [pair(0), Pair(100.0, *(camera.expose(np.zeros((256, 256), np.float32), rng) for _ in range(2)))]
    lights = (1, 4, 16, 64, 256)
    assert camera_figures(darks, [pair(light) for light in lights]).gain_e_per_count == pytest.approx(0.8, rel=0.03)
    with pytest.raises(CannotTellError, match="more than photon noise"):
        camera_figures(darks, [pair(light, shift=1) for light in lights])


def test_a_fading_light_is_not_taken_for_a_bent_one():
    order = [100, 50, 10, 100, 10, 50, 100, 50, 10, 100]
    fading = np.exp(-0.01 * np.arange(len(order)))
    shots = [Shot(float(p), 10.0, 1000 * p / 100 * f) for p, f in zip(order, fading, strict=True)]
    times = [Shot(50.0, t, 50 * (t - 0.5)) for t in (1.0, 2.0, 5.0, 20.0, 100.0)]
    settling = [
        (0.0, 90.0),
        (5.0, 97.0),
        (10.0, 99.5),
        (50.0, 100.0),
        (0.0, 91.0),
        (5.0, 98.0),
        (10.0, 99.6),
        (50.0, 99.9),
    ]
    found = light_figures(shots, times, settling)
    assert found.settle_ms == 10
    assert [round(value, 3) for _, value, _ in found.response] == [0.1, 0.5, 1.0]
    assert found.drift_percent == pytest.approx(-8.6, abs=0.1)
    assert found.lag_ms == pytest.approx(0.5, abs=0.01)


TURNED = {"A1": (60_000.0, 5_000.0), "A12": (-38_970.0, 7_420.0), "H1": (61_540.0, 67_981.0)}
"""A plate that is turned a little and mirrored, as on a stage whose x runs backwards."""


@pytest.fixture
def askew(tmp_path):
    """A simulated microscope with a plate that lies askew, tilted, under uneven light; its profile does not know."""
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    data["stage"] |= {"x_um": [-60_000, 80_000], "y_um": [-20_000, 80_000]}
    data["simulator"] |= {
        "placement": {well: list(at) for well, at in TURNED.items()},
        "tilt_um_per_mm": [0.4, -0.7],
        "illumination_falloff": 0.4,
    }
    path = tmp_path / "askew.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    shutil.copy(ROOT / "hardware_configs" / "simulated.cfg", tmp_path)
    return path


def wells_at(*names, off=3.0):
    """Where wells really are, as a person finds them: some micrometres off."""
    true = fit_placement(TURNED, Plate.model_validate("96-well"))
    rng = np.random.default_rng(5)
    words = []
    for name in names:
        x, y = true.to_stage(*Plate.model_validate("96-well").centre_um(name)) + rng.normal(0, off, 2)
        words += ["--at", f"{name}={x:.2f},{y:.2f}"]
    return words


def test_the_plate_and_its_focus_are_found(askew):
    told = calibrate("plate", "--microscope", askew, *wells_at("A1", "A12", "H1", "H12"), "--focus")
    found, plate = read_model(askew, MicroscopeProfile), Plate.model_validate("96-well")
    true, placement = fit_placement(TURNED, plate), found.placement(plate)
    off = [
        np.subtract(placement.to_stage(*plate.centre_um(w)), true.to_stage(*plate.centre_um(w))) for w in plate.wells
    ]
    assert np.hypot(*np.transpose(off)).max() < 10
    assert "mirrored               1" in told
    a, b, c = found.focus_plane_on(plate)
    for well in plate.wells:
        x, y = true.to_stage(*plate.centre_um(well))
        px, py = plate.centre_um(well)
        assert a * x + b * y + c == pytest.approx(1200 + 0.4 * px / 1000 - 0.7 * py / 1000, abs=1), well
    assert found.calibrations.plate.spread["focus_um"] < 0.5
    facts = dict(found.calibration_facts(["DAPI"]))
    assert facts["place of the plate"].startswith("measured 20")


def test_the_stage_goes_to_a_well_only_where_the_limits_let_it(askew):
    data = yaml.safe_load(askew.read_text(encoding="utf-8"))
    data["stage"]["x_um"] = [-30_000, 80_000]  # H12 would be at -37,430
    askew.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    before = askew.read_text(encoding="utf-8")
    words = ["--well", "A1", "--well", "A6", "--well", "H1", *wells_at("A1", "A6", "H1")]
    result = CliRunner().invoke(app, ["calibrate", "plate", "--microscope", str(askew), *words, "--yes"])
    assert result.exit_code == 2, result.output
    assert "outside stage.x_um = [-30000, 80000]" in result.output.replace("\n", " ")
    assert askew.read_text(encoding="utf-8") == before


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--at", "A1=0,0", "--at", "A12=99000,0", "--at", "H1=0,63000", "--at", "H12=99000,60000"], "outside stage"),
        (["--at", "A1=0"], "allowed: WELL=X,Y"),
        (["--plate", "95-well"], "--plate: no plate of this name is known"),
        (["--well", "Z9"], "Z9"),
        ([], "allowed: 0.98 to 1.02|do not lie on one line"),
    ],
)
def test_a_plate_that_does_not_fit_is_told(askew, words, told):
    before = askew.read_text(encoding="utf-8")
    result = CliRunner().invoke(app, ["calibrate", "plate", "--microscope", str(askew), *words, "--yes"])
    assert result.exit_code == 2, result.output
    assert any(each in result.output.replace("\n", " ") for each in told.split("|")), result.output
    assert askew.read_text(encoding="utf-8") == before


def test_a_well_that_was_mistaken_for_another_is_found_on_the_fourth(askew):
    words = wells_at("A1", "A12", "H1", "H11")
    words[-1] = words[-1].replace("H11", "H12")
    result = CliRunner().invoke(app, ["calibrate", "plate", "--microscope", str(askew), *words, "--yes"])
    assert result.exit_code == 2
    assert "um from where A1, A12, H1 put it (allowed: 500)" in result.output.replace("\n", " ")


def test_a_user_drives_types_and_takes_edges(askew, monkeypatch):
    """Three points of the edge of each well, typed as on a computer far from the microscope."""
    true, plate = fit_placement(TURNED, Plate.model_validate("96-well")), Plate.model_validate("96-well")
    radius = 500 * plate.well_size_mm[0]
    lines = []
    for well in ("A1", "A12", "H1"):
        x, y = true.to_stage(*plate.centre_um(well))
        lines += [f"{x + radius * np.cos(angle):.1f} {y + radius * np.sin(angle):.1f}" for angle in (0.3, 2.4, 4.4)]
    lines += ["", ""]  # it may go to H12, and is right there
    result = CliRunner().invoke(
        app, ["calibrate", "plate", "--microscope", str(askew), "--edges"], input="\n".join(lines) + "\n"
    )
    assert result.exit_code == 0, result.output
    assert "Drive to a point of the edge of A1 (1 of 3)" in result.output
    assert "in steps of 5 mm" in result.output
    found = read_model(askew, MicroscopeProfile).plate_calibration
    assert found["A12"] == pytest.approx(TURNED["A12"], abs=1)


def test_the_illumination_is_found_on_a_slide_and_from_a_plate(askew, tmp_path):
    def off(profile):
        light = Illumination(np.array(profile.light_source("DAPI").illumination), (512, 512))
        y, x = np.mgrid[0:512:4, 0:512:4]
        return float(np.sqrt(np.mean((light.at(y, x) / illumination((512, 512), 0.4)[::4, ::4] - 1) ** 2)))

    calibrate("illumination", "--microscope", askew)
    assert off(read_model(askew, MicroscopeProfile)) < 0.01
    calibrate("plate", "--microscope", askew, *wells_at("A1", "A12", "H1", "H12"), "--focus")
    protocol = yaml.safe_load((ROOT / "protocols" / "quickstart.yaml").read_text(encoding="utf-8"))
    protocol |= {"wells": "B2:B8", "held_out": 1, "sites": {"rows": 2, "columns": 2}}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(protocol), encoding="utf-8")
    result = CliRunner().invoke(app, ["acquire", str(path), "--microscope", str(askew), "--out", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    before = askew.read_text(encoding="utf-8")
    words = ["--microscope", str(askew), "--run", str(tmp_path / "run"), "--yes"]
    few = CliRunner().invoke(app, ["calibrate", "illumination", *words])
    assert few.exit_code == 2, few.output
    assert "tell the light to" in few.output
    assert askew.read_text(encoding="utf-8") == before
    few = CliRunner().invoke(app, ["calibrate", "illumination", *words, "--channel", "Brightfield"])
    assert few.exit_code == 2
    assert "has no nuclei stained in Brightfield" in few.output.replace("\n", " ")


def test_a_measured_illumination_is_what_nuclei_are_divided_by(segmented_plate, tmp_path):
    run = RunFolder(shutil.copytree(segmented_plate, tmp_path / "run"))
    job = json.loads((run.path / "job.json").read_text(encoding="utf-8"))
    slope = [0.0, 0.0, 0.3, 0.0, 0.0, 0.0]  # the logarithm of the light rises with x
    job["profile"]["light_sources"]["DAPI"]["illumination"] = slope
    rewrite_json(run.path / "job.json", job)
    run = RunFolder(run.path)
    assert write_tables(run) == ""
    table = pd.read_parquet(run.path / "nuclei" / "reference.parquet")
    expected = Illumination(np.array(slope), (512, 512)).at(table["y_px"], table["x_px"])
    assert table["illumination"].to_numpy() == pytest.approx(expected)
