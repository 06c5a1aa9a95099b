"""Crops to learn from: real dark images, and dark images made of bright ones by thinning their photons."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scotopic.learning.calibration import PLANES, input_planes
from scotopic.learning.targets import GRID, RAYS, probability_of_crop

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scotopic.learning.pairs import TrainingSite
    from scotopic.photons import CameraNoise

_SPARSE = 0.5
"""Sites are drawn in proportion to their nuclei and this share of the mean: a crop of background teaches little."""
_THINNED = 0.6
"""Share of crops whose dark image is made, at any dose; the others are as measured."""
_BRIGHTEST_THINNED = 0.01
_BELOW_DIMMEST = 0.6
"""Doses are drawn from this share of the dimmest level up: what is a little darker than trained on must not surprise."""
_BRIGHTNESS_SPREAD = 0.25
"""Standard deviation of the logarithm of the brightness that the network is told, against the true one."""
_STRAY_LIGHT = 0.2
"""Share of crops with a slope or a step of additional light."""
_MOST_STRAY = 0.8
"""Largest additional light, relative to a bright nucleus."""
_EMPTY = 0.12
"""Share of crops with light but without nuclei."""
_OFFSET_SPREAD = 0.05
"""Standard deviation of the camera's offset that the network is told, against the true one, in parts of the read noise."""
UNEVEN = 0.3
"""Largest change of illumination across a crop of thinned photons, each way, unless the microscope is known to be more uneven."""


class Batch(NamedTuple):
    """Arrays of one step, float32 but for the rays; the first axis counts the crops: what the network sees, and `Targets`."""

    planes: NDArray[np.float32]
    probability: NDArray[np.float32]
    rays: NDArray[np.uint8]
    """Of no meaning where the probability is 0."""
    foreground: NDArray[np.float32]
    weight: NDArray[np.float32]


def make_batch(
    sites: Sequence[TrainingSite],
    camera: CameraNoise,
    peak_e: float,
    rng: np.random.Generator,
    *,
    count: int,
    size: int,
    uneven: float = UNEVEN,
) -> Batch:
    """Draw crops of sites, each at some light, turned and mirrored.

    Parameters
    ----------
    sites : sequence of TrainingSite
        Sites to draw from.
    camera : CameraNoise
        Camera of what the network is shown.
    peak_e : float
        Photo-electrons of a bright nucleus at full light.
    rng : numpy.random.Generator
        Decides everything.
    count, size : int
        Number of crops, and their side in pixels, a multiple of the network's stride.
    uneven : float
        Largest change of illumination across a crop of thinned photons, each way.
    """
    grid = size // GRID
    batch = Batch(
        np.empty((count, PLANES, grid, grid), np.float32),
        np.empty((count, grid, grid), np.float32),
        np.empty((count, RAYS, grid, grid), np.uint8),
        np.empty((count, size, size), np.float32),
        np.empty((count, size, size), np.float32),
    )
    nuclei = np.array([site.nuclei for site in sites], float)
    share = nuclei + max(_SPARSE * nuclei.mean(), 1)
    share /= share.sum()
    for number in range(count):
        site = sites[int(rng.choice(len(sites), p=share))]
        height, width = site.targets.foreground.shape
        row, column = (int(rng.integers((n - size) // GRID + 1)) for n in (height, width))
        pixels = np.s_[GRID * row : GRID * row + size, GRID * column : GRID * column + size]
        points = np.s_[row : row + grid, column : column + grid]
        counts, dose, empty = _dark_image(site, pixels, camera, peak_e, rng, uneven)
        turn = int(rng.integers(8))
        gain = float(np.exp(_BRIGHTNESS_SPREAD * rng.standard_normal()))
        off = _OFFSET_SPREAD * camera.read_noise_e / camera.gain_e_per_count * float(rng.standard_normal())
        told = camera.model_copy(update={"offset_counts": camera.offset_counts + off})
        batch.planes[number] = input_planes(np.ascontiguousarray(turned(counts, turn)), dose, told, peak_e, gain)
        targets, there = site.targets, 0.0 if empty else 1.0
        probability = probability_of_crop(targets, site.labels, GRID * row, GRID * column, size)
        batch.probability[number] = there * turned(probability, turn)
        batch.rays[number] = turned(targets.rays[:, *points], turn)[turned_rays(turn)]
        batch.foreground[number] = there * turned(targets.foreground[pixels], turn)
        batch.weight[number] = 1.0 if empty else turned(targets.weight[pixels], turn)
    return batch


def _dark_image(
    site: TrainingSite,
    pixels: tuple[slice, slice],
    camera: CameraNoise,
    peak_e: float,
    rng: np.random.Generator,
    uneven: float,
) -> tuple[NDArray[np.uint16], float, bool]:
    """Return counts of a crop, its dose, and whether it has no nuclei."""
    doses = site.doses
    if site.field_e is None and rng.random() < _THINNED:
        dimmest = min(doses.values())
        brightest = max(_BRIGHTEST_THINNED, dimmest)
        dose = float(np.exp(rng.uniform(np.log(_BELOW_DIMMEST * dimmest), np.log(brightest))))
        bright = np.maximum(camera.to_electrons(site.full_light[pixels]), 0)
        slope = np.float32(1) + ramp(bright.shape, rng) * np.float32(2 * uneven) - np.float32(uneven)
        counts = camera.expose(bright * np.float32(dose) * slope, rng)
    else:
        levels = list(doses)
        share = np.array([1 - np.log10(doses[level]) for level in levels])  # the dark is harder
        level = levels[rng.choice(len(levels), p=share / share.sum())]
        counts, dose = site.images[level][pixels], doses[level]
    empty = rng.random() < _EMPTY
    stray = np.float32(_MOST_STRAY * peak_e * dose * rng.random() ** 2)
    if empty:
        base = np.full(counts.shape, rng.random() * 0.3 * peak_e * dose, np.float32)
        return camera.expose(base + stray * ramp(counts.shape, rng), rng), dose, True
    if rng.random() < _STRAY_LIGHT:
        more = rng.poisson(stray * ramp(counts.shape, rng)) / camera.gain_e_per_count
        counts = np.clip(np.rint(counts + more), 0, camera.saturation_counts).astype(np.uint16)
    return counts, dose, False


def ramp(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.float32]:
    """Return a slope, or a step, from 0 to 1 in any direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape)
    along = np.float32(np.sin(angle)) * y[:, None] + np.float32(np.cos(angle)) * x[None]
    steepness, middle = np.float32(rng.choice([0.5, 1, 4, 40])), np.float32(rng.uniform(-0.6, 0.6))
    rising: NDArray[np.float32] = np.clip((along - middle) * steepness + np.float32(0.5), 0, 1)
    return rising


def turned(image: NDArray[Any], turn: int) -> NDArray[Any]:
    """Return an image, shape (..., Y, X), mirrored along y (turn & 1), along x (& 2), and with its axes swapped (& 4)."""
    if turn & 1:
        image = image[..., ::-1, :]
    if turn & 2:
        image = image[..., ::-1]
    return image.swapaxes(-1, -2) if turn & 4 else image


def turned_rays(turn: int) -> NDArray[np.intp]:
    """Return where each ray of a turned image is found among those of the original: rays turn with the image."""
    ray = np.arange(RAYS)
    if turn & 4:
        ray = RAYS // 4 - ray
    if turn & 2:
        ray = RAYS // 2 - ray
    if turn & 1:
        ray = -ray
    return ray % RAYS
