"""What is known of the reference masks, and whether signal follows light, over a site and over the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scotopic.reference import REFERENCE, finished_frames
from scotopic.report.intervals import estimate
from scotopic.report.schema import Figure, GroundTruth, RefusedSite, Stability

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.store import RunFolder

_FLAGS = ("clump", "debris", "mitotic")
_LEAST_SITES = 3


def ground_truth(run: RunFolder) -> GroundTruth | None:
    """Return the verdict on the reference masks of a run; nothing where there are none."""
    records = sorted(run.references().values(), key=lambda record: record.site_key)
    if not records:
        return None
    tables = _bright_tables(run)
    return GroundTruth(
        sites=len(records),
        refused=tuple(RefusedSite(name=record.name, reasons=record.reasons) for record in records if record.reasons),
        nuclei=sum(record.nuclei for record in records),
        flagged={flag: int(tables[flag].astype(bool).sum()) if len(tables) else 0 for flag in _FLAGS},
        unlabelled=sum(int(record.figures.get("unlabelled_objects") or 0) for record in records),
    )


def stability(run: RunFolder) -> Stability | None:
    """Return whether the signal of the same nuclei follows the light; nothing where no masks were made."""
    protocol = run.read_protocol()
    keys = sorted(run.references())
    if not keys:
        return None
    nuclei = pd.concat([run.nuclei.read(REFERENCE, *key) for key in keys], ignore_index=True)
    nuclei = nuclei[~nuclei["touches_border"].astype(bool)]
    per_dose = nuclei["integrated_intensity_e"] / nuclei["relative_dose"]
    totals = per_dose.groupby([nuclei["well"], nuclei["level"]]).sum().unstack("level")
    wells = list(totals.index)
    reference = protocol.reference.name
    levels = [level.name for level in protocol.levels_in_exposure_order if level.name in totals and reference in totals]

    def off(level: str, without: str | None) -> float | None:
        kept = totals.drop(index=without) if without else totals
        whole = float(kept[reference].sum())
        return 100 * (float(kept[level].sum()) / whole - 1) if whole > 0 else None

    return Stability(
        signal_per_dose_percent={
            level: estimate([off(level, None), *(off(level, well) for well in wells)], "deviation_percent").figure()
            for level in levels
            if level != reference
        },
        drift_percent=_drift(run, nuclei[nuclei["level"] == reference]),
    )


def _drift(run: RunFolder, bright: pd.DataFrame) -> Figure:
    """Return the change of mean intensity over the run, in the order in which sites were taken, in percent."""
    reference = run.read_protocol().reference.name
    order = sorted((levels[reference].time, key) for key, levels in finished_frames(run).items() if reference in levels)
    means = bright.groupby(["well", "site", "t"])["mean_intensity_e"].median().to_dict()
    values = np.array([means[key] for _, key in order if means.get(key, 0) > 0])
    wells = [key[0] for _, key in order if means.get(key, 0) > 0]
    there = np.arange(values.size)

    def change(kept: NDArray[np.bool_]) -> float | None:
        x, y = there[kept], values[kept]
        if x.size < _LEAST_SITES or np.ptp(x) == 0:
            return None
        slope, at_start = np.polyfit(x / max(there[-1], 1), np.log(y), 1)
        return 100 * float(np.expm1(slope)) if np.isfinite(at_start) else None

    every = [np.ones(values.size, bool), *(np.array([w != well for w in wells]) for well in dict.fromkeys(wells))]
    return estimate([change(kept) for kept in every], "deviation_percent").figure()


def _bright_tables(run: RunFolder) -> pd.DataFrame:
    reference = run.read_protocol().reference.name
    tables = [run.nuclei.read(REFERENCE, *key) for key in sorted(run.references())]
    both = pd.concat(tables, ignore_index=True)
    return both[both["level"] == reference]
