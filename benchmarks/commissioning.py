"""Calibrates a simulated microscope that is not what its profile says, and holds what was found against the truth.

usage: commissioning.py --work DIR [--plots] [--plate] [--job]

LED with a dead zone and a curvature, shutter that lags, sCMOS with maps, plate turned and mirrored, tilted focus, uneven light. Every
`scotopic calibrate` is run as a user would run it, from a script. `--plots` copies the plots into docs/images. `--plate` acquires the whole plate
of `protocols/low_light_96.yaml` twice, by the nominal and by the calibrated profile (with the settings that `check` proposes), and says what the
light check makes of each (some three minutes each). `--job` runs the whole job of that plate on an ideal microscope and on the calibrated one
(some 25 minutes each), and says whether the figures of the two reports agree within their 95 % intervals.
Limits: gain and read noise within 3 %, doses within 2 % of truth, well centres within 10 um, focus within 1 um, shading within 2 % rms.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from machine import machine
from whole_job import ROOT

from scotopic.nuclei import Illumination
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, Plate, fit_placement, read_model
from scotopic.simulator import CAMERA_NOISE
from scotopic.simulator.optics import illumination

if TYPE_CHECKING:
    from collections.abc import Iterator

PLACES = {"A1": (60_000.0, 5_000.0), "A12": (-38_970.0, 7_420.0), "H1": (61_540.0, 67_981.0)}
TILT, FALLOFF, DEAD, CURVATURE, LAG_MS = (0.4, -0.7), 0.4, 1.5, 0.2, 1.2
FOUND_WITHIN_UM = 3.0
"""How well a person finds the centre of a well, standard deviation along each axis."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--plots", action="store_true")
    parser.add_argument("--plate", action="store_true")
    parser.add_argument("--job", action="store_true")
    asked = parser.parse_args()
    shutil.rmtree(asked.work, ignore_errors=True)
    asked.work.mkdir(parents=True)
    odd = {
        "camera": "scmos",
        "placement": {well: list(at) for well, at in PLACES.items()},
        "tilt_um_per_mm": list(TILT),
        "illumination_falloff": FALLOFF,
        "led_dead_percent": DEAD,
        "led_curvature": CURVATURE,
        "shutter_lag_ms": LAG_MS,
    }
    nominal, measured = (write_profile(asked.work / f"{name}.yaml", odd) for name in ("nominal", "measured"))
    print(machine())
    words = {
        "camera": ["--led-percent", "50"],
        "light": [],
        "plate": [*wells("A1", "A12", "H1", "H12"), "--focus"],
        "illumination": [],
    }
    for what, more in words.items():
        begun = time.perf_counter()
        run("calibrate", what, "--microscope", str(measured), "--yes", *more, quiet=True)
        print(f"calibrate {what}: {time.perf_counter() - begun:.0f} s on the simulator's fast clock")
    for name, value, limit in compared(read_model(measured, MicroscopeProfile)):
        print(f"{name:<52} {value:8.3f}  limit {limit:g}  {'MET' if value <= limit else 'MISSED'}")
    if asked.plots:
        for what in words:
            plot = sorted(asked.work.glob(f"measured.calibration/{what}*/plot.png"))[-1]
            shutil.copyfile(plot, ROOT / "docs" / "images" / f"commissioning_{what}.png")
    protocol, adjusted = protocols(measured)
    if asked.plate:
        # Where the plate lies is known to both: without that, no site would be reached, and nothing said of the light.
        found = yaml.safe_load(measured.read_text(encoding="utf-8"))["plate_calibration"]
        data = yaml.safe_load(nominal.read_text(encoding="utf-8")) | {"plate_calibration": found}
        nominal.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        for name, profile, which in (("nominal", nominal, protocol), ("measured", measured, adjusted)):
            acquire(name, profile, which)
    if asked.job:
        ideal = write_profile(asked.work / "ideal.yaml", {"illumination_falloff": 0, "camera": "scmos"})
        run("calibrate", "camera", "--microscope", str(ideal), "--yes", "--led-percent", "50", quiet=True)
        reports = [job(profile, which) for profile, which in ((ideal, protocol), (measured, adjusted))]
        print("figure: ideal microscope, calibrated one; do they agree within their 95 % intervals?")
        for line in agreement(*reports):
            print(line)


def write_profile(path: Path, simulator: dict[str, object]) -> Path:
    data = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    if "placement" in simulator:  # a mirrored plate takes another part of the stage
        data["stage"] |= {"x_um": [-60_000, 80_000], "y_um": [-20_000, 90_000]}
    data["simulator"] |= simulator
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    shutil.copyfile(ROOT / "hardware_configs" / "simulated.cfg", path.parent / "simulated.cfg")
    return path


def wells(*names: str) -> list[str]:
    plate, rng = Plate.model_validate("96-well"), np.random.default_rng(1)
    true, words = fit_placement(PLACES, plate), []
    for name in names:
        x, y = np.add(true.to_stage(*plate.centre_um(name)), rng.normal(0, FOUND_WITHIN_UM, 2))
        words += ["--at", f"{name}={x:.2f},{y:.2f}"]
    return words


def run(*words: str, quiet: bool = False) -> int:
    out = subprocess.PIPE if quiet else None
    done = subprocess.run(
        [sys.executable, "-m", "scotopic", *words], stdout=out, stderr=subprocess.STDOUT, text=True, check=False
    )
    if quiet and done.returncode:
        raise SystemExit(f"{' '.join(words)}: exit code {done.returncode}\n{done.stdout}")
    return done.returncode


def true_light(percent: float) -> float:
    share = max(percent - DEAD, 0) / (100 - DEAD)
    return share * (1 - 2 * CURVATURE * (1 - share))


