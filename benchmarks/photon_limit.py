"""The best recall that photons allow on real fields: the bound behind the grey line in the report's light figure.

usage: photon_limit.py FOLDER [--peak-e 8000] [--read-noise-e 6] [--split test] [--blur-px 1.3]
       FOLDER with images/, masks/ and index.csv, whose `split` column names the fields

Each field is scaled so that its 99.5th percentile above the first one has `peak-e` photo-electrons at full light. Sizes and
intensities are those of the hand masks. Neighbours do not count in the bound. A nucleus that the border of the image cuts
counts as a disc of the area that is left.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np
from machine import machine

from scotopic.nuclei import THRESHOLDS
from scotopic.nuclei.photon_limit import BLUR_PX, photon_limit
from scotopic.simulator.replay import mask_path

if TYPE_CHECKING:
    from numpy.typing import NDArray

DOSES = (1, 0.02, 0.002, 0.0005)


def nuclei_of(image_path: Path, peak_e: float) -> NDArray[np.float64]:
    """Return area, mean intensity above background and background of each nucleus of a field, shape (3, n)."""
    image = iio.imread(image_path).astype(float)
    path = mask_path(image_path)
    if path is None:
        raise SystemExit(f"no mask for {image_path}")
    mask = iio.imread(path)
    low, high = np.percentile(image, (1, 99.5))
    electrons = (image - low) / (high - low) * peak_e
    background = np.median(electrons[mask == 0])
    area = np.bincount(mask.ravel())
    light = np.bincount(mask.ravel(), electrons.ravel())
    label = np.flatnonzero(area)[1:]
    return np.array([area[label], light[label] / area[label] - background, np.full(label.size, background)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peak-e", type=float, default=8000)
    parser.add_argument("--read-noise-e", type=float, default=6)
    parser.add_argument("--split", default="test")
    parser.add_argument("--blur-px", type=float, default=BLUR_PX)
    asked = parser.parse_args()
    with (asked.folder / "index.csv").open(encoding="utf-8") as file:
        names = {row["name"] for row in csv.DictReader(file) if row["split"] == asked.split}
    paths = [path for path in sorted((asked.folder / "images").iterdir()) if path.stem in names]
    area, mean, background = np.hstack([nuclei_of(path, asked.peak_e) for path in paths])
    print(f"# {machine()}")
    print(f"# {asked.peak_e:g} e- at full light, read noise {asked.read_noise_e:g} e-, blur {asked.blur_px:g} px")
    print(
        f"{asked.folder.name}, split {asked.split}: {len(paths)} fields, {area.size} nuclei, medians: "
        f"area {np.median(area):.0f} px, {np.median(mean):.0f} e- above {np.median(background):.0f} e-"
    )
    print("   dose   recall at IoU 0.5    0.7    mean over 0.5 to 0.95")
    for dose in DOSES:
        start = time.perf_counter()
        best = photon_limit(
            area, mean, background, asked.read_noise_e, dose, blur_px=asked.blur_px, thresholds=THRESHOLDS
        ).mean(axis=1)
        took = time.perf_counter() - start
        at_half, at_seven = (best[THRESHOLDS.index(threshold)] for threshold in (0.5, 0.7))
        print(f"{dose:>7.2%}   {at_half:>17.3f}  {at_seven:.3f}  {best.mean():.3f}   ({took:.2f} s)")


if __name__ == "__main__":
    main()
