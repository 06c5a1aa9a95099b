"""Compare two label images of the same field: who found what, and how well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.sparse import coo_array

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from numpy.typing import NDArray

THRESHOLDS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
"""Intersection-over-union thresholds of the mean F1, as in the Data Science Bowl 2018 (Caicedo et al. 2019)."""
_MOSTLY_INSIDE = 0.5
"""A nucleus belongs to another when more than this share of its area lies within it."""


@dataclass(frozen=True)
class Matching:
    """How a prediction compares with the truth, at one threshold of intersection over union (IoU)."""

    thresh: float
    tp: int
    """Nuclei found: pairs whose IoU reaches the threshold (must exceed it at 0.5, where pairs are unique only then)."""
    fp: int
    """Finds that are no nucleus."""
    fn: int
    """Nuclei missed."""

    @property
    def n_true(self) -> int:
        """Number of true nuclei."""
        return self.tp + self.fn

    @property
    def n_pred(self) -> int:
        """Number of finds."""
        return self.tp + self.fp

    @property
    def precision(self) -> float:
        """Share of finds that are nuclei; 1 if nothing was found."""
        return self.tp / self.n_pred if self.n_pred else 1.0

    @property
    def recall(self) -> float:
        """Share of nuclei that were found; 1 if there are none."""
        return self.tp / self.n_true if self.n_true else 1.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 1 for an empty field that was found empty."""
        total = self.n_pred + self.n_true
        return 2 * self.tp / total if total else 1.0

    @property
    def count_bias(self) -> float:
        """Relative error of the count (0.01: one percent too many); not a number without nuclei."""
        return self.n_pred / self.n_true - 1 if self.n_true else float("nan")


@dataclass(frozen=True)
class Comparison:
    """Everything that two label images of one field say of each other."""

    by_threshold: tuple[Matching, ...]
    """One for each of `THRESHOLDS`."""
    pairs: pd.DataFrame
    """Matched pairs at IoU above 0.5: `true`, `pred` (labels), `iou`, `true_area_px`, `pred_area_px`."""
    splits: int
    """True nuclei in which more than one find lies."""
    merges: int
    """Finds in which more than one true nucleus lies."""

    def at(self, thresh: float) -> Matching:
        """Return the matching at a threshold of `THRESHOLDS`."""
        return self.by_threshold[THRESHOLDS.index(thresh)]

    @property
    def mean_f1(self) -> float:
        """Mean of F1 over all thresholds."""
        return float(np.mean([m.f1 for m in self.by_threshold]))

    @property
    def area_bias(self) -> float:
        """Relative error of the median area of matched nuclei; not a number without any."""
        if self.pairs.empty:
            return float("nan")
        return float(np.median(self.pairs.pred_area_px / self.pairs.true_area_px) - 1)


def matching(y_true: NDArray[Any], y_pred: NDArray[Any]) -> Comparison:
    """Compare a predicted with a true label image.

    The vocabulary is StarDist's (tp, fp, fn, f1 by IoU threshold). Above an IoU of one half a pair is unique, so no
    assignment is needed.

    Parameters
    ----------
    y_true, y_pred : NDArray, shape (Y, X), integer
        Label images; 0 is background. Labels need not be consecutive.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if y_true.shape != y_pred.shape:
        raise ValueError(f"label images of shape {y_true.shape} and {y_pred.shape} cannot be compared")
    # By hashing, not by sorting as np.unique does: a report compares thousands of label images.
    (true_index, true), (pred_index, pred) = (pd.factorize(y.ravel(), sort=True) for y in (y_true, y_pred))
    ones = np.ones(y_true.size, np.int64)
    table = coo_array((ones, (true_index, pred_index)), shape=(true.size, pred.size)).tocsr().tocoo()
    areas_true = np.bincount(true_index, minlength=true.size)
    areas_pred = np.bincount(pred_index, minlength=pred.size)
    real = (true[table.row] != 0) & (pred[table.col] != 0)
    row, col, overlap = table.row[real], table.col[real], table.data[real]
    iou = overlap / (areas_true[row] + areas_pred[col] - overlap)
    n_true, n_pred = int((true != 0).sum()), int((pred != 0).sum())
    by_threshold = []
    for thresh in THRESHOLDS:
        tp = int((iou > 0.5).sum() if thresh == 0.5 else (iou >= thresh - 1e-9).sum())
        by_threshold.append(Matching(thresh, tp, n_pred - tp, n_true - tp))
    best = iou > 0.5
    pairs = pd.DataFrame(
        {
            "true": true[row[best]],
            "pred": pred[col[best]],
            "iou": iou[best],
            "true_area_px": areas_true[row[best]],
            "pred_area_px": areas_pred[col[best]],
        }
    )
    splits = _with_several(row[overlap > _MOSTLY_INSIDE * areas_pred[col]])
    merges = _with_several(col[overlap > _MOSTLY_INSIDE * areas_true[row]])
    return Comparison(tuple(by_threshold), pairs, splits, merges)


def _with_several(owners: NDArray[Any]) -> int:
    return int((np.bincount(owners) > 1).sum()) if owners.size else 0


def pooled(comparisons: Iterable[Comparison]) -> Comparison:
    """Return the comparison of several fields together: counts are added, not rates averaged.

    The pairs keep a column `field`, counted from 0.
    """
    each: Sequence[Comparison] = list(comparisons)
    by_threshold = tuple(
        Matching(t, *(sum(getattr(c.by_threshold[i], name) for c in each) for name in ("tp", "fp", "fn")))
        for i, t in enumerate(THRESHOLDS)
    )
    pairs = [c.pairs.assign(field=number) for number, c in enumerate(each)]
    return Comparison(
        by_threshold,
        pd.concat(pairs, ignore_index=True) if pairs else pd.DataFrame(),
        sum(c.splits for c in each),
        sum(c.merges for c in each),
    )
