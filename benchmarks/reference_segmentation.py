"""How good and how fast the reference segmentation is: real fields with hand masks, and the pinned specimen's truth.

usage: reference_segmentation.py [--split SPLIT] [--edge EDGE] [--picture PNG] [FOLDER ...]
       each folder with images/, masks/ and index.csv, whose `split` column names the fields (default: test)

One set of parameters for all, the diameter estimated from each image; beside it the naive segmentation (Otsu, distance
transform, watershed) of the same fields. One core. The picture shows the field of each set with the lowest F1.
"""

from __future__ import annotations

import argparse
import csv
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import pandas as pd
from machine import machine
from naive import naive_segmentation
from numpy.typing import NDArray
from scipy.ndimage import minimum_filter

from scotopic.nuclei import estimate_illumination, matching, measure, pooled, reference_segmentation
from scotopic.pictures import stretched
from scotopic.protocol import SegmentationSettings, SyntheticSpecimenSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument, SyntheticSpecimen
from scotopic.simulator.replay import mask_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_PICTURE_PX = 480
Field = tuple[NDArray[Any], NDArray[Any]]


def worst(fields: list[Field], settings: SegmentationSettings) -> NDArray[np.uint8]:
    """Return a piece of the field that fares worst: in green what is true, in red what is found, in yellow both."""
    found = [reference_segmentation(image, settings=settings) for image, _ in fields]
    f1 = [matching(mask, labels).at(0.5).f1 for (_, mask), labels in zip(fields, found, strict=True)]
    (image, mask), labels = fields[int(np.argmin(f1))], found[int(np.argmin(f1))]
    top, left = ((n - _PICTURE_PX) // 2 for n in image.shape)
    piece = np.s_[top : top + _PICTURE_PX, left : left + _PICTURE_PX]
    picture = np.repeat(stretched(image[piece], 0.5, 99.8)[..., None], 3, axis=2) // 2
    for channel, contours in ((1, mask[piece]), (0, labels[piece])):
        inner = (minimum_filter(contours, 3) != contours) & (contours > 0)
        picture[inner] = picture[inner] // 3
        picture[inner, channel] = 255
    both = (minimum_filter(mask[piece], 3) != mask[piece]) & (minimum_filter(labels[piece], 3) != labels[piece])
    picture[both & (mask[piece] > 0) & (labels[piece] > 0)] = (255, 255, 0)
    return picture


def report(name: str, fields: Iterable[Field], settings: SegmentationSettings) -> None:
    fields = list(fields)
    segmenters: tuple[tuple[str, Callable[[NDArray[Any]], NDArray[Any]]], ...] = (
        ("reference", partial(reference_segmentation, settings=settings)),
        ("naive", naive_segmentation),
    )
    print(f"{name}: {len(fields)} fields")
    for segmenter, segment in segmenters:
        begun = time.perf_counter()
        labels = [segment(image) for image, _ in fields]
        segmented_s = time.perf_counter() - begun
        for (image, _), found in zip(fields, labels, strict=True):
            measure(found, image)
        measured_s = time.perf_counter() - begun - segmented_s
        all_fields = pooled(matching(mask, found) for (_, mask), found in zip(fields, labels, strict=True))
        at = all_fields.at(0.5)
        megapixels = sum(image.size for image, _ in fields) / 1e6
        print(
            f"  {segmenter:<10} F1@0.5 {at.f1:.3f}  F1@0.7 {all_fields.at(0.7).f1:.3f}  mean F1 {all_fields.mean_f1:.3f}  "
            f"count {at.n_pred} of {at.n_true} ({at.count_bias:+.1%})  splits {all_fields.splits}  "
            f"merges {all_fields.merges}  area {all_fields.area_bias:+.1%}  "
            f"{segmented_s / megapixels:.2f} + {measured_s / megapixels:.2f} s/Mpx"
        )


def real(folder: Path, split: str) -> Iterable[Field]:
    with (folder / "index.csv").open(encoding="utf-8") as file:
        names = {row["name"] for row in csv.DictReader(file) if row["split"] == split}
    for path in sorted((folder / "images").iterdir()):
        mask = mask_path(path)
        if path.stem in names and mask is not None:
            yield iio.imread(path), iio.imread(mask)


def simulated(settings: SegmentationSettings) -> tuple[str, list[Field], NDArray[Any]]:
    """Return 24 fields of the pinned specimen at full light, and pairs of true DNA and measured intensity."""
    setup = SimulatorSetup()
    scope = Instrument(setup)
    specimen = SyntheticSpecimen(SyntheticSpecimenSettings(), setup.plate)
    fields, tables = [], []
    for well in list(setup.plate.wells)[::4]:
        scope.move_xy(*setup.placement.to_stage(*setup.plate.centre_um(well)))
        scope.stage_is_moving()
        truth = specimen.truth(scope.field)
        scope.set_led_percent(100)
        scope.set_shutter_open(True)
        scope.light_is_pending()
        image = scope.expose(200)
        scope.set_shutter_open(False)
        fields.append((image, truth.labels))
        labels = reference_segmentation(image, settings=settings)
        pairs = matching(truth.labels, labels).pairs
        table = measure(labels, image).set_index("label")
        whole = ~table.touches_border.loc[pairs.pred].to_numpy()
        matched = table.loc[pairs.pred].reset_index()
        matched["dna"] = truth.nuclei.set_index("label").dna_content.loc[pairs.true].to_numpy()
        tables.append(matched[whole])
    nuclei = pd.concat(tables)
    shape = fields[0][0].shape
    light = estimate_illumination(nuclei.y_px, nuclei.x_px, nuclei.mean_intensity_counts, shape)
    nuclei = light.corrected(nuclei, nuclei.y_px, nuclei.x_px)
    return specimen.fingerprint, fields, nuclei[["dna", "integrated_intensity_counts"]].to_numpy().T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--edge", type=float, default=SegmentationSettings().edge)
    parser.add_argument("--picture", type=Path)
    asked = parser.parse_args()
    settings = SegmentationSettings(edge=asked.edge)
    print(f"# {machine()}; edge {settings.edge:g}")
    name, fields, (dna, intensity) = simulated(settings)
    report(f"specimen {name} at full light", fields, settings)
    print(f"  integrated intensity against true DNA content: correlation {np.corrcoef(dna, intensity)[0, 1]:.3f}")
    pictures = [worst(fields, settings)] if asked.picture else []
    for folder in asked.folders:
        there = list(real(folder, asked.split))
        report(f"{folder.name}, split {asked.split}", there, settings)
        pictures += [worst(there, settings)] if asked.picture else []
    if asked.picture:
        iio.imwrite(asked.picture, np.hstack(pictures))


if __name__ == "__main__":
    main()
