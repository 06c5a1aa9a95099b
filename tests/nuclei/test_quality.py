"""Good fields pass the gate; each way to spoil a field is named."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from scipy import ndimage as ndi

from scotopic.nuclei import QualityGate, SiteQuality, judge, measure, reference_segmentation

if TYPE_CHECKING:
    from numpy.typing import NDArray

_DIAMETER = 24


def _nuclei(size: int = 384, per_side: int = 8) -> NDArray[np.float64]:
    """Return discs with edges as a microscope in focus shows them, on a jittered grid, in counts above background."""
    rng = np.random.default_rng(7)
    y, x = np.indices((size, size))
    image = np.zeros((size, size))
    step = size / per_side
    for row in range(per_side):
        for column in range(per_side):
            cy, cx = (np.array([row, column]) + 0.5) * step + rng.uniform(-6, 6, 2)
            radius = _DIAMETER / 2 * rng.uniform(0.9, 1.1)
            image[np.hypot(y - cy, x - cx) <= radius] = 1000 * rng.uniform(0.8, 1.2)
    return np.asarray(ndi.gaussian_filter(image, 0.08 * _DIAMETER))


def _counts(signal: NDArray[np.float64]) -> NDArray[np.uint16]:
    return np.random.default_rng(8).poisson(signal + 100).astype(np.uint16)


def _verdict(image: NDArray[Any], gate: QualityGate | None = None) -> SiteQuality:
    labels = reference_segmentation(image)
    return judge(labels, image, measure(labels, image), gate)


def test_a_good_field_passes() -> None:
    """A field in focus, evenly lit and well filled is ground truth."""
    verdict = _verdict(_counts(_nuclei()))
    assert verdict.usable, verdict


def test_an_empty_field_is_called_empty() -> None:
    """Nothing but background: empty, and nothing else."""
    assert _verdict(_counts(np.zeros((256, 256)))).reasons == ("empty",)


def test_a_blurred_field_is_out_of_focus() -> None:
    """The same field blurred by a quarter of a nucleus."""
    assert "out of focus" in _verdict(_counts(ndi.gaussian_filter(_nuclei(), 0.25 * _DIAMETER))).reasons


def test_a_saturated_field_is_called_so() -> None:
    """An 8-bit image whose nuclei end at the highest value."""
    image = np.minimum(_counts(_nuclei()) // 2, 255).astype(np.uint8)
    assert "saturated" in _verdict(image).reasons


@pytest.mark.parametrize("light", [0.0, 0.2])
def test_a_half_dark_field_is_unevenly_lit(light: float) -> None:
    """A shutter or a light guide that hides one half of the field, wholly or not."""
    image = _nuclei()
    image[:, : image.shape[1] // 2] *= light
    assert "uneven light" in _verdict(_counts(image)).reasons


def test_stripes_are_no_nuclei() -> None:
    """The demo camera's pattern must not become ground truth."""
    y, x = np.indices((384, 384))
    assert not _verdict(_counts(800 * (1 + np.sin((x + 0.3 * y) / 12)))).usable


def test_thresholds_come_from_the_gate() -> None:
    """A stricter protocol refuses what the default lets pass."""
    strict = QualityGate(most_covered=0.01)
    assert _verdict(_counts(_nuclei()), strict).reasons == ("overfull",)


def test_flags_tell_clumps_debris_and_mitoses() -> None:
    """Seven ordinary nuclei, one dumb-bell, one speck and one small bright one."""
    y, x = np.indices((200, 500))
    labels = np.zeros((200, 500), np.int32)
    image = np.full((200, 500), 100.0)
    for number in range(1, 8):
        labels[np.hypot(y - 50, x - 50 * number) <= 12] = number
    labels[(np.hypot(y - 140, x - 60) <= 12) | (np.hypot(y - 140, x - 86) <= 13)] = 8
    labels[np.hypot(y - 140, x - 200) <= 5] = 9
    labels[np.hypot(y - 140, x - 300) <= 9] = 10
    image[labels > 0] = 1000
    image[labels == 10] = 3000
    table = measure(labels, image).set_index("label")
    assert table.index[table["clump"]].tolist() == [8]
    assert table.index[table["debris"]].tolist() == [9]
    assert table.index[table["mitotic"]].tolist() == [10]
