"""What is no ground truth is not taken for it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage as ndi

from scotopic.nuclei import estimate_diameter, judge, measure, reference_segmentation, unlabelled
from scotopic.nuclei.doubts import strips
from scotopic.nuclei.lines import defective_lines
from scotopic.protocol import SyntheticSpecimenSettings
from scotopic.protocol.simulation import SimulatorSettings
from scotopic.protocol.simulator_setup import SimulatorSetup
from scotopic.simulator import Instrument

SIZE = 320


def nuclei(count=30, seed=1):
    """Discs that keep apart, as photo-electrons."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((SIZE, SIZE))
    places, light = [], np.zeros((SIZE, SIZE))
    while len(places) < count:
        place = rng.uniform(15, SIZE - 15, 2)
        if all(np.hypot(*(place - other)) > 30 for other in places):
            places.append(place)
            light[np.hypot(y - place[0], x - place[1]) <= rng.uniform(10, 13)] = 1500
    return ndi.gaussian_filter(light, 1.2)


def camera(light, seed=2):
    return (np.random.default_rng(seed).poisson(light + 60) / 2 + 200).clip(0, 65535).astype(np.uint16)


def verdict(image):
    labels = reference_segmentation(image)
    return judge(labels, image, measure(labels, image))


def fibre(curved):
    y, x = np.indices((SIZE, SIZE))
    middle = 160 + (40 * np.sin(x / 60) if curved else 0.4 * (x - 160))
    return ndi.gaussian_filter(4000.0 * (np.abs(y - middle) < 9) * (x > 20) * (x < 300), 1.2)


def test_good_nuclei_have_nothing_against_them():
    image = camera(nuclei())
    assert verdict(image).reasons == ()
    assert verdict(image).figures["unlabelled"] < 0.02
    assert verdict(image).figures["unlabelled_objects"] == 0
    assert defective_lines(image) == 0


@pytest.mark.parametrize("curved", [False, True])
def test_a_fibre_is_no_row_of_nuclei(curved):
    assert {"fibre", "light without labels"} & set(verdict(camera(np.maximum(nuclei(), fibre(curved)))).reasons)


def test_a_chain_of_nuclei_is_no_fibre():
    y, x = np.indices((60, 300))
    labels = np.zeros((60, 300), np.int32)
    for number in range(11):
        labels[np.hypot(y - 30, x - 25 - 25 * number) <= 13] = number + 1
    assert strips(labels).size == 0
    labels[20:40, 10:290] = 1 + np.arange(280) // 25
    assert strips(labels).size == 12


def crowded_field():
    """A field of the simulated microscope in which five nuclei touch in a row."""
    settings = SimulatorSettings(seed=8, peak_e=500, specimen=SyntheticSpecimenSettings(seed=8))
    setup = SimulatorSetup(settings=settings, width_px=256, height_px=256, pixel_size_um=1.0)
    scope = Instrument(setup)
    scope.move_xy(*setup.placement.to_stage(*setup.plate.centre_um(list(setup.plate.wells)[8])))
    scope.stage_is_moving()
    scope.autofocus()
    scope.set_led_percent(100)
    scope.set_shutter_open(True)
    scope.light_is_pending()
    return scope.expose(200)


def test_nuclei_that_touch_in_a_row_are_no_fibre():
    assert verdict(crowded_field()).reasons == ()