def compared(found: MicroscopeProfile) -> Iterator[tuple[str, float, float]]:
    """Yield each figure that was to be found, how far it is off the truth, and how far it may be."""
    true, plate = CAMERA_NOISE["scmos"], Plate.model_validate("96-well")
    for key in ("gain_e_per_count", "read_noise_e"):
        yield f"{key} off, %", 100 * abs(getattr(found.camera, key) / getattr(true, key) - 1), 3
    source = found.light_source("DAPI")
    powers = np.arange(source.min, 100.1, 0.5)
    yield (
        "dose curve off, %, worst of all usable powers",
        max(100 * abs(source.relative_power(p) / true_light(p) - 1) for p in powers),
        2,
    )
    full = found.signal_ms("DAPI", 200, 100) / (200 - LAG_MS)
    short = found.signal_ms("DAPI", 4, 100) / (4 - LAG_MS)
    yield "light of 4 ms behind the slow shutter off, %", 100 * abs(short / full - 1), 2
    really, placed = fit_placement(PLACES, plate), found.placement(plate)
    centres = [plate.centre_um(well) for well in plate.wells]
    yield (
        "well centres off, um, worst",
        max(float(np.hypot(*np.subtract(really.to_stage(*c), placed.to_stage(*c)))) for c in centres),
        10,
    )
    a, b, c = found.focus_plane_on(plate)
    heights = []
    for x_plate, y_plate in centres:
        x, y = really.to_stage(x_plate, y_plate)
        heights.append(abs(a * x + b * y + c - (1200 + TILT[0] * x_plate / 1000 + TILT[1] * y_plate / 1000)))
    yield "focus plane off, um, worst well", max(heights), 1
    shape = found.camera.height_px, found.camera.width_px
    light = Illumination(np.array(source.illumination), shape)
    y, x = np.mgrid[0 : shape[0] : 4, 0 : shape[1] : 4]
    off = light.at(y, x) / illumination(shape, FALLOFF)[::4, ::4] - 1
    yield "shading off, % rms", 100 * float(np.sqrt(np.mean(off**2))), 2


def protocols(measured: Path) -> tuple[Path, Path]:
    """Write the white paper's protocol, and the same with settings that give its doses on the measured microscope."""
    protocol = yaml.safe_load((ROOT / "protocols" / "low_light_96.yaml").read_text(encoding="utf-8"))
    paths = measured.parent / "plate.yaml", measured.parent / "adjusted.yaml"
    paths[0].write_text(yaml.safe_dump(protocol), encoding="utf-8")
    paths[1].write_text(yaml.safe_dump(protocol | {"light_levels": levels_for(measured, paths[0])}), encoding="utf-8")
    return paths


def acquire(name: str, profile: Path, protocol: Path) -> None:
    """Acquire the plate, and print what the light check says of it."""
    out = profile.parent / f"RUN_{name}"
    code = run("acquire", str(protocol), "--microscope", str(profile), "--out", str(out))
    lines = (out / "light.jsonl").read_text(encoding="utf-8").splitlines()
    verdicts = Counter((line["level"], line["verdict"]) for line in map(json.loads, lines))
    print(f"{name} profile: exit code {code}, verdicts {dict(sorted(verdicts.items()))}")


def job(profile: Path, protocol: Path) -> dict[str, Any]:
    """Run the whole job, and return its report."""
    out = profile.parent / f"JOB_{profile.stem}"
    if code := run("run", str(protocol), "--microscope", str(profile), "--out", str(out)):
        raise SystemExit(f"exit code {code}: {out}")
    report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
    return report


def agreement(ideal: dict[str, Any], measured: dict[str, Any]) -> Iterator[str]:
    """Yield each figure of the network's rows in both reports, with intervals, and whether these overlap."""
    rows = [
        {row["name"]: row for row in report["levels"] if row["source"] == "network" and row["measured"]}
        for report in (ideal, measured)
    ]
    for name, there in rows[0].items():
        here = rows[1][name]
        figures = {"G2, %": [(row["g2_percent"], row["confidence_95"].get("g2_percent")) for row in (there, here)]}
        figures["area, um2"] = [
            (row["median_area_um2"], row["confidence_95"].get("median_area_um2")) for row in (there, here)
        ]
        for key in ("count_deviation_percent", "miss_percent", "false_percent", "f1_at_0.5"):
            found = [row["against"]["truth"][key] for row in (there, here)]
            figures[key] = [(each["value"], each["confidence_95"]) for each in found]
        for what, ((one, first), (two, second)) in figures.items():
            known = None not in (one, two, first, second)
            told = (
                "agree"
                if known and first[0] <= second[1] and second[0] <= first[1]
                else "DIFFER"
                if known
                else "unknown"
            )
            yield f"{name:>6} {what:<26} {one} {first}, {two} {second}: {told}"


def levels_for(profile_path: Path, protocol_path: Path) -> list[dict[str, object]]:
    """Return the protocol's light levels with exposures and powers that give their nominal doses on the measured microscope."""
    profile, protocol = read_model(profile_path, MicroscopeProfile), read_model(protocol_path, ImagingProtocol)
    full = profile.signal_ms("DAPI", protocol.reference.exposure_ms, protocol.reference.led_percent)
    levels = []
    for level in protocol.light_levels:
        wanted = protocol.relative_dose(level) * full
        powers = np.arange(profile.light_source("DAPI").min, 100.1, 0.5)
        doses = np.array([profile.signal_ms("DAPI", level.exposure_ms, power) for power in powers])
        power = float(powers[np.abs(doses - wanted).argmin()])
        exposure = wanted / profile.light_source("DAPI").relative_power(power) + profile.gating.lag_ms
        levels.append(level.model_dump(mode="json") | {"exposure_ms": round(exposure, 3), "led_percent": power})
    return levels


if __name__ == "__main__":
    main()
