"""What the network is to say, and how nuclei are read from it again."""

from __future__ import annotations

import imageio.v3 as iio
import numpy as np
import pytest
from skimage.draw import disk

from conftest import DATA
from scotopic.learning.batches import turned, turned_rays
from scotopic.learning.instances import Maps, find_candidates, nuclei_of, visible
from scotopic.learning.targets import GRID, RAYS, known, make_targets, probability_of_crop
from scotopic.nuclei import matching


def maps_of(targets):
    rays = targets.rays.astype(np.float32)
    return Maps(targets.probability, targets.foreground.astype(np.float32), lambda y, x: rays[:, y, x].T)


@pytest.mark.parametrize("name", ["007", "015", "034"])
def test_nuclei_come_back_from_their_targets(name):
    labels = iio.imread(DATA / "nuclei" / "masks" / f"{name}.png").astype(np.int32)
    maps = maps_of(make_targets(labels, np.ones(labels.shape, bool)))
    found, scores = nuclei_of(maps, find_candidates(maps, 0.1), probability=0.3, foreground=0.5)
    assert matching(labels, found).at(0.7).f1 > 0.97
    assert len(scores) == found.max()
    assert found.shape == labels.shape


def test_a_nucleus_that_a_crop_cuts_is_taught_as_one_that_the_border_of_an_image_cuts():
    labels = np.zeros((96, 96), np.int32)
    labels[disk((40, 40), 20)] = 1
    labels[disk((70, 70), 8)] = 2
    targets = make_targets(labels, labels >= 0)
    crop = probability_of_crop(targets, labels, 48, 24, 48)
    alone = make_targets(np.ascontiguousarray(labels[48:, 24:72]), np.ones((48, 48), bool)).probability
    np.testing.assert_array_equal(crop, alone)
    assert crop[0].max() == 1, "its middle is where it is widest"
    assert targets.probability[48 // GRID, 24 // GRID :].max() < 0.7, "it was not, in the whole image"


def test_rays_reach_the_border_of_a_disc():
    labels = np.zeros((96, 96), np.int32)
    labels[disk((48, 48), 20)] = 1
    rays = make_targets(labels, labels >= 0).rays[:, 24, 24]
    assert rays == pytest.approx(np.full(RAYS, 20), abs=1.5)


@pytest.mark.parametrize("turn", range(8))
def test_rays_turn_with_the_image(turn):
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 3, (6, 6)), np.ones((16, 16), int)).astype(np.int32)
    labels[disk((40, 30), 13)] = 7
    everywhere = np.ones(labels.shape, bool)
    expected = make_targets(np.ascontiguousarray(turned(labels, turn)), everywhere).rays.astype(int)
    found = turned(make_targets(labels, everywhere).rays, turn)[turned_rays(turn)].astype(int)
    assert (abs(expected - found) <= 1).mean() > 0.97, "a step falls on the one or the other side of a pixel's border"


def test_what_is_bright_and_has_no_label_is_not_taught_as_background():
    image = np.full((128, 128), 100.0)
    labels = np.zeros((128, 128), np.int32)
    for number, centre in enumerate([(30, 30), (30, 90), (90, 30)], start=1):
        image[disk(centre, 12)] = 1000
        labels[disk(centre, 12)] = number
    image[disk((90, 90), 12)] = 900
    taught = known(image, labels, {2})
    assert not taught[90, 90], "missed by the masks"
    assert not taught[30, 90], "a doubted label"
    assert taught[30, 30]
    assert taught[60, 60]
    assert taught[30, 44], "the rim of a nucleus is background"


def test_objects_above_a_cut_off_are_a_beginning_of_the_list():
    """Cut-offs are chosen by it: to count at a higher one nothing need be found anew."""
    labels = iio.imread(DATA / "nuclei" / "masks" / "007.png").astype(np.int32)
    maps = maps_of(make_targets(labels, np.ones(labels.shape, bool)))
    rng = np.random.default_rng(1)
    noisy = Maps(
        np.clip(maps.probability * rng.uniform(0.2, 1, maps.probability.shape), 0, 1).astype(np.float32),
        *(maps.foreground, maps.rays_at),
    )
    low, high = find_candidates(noisy, 0.1), find_candidates(noisy, 0.65)
    assert 0 < high.scores.size < low.scores.size
    np.testing.assert_array_equal(low.scores[: high.scores.size], high.scores)


def test_an_object_without_a_body_is_no_nucleus_and_is_not_counted():
    labels = iio.imread(DATA / "nuclei" / "masks" / "007.png").astype(np.int32)
    maps = maps_of(make_targets(labels, np.ones(labels.shape, bool)))
    half = np.where(np.arange(maps.foreground.shape[1]) < 200, maps.foreground, 0)
    maps = Maps(maps.probability, half, maps.rays_at)
    candidates = find_candidates(maps, 0.3)
    seen = visible(maps, candidates, 0.5)
    found, _ = nuclei_of(maps, candidates, probability=0.3, foreground=0.5)
    assert found.max() < 0.6 * candidates.scores.size
    assert abs(seen.sum() - found.max()) <= 1, "one lies on the edge: its body is beside its polygon"


def test_an_image_without_one_probable_object_has_none():
    labels = iio.imread(DATA / "nuclei" / "masks" / "007.png").astype(np.int32)
    maps = maps_of(make_targets(labels, np.ones(labels.shape, bool)))
    candidates = find_candidates(maps, 0.1)
    best = candidates.scores[0]
    some, _ = nuclei_of(maps, candidates, probability=0.3, foreground=0.5, presence=best - 0.01)
    none, scores = nuclei_of(maps, candidates, probability=0.3, foreground=0.5, presence=best + 0.01)
    assert some.max() > 50
    assert none.max() == len(scores) == 0