def test_one_pair_that_was_not_split_does_not_decide_a_small_field():
    y, x = np.indices((160, 160))
    labels = np.zeros((160, 160), np.int32)
    for number in range(8):
        labels[np.hypot(y - 20 - 40 * (number // 4), x - 20 - 40 * (number % 4)) <= 10] = number + 1
    labels[np.hypot((y - 125) / 0.6, x - 80) <= 24] = 9
    image = np.where(labels > 0, 1000, 100)
    quality = judge(labels, image, measure(labels, image))
    assert quality.figures["clumped"] > 0.2
    assert "unsplit clumps" not in quality.reasons


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("counts", [60, 3000])
def test_a_defective_line_of_the_camera_is_no_ground_truth(axis, counts):
    image = camera(nuclei())
    line = [slice(None), slice(None)]
    line[axis] = 100
    image[tuple(line)] += counts
    assert "defective camera lines" in verdict(image).reasons


def cloud(seed):
    light = ndi.gaussian_filter(np.random.default_rng(seed).standard_normal((SIZE, SIZE)), 9)
    return 2000 * (light - light.min()) / np.ptp(light)


def test_hardly_a_cloud_is_taken_for_nuclei():
    """One of these six still is: its parts are as plausible as nuclei."""
    assert sum(verdict(camera(cloud(seed))).usable for seed in range(6)) <= 1


def test_what_is_bright_and_has_no_label_is_seen():
    image = camera(nuclei())
    labels = reference_segmentation(image)
    missed = np.isin(labels, [3, 7])
    without = np.where(missed, 0, labels)
    seen = unlabelled(image, without)
    assert (seen & missed).sum() > 0.6 * missed.sum()
    assert (seen & ~ndi.binary_dilation(missed, iterations=4)).sum() == 0
    quality = judge(without, image, measure(without, image))
    assert quality.figures["unlabelled"] == pytest.approx(2 / 30, abs=0.02)
    assert quality.figures["unlabelled_objects"] == 2
    third = np.where(labels <= 10, 0, labels)
    assert "light without labels" in judge(third, image, measure(third, image)).reasons


def test_a_camera_of_12_bits_in_a_file_of_16_is_found_to_be_full():
    image = np.minimum(camera(6 * nuclei()), 4095)
    assert "saturated" in verdict(image).reasons
    assert "saturated" not in verdict(camera(6 * nuclei())).reasons


@pytest.mark.parametrize("kind", ["black border", "seam", "corner of a turned image"])
def test_nuclei_that_padding_or_a_seam_cuts_are_flagged(kind):
    image, y, x = camera(nuclei(60)), *np.indices((SIZE, SIZE))
    blank = {"black border": x < 100, "seam": (x >= 150) & (x < 153), "corner of a turned image": x + y < 200}[kind]
    image[blank] = 0
    labels = reference_segmentation(image)
    table = measure(labels, image).set_index("label")
    beside = np.unique(labels[ndi.binary_dilation(blank, iterations=2) & ~blank])
    beside = beside[beside > 0]
    assert beside.size >= 2
    assert table.touches_border[beside].all()
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    inside = table.index.difference(np.union1d(np.unique(labels[ndi.binary_dilation(blank, iterations=6)]), rim))
    assert not table.touches_border[inside].any()


def test_a_background_that_ends_at_zero_is_no_padding():
    image = (camera(nuclei()).astype(int) - 235).clip(0, 255).astype(np.uint8)
    labels = reference_segmentation(image)
    rim = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    table = measure(labels, image)
    assert set(table.label[table.touches_border]) == set(rim[rim > 0])


def bright_disc(height):
    y, x = np.indices((SIZE, SIZE))
    return ndi.gaussian_filter(height * (np.hypot(y - 80, x - 80) < 60).astype(float), 1.5)


@pytest.mark.parametrize("height", [3000, 20_000])
@pytest.mark.parametrize("count", [4, 30])
def test_one_large_thing_does_not_decide_how_large_nuclei_are(height, count):
    image = camera(np.maximum(nuclei(count), bright_disc(height)))
    assert estimate_diameter(image) == pytest.approx(27, abs=1.5)
    assert not verdict(image).usable


def test_nuclei_beside_a_glare_are_found():
    y, x = np.indices((SIZE, SIZE))
    image = camera(nuclei() + 20_000 * np.exp(-np.hypot(y, x) / 40))
    assert estimate_diameter(image) == pytest.approx(27, abs=1.5)


def test_a_dead_column_hides_no_nuclei():
    image = camera(nuclei())
    image[:, 100] = 65_535
    assert "defective camera lines" in verdict(image).reasons


def test_a_lone_nucleus_is_as_large_as_it_is():
    y, x = np.indices((SIZE, SIZE))
    image = camera(ndi.gaussian_filter(3000.0 * (np.hypot(y - 80, x - 80) < 20), 1.5))
    assert estimate_diameter(image) == pytest.approx(44, abs=5)
