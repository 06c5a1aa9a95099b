"""The gate before training: whether the bright image of a site is good enough to make ground truth from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import ndimage as ndi

from scotopic.nuclei.doubts import strips, unlabelled
from scotopic.nuclei.lines import defective_lines
from scotopic.nuclei.measurement import area, mean_intensity
from scotopic.protocol import QualityGate

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_SMOOTH = 0.04
"""Smoothing before slopes are measured, in diameters (standard deviation): well below a sharp edge's own blur."""
_ENOUGH_TO_JUDGE = 5
"""Distributions of fewer nuclei are not judged."""
_ENOUGH_TO_MISS = 12
"""So many nuclei do not all lie in one half of an image by chance (1 in 500 for nuclei that keep apart from none)."""
_LEAST_CLUMPED = 5.0
"""Clumps are judged if they are together as large as so many nuclei: a pair is a large share of a small field by chance."""
_DARK_SHARE = 0.05
_NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution relative to its median absolute deviation."""


@dataclass(frozen=True)
class SiteQuality:
    """The verdict on the bright image of a site."""

    reasons: tuple[str, ...]
    """Why it is no ground truth: `empty`, `out of focus`, `saturated`, `overfull`, `uneven light`, `implausible sizes`,
    `implausible shapes`, `unsplit clumps`, `light without labels`, `fibre`, `defective camera lines`. None of these: it is
    good."""
    figures: dict[str, float]
    """What was measured, by the name of the threshold it was held against without `least_` or `most_`; not a number
    where there were too few nuclei. `unlabelled` is the area of what is as bright as nuclei and has no label, relative to that
    of all that is; `unlabelled_objects` how many of these there are."""

    @property
    def usable(self) -> bool:
        """Whether the site may be learned from."""
        return not self.reasons


def judge(
    labels: NDArray[Any], image: NDArray[Any], nuclei: pd.DataFrame, gate: QualityGate | None = None
) -> SiteQuality:
    """Judge whether the masks of a bright image can serve as ground truth.

    Parameters
    ----------
    labels : NDArray, shape (Y, X), integer
        Reference masks.
    image : NDArray, shape (Y, X)
        The image they were made from, in counts.
    nuclei : DataFrame
        Their measurements, as `measure` returns them for the same labels.
    gate : QualityGate, optional
        Thresholds, from the protocol.
    """
    gate = gate or QualityGate()
    if nuclei.empty:
        return SiteQuality(("empty",), {})
    missed = unlabelled(image, labels)
    missed_px, missed_objects = int(missed.sum()), ndi.label(missed)[1]
    figures = {
        "sharpness": _sharpness(labels, image, nuclei),
        "saturated": float(nuclei["saturated"].mean()),
        "covered": float((labels > 0).mean()),
        "uneven": _unevenness(labels, nuclei),
        "size_spread": _size_spread(nuclei),
        "elongated": _elongation(nuclei),
        "clumped": float(area(nuclei)[nuclei["clump"]].sum() / area(nuclei).sum()),
        "unlabelled": missed_px / max(missed_px + int((labels > 0).sum()), 1),
        "unlabelled_objects": float(missed_objects),
        "in_strips": strips(labels).size / len(nuclei),
        "lines": float(defective_lines(image)),
    }
    failures = {
        "out of focus": figures["sharpness"] < gate.least_sharpness,
        "saturated": figures["saturated"] > gate.most_saturated,
        "overfull": figures["covered"] > gate.most_covered,
        "uneven light": figures["uneven"] > gate.most_uneven,
        "implausible sizes": figures["size_spread"] > gate.most_size_spread,
        "implausible shapes": figures["elongated"] > gate.most_elongated,
        "unsplit clumps": figures["clumped"] > gate.most_clumped and _clumped_nuclei(nuclei) >= _LEAST_CLUMPED,
        "light without labels": figures["unlabelled"] > gate.most_unlabelled,
        "fibre": figures["in_strips"] > gate.most_in_strips,
        "defective camera lines": figures["lines"] > gate.most_lines,
    }
    return SiteQuality(tuple(reason for reason, failed in failures.items() if failed), figures)


def _sharpness(labels: NDArray[Any], image: NDArray[Any], nuclei: pd.DataFrame) -> float:
    """Return the median over nuclei of the slope along the outward normal, in mean intensity per diameter.

    Noise has no direction, so it does not pass for sharpness.
    """
    numbers = nuclei["label"].to_numpy()
    area_px = np.bincount(labels.ravel())[numbers]
    diameter = float(np.sqrt(4 / np.pi * np.median(area_px)))
    smooth = ndi.gaussian_filter(np.nan_to_num(np.asarray(image, np.float32)), max(_SMOOTH * diameter, 0.5))
    mask = labels > 0
    depth = ndi.distance_transform_edt(mask) - ndi.distance_transform_edt(~mask)
    inward, slope = np.gradient(ndi.gaussian_filter(depth, 1.0)), np.gradient(smooth)
    length = np.maximum(np.hypot(*inward), 1e-6)
    along = (slope[0] * inward[0] + slope[1] * inward[1]) / length
    free_edge = mask & (ndi.minimum_filter(labels, 3) == 0)  # where two nuclei touch there is no edge to measure
    on_edge = np.where(free_edge, labels, 0)
    present = np.isin(numbers, on_edge)
    if not present.any():
        return float("nan")
    steepness = np.asarray(ndi.mean(along, on_edge, numbers[present]))
    intensity = np.asarray(ndi.mean(smooth, labels, numbers[present])) - _background_counts(smooth, mask)
    return float(np.median(steepness * diameter / np.maximum(intensity, 1e-6)))


def _background_counts(smooth: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    return float(np.median(smooth[~mask])) if not mask.all() else float(smooth.min())


def _unevenness(labels: NDArray[Any], nuclei: pd.DataFrame) -> float:
    """Return the largest ratio between opposite halves: of median intensities, or infinity for a dark half."""
    intensity = mean_intensity(nuclei).to_numpy()
    centres = np.array(ndi.center_of_mass(labels > 0, labels, nuclei["label"].to_numpy())).reshape(-1, 2)
    worst = 1.0
    for place, size in zip(centres.T, labels.shape, strict=True):
        near, far = intensity[place < size / 2], intensity[place >= size / 2]
        light = near.sum(), far.sum()
        if intensity.size >= _ENOUGH_TO_MISS and min(light) < _DARK_SHARE * sum(light):
            return float("inf")
        if min(near.size, far.size) >= _ENOUGH_TO_JUDGE:
            medians = sorted((float(np.median(near)), float(np.median(far))))
            worst = max(worst, medians[1] / max(medians[0], 1e-6))
    return worst


def _elongation(nuclei: pd.DataFrame) -> float:
    return float(nuclei["eccentricity"].median()) if len(nuclei) >= _ENOUGH_TO_JUDGE else float("nan")


def _clumped_nuclei(nuclei: pd.DataFrame) -> float:
    """Return the area of clumps in that of a median nucleus."""
    return float(area(nuclei)[nuclei["clump"]].sum() / area(nuclei).median())


def _size_spread(nuclei: pd.DataFrame) -> float:
    whole = area(nuclei)[~nuclei["touches_border"]]
    if len(whole) < _ENOUGH_TO_JUDGE:
        return float("nan")
    logarithm = np.log(whole.to_numpy())
    return float(_NORMAL_MAD * np.median(np.abs(logarithm - np.median(logarithm))))
