from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from scotopic.nuclei import THRESHOLDS, matching, pooled

LABELS = arrays(np.int32, (12, 12), elements=st.integers(0, 4))


def by_hand(y_true, y_pred, thresh):
    """Count matches pair by pair, with no table at all."""
    hits = 0
    for t in set(np.unique(y_true)) - {0}:
        for p in set(np.unique(y_pred)) - {0}:
            both = ((y_true == t) & (y_pred == p)).sum()
            iou = both / ((y_true == t) | (y_pred == p)).sum()
            hits += iou > 0.5 if thresh == 0.5 else iou >= thresh - 1e-9
    return hits


@given(LABELS, LABELS)
def test_counts_are_those_of_pairs_compared_one_by_one(y_true, y_pred):
    found = matching(y_true, y_pred)
    for thresh in THRESHOLDS:
        at = found.at(thresh)
        assert at.tp == by_hand(y_true, y_pred, thresh)
        assert at.tp + at.fn == len(set(np.unique(y_true)) - {0})
        assert at.tp + at.fp == len(set(np.unique(y_pred)) - {0})


@given(LABELS)
def test_an_image_agrees_with_itself_whatever_its_labels(labels):
    found = matching(labels, labels * 7)
    assert found.mean_f1 == 1
    assert (found.splits, found.merges) == (0, 0)


def squares(*boxes):
    image = np.zeros((40, 40), np.int32)
    for number, (y, x, h, w) in enumerate(boxes, start=1):
        image[y : y + h, x : x + w] = number
    return image


def test_splits_and_merges_are_counted_as_such():
    whole, halves = squares((5, 5, 10, 20)), squares((5, 5, 10, 10), (5, 15, 10, 10))
    assert (matching(whole, halves).splits, matching(whole, halves).merges) == (1, 0)
    assert (matching(halves, whole).splits, matching(halves, whole).merges) == (0, 1)
    assert matching(whole, halves).at(0.5).tp == 0


def test_count_and_area_bias():
    found = matching(squares((5, 5, 10, 10), (20, 20, 10, 10)), squares((5, 5, 10, 9), (20, 20, 10, 9), (35, 35, 4, 4)))
    assert found.at(0.5).count_bias == pytest.approx(0.5)
    assert found.area_bias == pytest.approx(-0.1)


def test_an_empty_field_that_is_found_empty_is_perfect():
    empty = np.zeros((5, 5), np.int32)
    assert matching(empty, empty).mean_f1 == 1
    assert np.isnan(matching(empty, empty).area_bias)


def test_fields_are_pooled_by_their_counts():
    one, two = squares((5, 5, 10, 10)), squares((5, 5, 10, 10), (20, 20, 10, 10))
    together = pooled([matching(one, one), matching(two, one)])
    at = together.at(0.5)
    assert (at.tp, at.fp, at.fn) == (2, 0, 1)
    assert list(together.pairs.field) == [0, 1]


def test_images_of_different_shape_are_refused():
    with pytest.raises(ValueError, match="cannot be compared"):
        matching(np.zeros((3, 3), int), np.zeros((4, 4), int))
