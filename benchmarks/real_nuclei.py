"""How well real nuclei are found in the dark by a network that no human has taught.

usage: real_nuclei.py FOLDER [--work DIR] [--minutes 12 | --steps N] [--threads N] [--as-they-are] [--simulator-as-it-is] [--by-hand]
       FOLDER with images/, masks/ and index.csv, whose `split` column says `tune` or `test`; or with images alone,
       of which each fourth is for the test

The images are the specimen of the simulated microscope, one a well: those of `tune` are learned from, by the reference
segmentation's masks alone, those of `test` are held out; the hand masks serve as truth of the report. 8000 photo-electrons
at the 99.5th percentile above background of each field (of all together with --as-they-are, where some fields are three times
dimmer), 6 e- of read noise; without uneven light, drift and bleaching of the simulator's own unless asked for. With
--by-hand the same network is trained once more, on the hand masks of `tune`: what a better teacher would bring. Prints the
report's rows against hand masks.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
import yaml
from machine import machine

from scotopic.nuclei import measure
from scotopic.protocol import ImagingProtocol
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.reference import REFERENCE, finished_frames, read_frame
from scotopic.simulator import Field, make_specimen
from scotopic.simulator.replay import mask_path
from scotopic.store import RunFolder

ROOT = Path(__file__).parent.parent
WELLS = "A1:H12"
PEAK_COUNTS = 16000


def specimen(source: Path, folder: Path, *, as_they_are: bool) -> tuple[int, int, tuple[int, int]]:
    """Copy images and masks so that the names put `tune` first; return how many are of each, and their shape."""
    images = image_files(source / "images" if (source / "images").is_dir() else source)
    index = source / "index.csv"
    if index.exists():
        with index.open(encoding="utf-8") as file:
            split = {row["name"]: row["split"] for row in csv.DictReader(file)}
    else:
        split = {path.stem: "test" if number % 4 == 3 else "tune" for number, path in enumerate(images)}
    counts = {"tune": 0, "test": 0}
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for path in images:
        part, mask = split[path.stem], mask_path(path)
        name = f"{int(part == 'test')}_{path.name}"
        if as_they_are:
            shutil.copyfile(path, folder / "images" / name)
        else:
            iio.imwrite(folder / "images" / name, equally_bright(iio.imread(path)))
        if mask is not None:
            shutil.copyfile(mask, folder / "masks" / name)
        counts[part] += 1
    height, width = iio.imread(next((folder / "images").iterdir())).shape
    return counts["tune"], counts["test"], (height, width)


def image_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in {".png", ".tif", ".tiff"})


def equally_bright(image: np.ndarray) -> np.ndarray:
    """Return an image whose 99.5th percentile lies a fixed number of counts above its background."""
    low, high = np.percentile(image, [1, 99.5])
    return np.clip(np.rint((image - low) * (PEAK_COUNTS / (high - low))), 0, 65535).astype(np.uint16)


def write_job(folder: Path, images: Path, asked: argparse.Namespace) -> tuple[Path, Path]:
    """Write protocol and profile, and return their paths."""
    n_tune, n_test, (height, width) = specimen(asked.folder, images, as_they_are=asked.as_they_are)
    profile = yaml.safe_load((ROOT / "hardware_configs" / "simulated.yaml").read_text(encoding="utf-8"))
    profile["camera"] |= {"height_px": height, "width_px": width}
    profile["simulator"]["specimen"] = {"kind": "images", "folder": str(images)}
    if not asked.as_they_are:
        profile["simulator"]["specimen"]["offset_counts"] = 0
    if not asked.simulator_as_it_is:
        profile["simulator"] |= {"illumination_falloff": 0, "drift_um": 0, "bleaching_per_full_exposure": 0}
    shutil.copyfile(ROOT / "hardware_configs" / "simulated.cfg", folder / "simulated.cfg")
    protocol = yaml.safe_load((ROOT / "protocols" / "low_light_96.yaml").read_text(encoding="utf-8"))
    protocol |= {"name": asked.folder.name, "sites": {"rows": 1, "columns": 1}, "wells": WELLS, "held_out": 0}
    fov_um = (width * 0.65, height * 0.65)
    travel = [site.well for site in ImagingProtocol.model_validate(protocol).sites_in_travel_order(fov_um)]
    wells = travel[: n_tune + n_test]  # images go to wells in the order of travel
    protocol |= {"wells": ", ".join(wells), "held_out": ", ".join(wells[n_tune:])}
    protocol["training"] = {"minutes": asked.minutes} | {
        key: value for key in ("steps", "threads") if (value := getattr(asked, key))
    }
    paths = folder / "protocol.yaml", folder / "microscope.yaml"
    for path, content in zip(paths, (protocol, profile), strict=True):
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return paths


def rows(report: dict[str, Any]) -> None:
    for entry in report["levels"]:
        truth = entry["against"].get("truth")
        if truth is not None:
            print(
                f"{entry['source']:<10} {entry['name']:>6}  F1@0.5 {truth['f1_at_0.5']['value']:.3f}  "
                f"F1@0.7 {truth['f1_at_0.7']['value']:.3f}  mean {truth['mean_f1']['value']:.3f}  "
                f"nuclei {entry['nuclei_count']}"
            )


def teach_by_hand(run: RunFolder) -> None:
    """Put the hand masks in the place of the reference masks of the training wells."""
    protocol, profile = run.read_protocol(), run.read_profile()
    camera, plate = profile.camera, run.plate(protocol, profile)
    setup = SimulatorSetup.of(profile, protocol)
    specimen = make_specimen(setup)
    for key, frames in finished_frames(run).items():
        if key[0] in protocol.held_out_wells:
            continue
        x_um, y_um = setup.placement.to_plate(*next(iter(frames.values())).xy_um)
        truth = specimen.truth(Field(x_um, y_um, setup.width_px, setup.height_px, setup.pixel_size_um))
        bright = frames[protocol.reference.name]
        table = measure(truth.labels, read_frame(run.path, bright), pixel_size_um=camera.pixel_size_um, camera=camera)
        plate.write_labels(*key[:2], REFERENCE, key[2], bright.z, truth.labels.astype(np.uint32))
        run.nuclei.write(REFERENCE, *key, table.assign(level=bright.level, clump=False, debris=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--work", type=Path, help="where specimen and run are kept")
    parser.add_argument("--minutes", type=float, default=12)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--by-hand", action="store_true")
    parser.add_argument("--as-they-are", action="store_true")
    parser.add_argument("--simulator-as-it-is", action="store_true")
    asked = parser.parse_args()
    print(f"# {machine()}")
    with tempfile.TemporaryDirectory() as name:
        folder = asked.work or Path(name)
        folder.mkdir(exist_ok=True)
        protocol, profile = write_job(folder, folder / "specimen", asked)
        out = folder / "RUN"
        command = [sys.executable, "-m", "scotopic", "run", protocol, "--microscope", profile, "--out", out]
        subprocess.run(list(map(str, command)), check=True)
        rows(json.loads((out / "report.json").read_text(encoding="utf-8")))
        if asked.by_hand:
            by_hand = shutil.copytree(out, folder / "BY_HAND", ignore=shutil.ignore_patterns("models"))
            teach_by_hand(RunFolder(by_hand))
            for stage in (["train", by_hand], ["validate", by_hand]):
                subprocess.run([sys.executable, "-m", "scotopic", *map(str, stage)], check=True)
            print("taught by hand masks:")
            rows(json.loads((by_hand / "report.json").read_text(encoding="utf-8")))


if __name__ == "__main__":
    main()
