"""How well G1 and G2 are told apart by DNA content: simulated plates with known truth, and real Hoechst images.

usage: cell_cycle.py [FOLDER ...]     folders of real images, in images/ or directly

Simulated: 24 fields of plates with 10 to 50 % of G2 and up to 20 % of S, bright images, reference segmentation, evenly lit,
whole nuclei alone. The share of nuclei with a DNA content above 1.5 is held against the truth of the same nuclei: apart from
mitotic and dim ones, which no image could sort. Real: the ratio of the two peaks, which is 2 if intensity means DNA; each
image relative to its own median nucleus, for those of a set were not all exposed, or stretched to 8 bits, alike.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from joblib import Parallel, delayed
from machine import machine

from scotopic.nuclei import (
    SPLIT_DNA_CONTENT,
    NoFitError,
    evenly_lit,
    fit_cell_cycle,
    matching,
    measure,
    reference_segmentation,
)
from scotopic.nuclei.images import image_files, read_plane
from scotopic.protocol import SyntheticSpecimenSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARES = [(g2, s) for g2 in (0.1, 0.3, 0.5) for s in (0.0, 0.1, 0.2)]
FIELDS = 24


def simulated(g2: float, s: float) -> pd.DataFrame:
    """Return the nuclei of bright images of a simulated plate, with their true DNA content."""
    settings = SyntheticSpecimenSettings(g2_fraction=g2, s_fraction=s)
    setup = SimulatorSetup(settings=SimulatorSetup().settings.model_copy(update={"specimen": settings}))
    scope = Instrument(setup)
    tables = []
    for well in list(setup.plate.wells)[:: 96 // FIELDS]:
        scope.move_xy(*setup.placement.to_stage(*setup.plate.centre_um(well)))
        scope.stage_is_moving()
        truth = scope.specimen.truth(scope.field)
        scope.set_led_percent(100)
        scope.set_shutter_open(True)
        scope.light_is_pending()
        image = scope.expose(200)
        scope.set_shutter_open(False)
        labels = reference_segmentation(image)
        pairs = matching(truth.labels, labels).pairs
        table = measure(labels, image).set_index("label").loc[pairs.pred].reset_index()
        true = truth.nuclei.set_index("label").loc[pairs.true]
        tables.append(table.assign(dna=true["dna_content"].to_numpy(), phase=true["phase"].to_numpy()))
    nuclei, _ = evenly_lit(pd.concat(tables, ignore_index=True), {image.shape})
    return nuclei[~nuclei["touches_border"] & (nuclei["phase"] != "dim")]


def one_plate(g2: float, s: float) -> str:
    nuclei = simulated(g2, s)
    truth = (nuclei["dna"] > SPLIT_DNA_CONTENT).mean()
    try:
        fit = fit_cell_cycle(nuclei["integrated_intensity_counts"])
    except NoFitError as error:
        return f"  G2 {g2:.0%}, S {s:.0%}: {len(nuclei)} nuclei, no fit: {error}"
    return (
        f"  G2 {g2:.0%}, S {s:.0%}: {len(nuclei)} nuclei, found {fit.g2_of_two:.1%}, true {truth:.1%}, "
        f"{100 * (fit.g2_of_two - truth):+.1f} points; peaks {fit.peak_ratio:.2f}, CV {fit.cv:.1%}, other {fit.other:.1%}"
    )


def measured(image: NDArray[Any]) -> pd.DataFrame:
    return measure(reference_segmentation(image), image)


def real(folder: Path) -> str:
    folder = folder / "images" if (folder / "images").is_dir() else folder
    images = [read_plane(path) for path in image_files(folder)]
    tables = Parallel(n_jobs=-1)(delayed(measured)(image) for image in images)
    together = pd.concat([table.assign(image=number) for number, table in enumerate(tables)], ignore_index=True)
    nuclei, told = evenly_lit(together, {image.shape for image in images})
    whole = nuclei[~nuclei["touches_border"]]
    intensity = whole["integrated_intensity_counts"]
    try:
        fit = fit_cell_cycle(intensity / intensity.groupby(whole["image"]).transform("median"))
    except NoFitError as error:
        return f"{folder}: {len(whole)} nuclei, no fit: {error} {told}"
    shares = ", ".join(f"{name} {share:.1%}" for name, share in fit.fractions.items())
    return f"{folder}: {len(whole)} nuclei, ratio of the peaks {fit.peak_ratio:.2f}, CV {fit.cv:.1%}; {shares}; other {fit.other:.1%} {told}"


def main(folders: list[Path]) -> None:
    print(f"# {machine()}")
    print(f"simulated plates, {FIELDS} fields each")
    for line in Parallel(n_jobs=-1, return_as="generator")(delayed(one_plate)(g2, s) for g2, s in SHARES):
        print(line, flush=True)
    for folder in folders:
        print(real(folder), flush=True)


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
