"""How hard the pinned specimen is, for a naive segmentation; and real fields beside it, if a folder is given.

usage: specimen_difficulty.py [FOLDER ...]     each with images/ and masks/ (and index.csv: its `test` split is used)
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import imageio.v3 as iio
import numpy as np
from machine import machine
from naive import matches, naive_segmentation

from scotopic.protocol import SyntheticSpecimenSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument, SyntheticSpecimen
from scotopic.simulator.replay import mask_path

LEVELS = {"100%": (200, 100), "2%": (4, 100), "0.2%": (4, 10), "0.05%": (4, 2.5)}


def f1(hits: int, found: int, true: int) -> float:
    return 2 * hits / max(found + true, 1)


def simulated() -> None:
    setup = SimulatorSetup()
    scope = Instrument(setup)
    specimen = SyntheticSpecimen(SyntheticSpecimenSettings(), setup.plate)
    totals = {level: np.zeros(3, int) for level in LEVELS}
    touching = 0
    wells = list(setup.plate.wells)[::4]
    for well in wells:
        scope.move_xy(*setup.placement.to_stage(*setup.plate.centre_um(well)))
        scope.stage_is_moving()
        truth = specimen.truth(scope.field)
        touching += int(truth.nuclei.touches_nucleus.sum())
        for level, (exposure_ms, led_percent) in LEVELS.items():
            scope.set_led_percent(led_percent)
            scope.set_shutter_open(True)
            scope.light_is_pending()
            image = scope.expose(exposure_ms)
            scope.set_shutter_open(False)
            totals[level] += matches(truth.labels, naive_segmentation(image))
    n_true = totals["100%"][2]
    print(
        f"specimen {specimen.fingerprint}, camera {setup.settings.camera}, {len(wells)} fields of 512², {n_true} nuclei"
    )
    print(f"touching share            {touching / n_true:7.1%}     wanted 30 % to 50 %")
    print(f"naive F1@0.5 at 100 %     {f1(*totals['100%']):7.3f}     wanted 0.80 to 0.90")
    for level, total in totals.items():
        print(
            f"naive at {level:>5}: F1@0.5 {f1(*total):.3f}, count {total[1]} of {n_true} ({total[1] / n_true - 1:+.1%})"
        )
    print("count error at 0.05 %: wanted 10 % at least")


def real(folder: Path) -> None:
    paths = sorted((folder / "images").glob("*.png"))
    if (folder / "index.csv").exists():
        with (folder / "index.csv").open(encoding="utf-8") as file:
            test = {row["name"] for row in csv.DictReader(file) if row.get("split") == "test"}
        paths = [path for path in paths if path.stem in test]
    total = np.zeros(3, int)
    for path in paths:
        mask = mask_path(path)
        if mask is not None:
            total += matches(iio.imread(mask), naive_segmentation(iio.imread(path)))
    print(
        f"naive on {len(paths)} real fields of {folder.name}: F1@0.5 {f1(*total):.3f}, count {total[1]} of {total[2]}"
    )


if __name__ == "__main__":
    print(f"# difficulty; {machine()}")
    simulated()
    for name in sys.argv[1:]:
        real(Path(name))
