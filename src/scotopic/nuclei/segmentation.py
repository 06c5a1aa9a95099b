"""The standard image analysis that makes the ground truth: a bright image becomes a label image."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy import ndimage as ndi
from skimage.filters import threshold_otsu
from skimage.morphology import disk

from scotopic.nuclei.contours import consecutive, cut_at_steepest, tidy
from scotopic.nuclei.regions import NodeScore, find_regions
from scotopic.nuclei.splitting import split_clumps
from scotopic.protocol import SegmentationSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORKING_DIAMETER_PX = 14.0
"""Candidates are looked for in an image scaled down until a nucleus is about so large: contours are not."""
_SMOOTH = 0.03
"""Smoothing in diameters (standard deviation)."""
_SMALLEST_PIECE = 0.06
_AFTERWARDS = NodeScore(size_sigma=0.8, least_fit=0.75, smallest=0.2, least=0.1)
"""Second look, at what the first one left: clumps may be taken, faint irregular things not."""
_UNPRIORED = NodeScore(size_sigma=0.9, least=0.1)
_LARGEST_PART = 0.5
"""What is larger than this share of the image is a background, not a nucleus."""
_LOOKS, _LEAST_RADIUS_PX, _AROUND_PX = 4, 2, 4
_LARGER, _ENOUGH_OBJECTS, _FLOOR_NOISE = 2.0, 3, 5.0
"""One thing that holds most of the light is no nucleus if so many others have an inscribed circle less than half as wide,
and stand out of the noise by so many standard deviations."""
_LEAST_EDGE = 1.0
"""Smallest mean gradient along the contour, relative to mean intensity per diameter. Nuclei in focus have 3 to 6."""


class Segmenter(Protocol):
    """Anything that turns an image into a label image: plug in another one, such as Cellpose, StarDist or InstanSeg."""

    def __call__(self, image: NDArray[Any], /) -> NDArray[np.int32]:
        """Return labels of an image, shape (Y, X): 0 background, 1 to n nuclei of one piece each without holes."""


def reference_segmentation(
    image: NDArray[Any],
    *,
    pixel_size_um: float | None = None,
    settings: SegmentationSettings | None = None,
    diameter_px: float | None = None,
) -> NDArray[np.int32]:
    """Find the nuclei of a bright image.

    Background is taken away; regions are chosen across all thresholds by shape, size and edge (`regions`), each is cut
    where its own edge is steepest (`contours`); the same once more for what lies in the glare of brighter nuclei; then
    clumps are split (`splitting`), and what is too small or too faint is dropped.

    Parameters
    ----------
    image : NDArray, shape (Y, X), any numeric type
        Counts; what is not a number counts as background.
    pixel_size_um : float, optional
        Size of a pixel, needed when the diameter is given in micrometres.
    settings : SegmentationSettings, optional
        What is known of the nuclei.
    diameter_px : float, optional
        Typical diameter in pixels, instead of the settings' or an estimate.

    Returns
    -------
    NDArray, shape (Y, X), int32
        Labels, 1 to n, each in one piece and without holes; 0 is background.

    Raises
    ------
    ValueError
        If the image is not a plane, or a diameter in micrometres is given without the size of a pixel.
    """
    settings = settings or SegmentationSettings()
    plane = _as_plane(image)
    if diameter_px is None and settings.diameter_um is not None:
        if pixel_size_um is None:
            raise ValueError("diameter_um is given, but not the size of a pixel")
        diameter_px = settings.diameter_um / pixel_size_um
    if min(plane.shape) < 3 or plane.min() == plane.max():
        return np.zeros(plane.shape, np.int32)
    diameter = diameter_px or estimate_diameter(plane)
    if diameter is None:
        return np.zeros(plane.shape, np.int32)
    nominal = np.pi / 4 * diameter**2
    flat, noise = _without_background(plane, diameter)
    found = tidy(_look(flat, noise, diameter, NodeScore(), settings.edge), _SMALLEST_PIECE * nominal)
    more = _look_again(flat, noise, diameter, found, settings.edge)
    found = tidy(np.where(found > 0, found, more), _SMALLEST_PIECE * nominal)
    nuclei = tidy(split_clumps(flat, found, diameter), _SMALLEST_PIECE * nominal)
    return _plausible(flat, nuclei, diameter, settings)


def estimate_diameter(image: NDArray[Any]) -> float | None:
    """Return the typical diameter of nuclei in pixels, or nothing where there are none.

    A first guess from the inscribed circles of what Otsu's threshold finds (which clumps do not mislead), then the
    median area of the best regions, chosen without much of a size prior.
    """
    plane = _as_plane(image)
    guess = _guess_diameter(plane)
    if guess is None:
        return None
    for _ in range(2):
        small, factor = _scaled_down(plane, guess)
        regions = _estimating(small, guess / factor)
        edge = np.unique(np.concatenate([regions[0], regions[-1], regions[:, 0], regions[:, -1]]))
        areas = np.bincount(regions.ravel())
        areas[edge] = 0
        areas = np.sort(areas[1:][areas[1:] > 0])
        if areas.size < 3:
            return guess
        guess = float(np.sqrt(4 / np.pi * np.median(areas)) * factor)
    return guess


def _estimating(plane: NDArray[np.float32], diameter: float) -> NDArray[np.int32]:
    flat, noise = _without_background(plane, diameter)
    return find_regions(flat, diameter, noise, _UNPRIORED)


def _as_plane(image: NDArray[Any]) -> NDArray[np.float32]:
    plane = np.asarray(image, dtype=np.float32)
    if plane.ndim != 2:
        raise ValueError(f"an image has two axes, y and x; this one has the shape {plane.shape}")
    finite = np.isfinite(plane)
    if not finite.all():
        plane = np.where(finite, plane, plane[finite].min() if finite.any() else 0)
    return plane


def _guess_diameter(plane: NDArray[np.float32]) -> float | None:
    """Return a first guess; where one thing outshines all else, what lies beside it is looked at as well."""
    smooth = ndi.gaussian_filter(plane[::2, ::2] if min(plane.shape) > 400 else plane, 1)
    flat = smooth - _background(smooth, min(smooth.shape) / 12)  # a slope must not become the foreground
    root: NDArray[np.float32] = np.sqrt(np.maximum(flat - np.percentile(flat, 10), 0))
    noise = _white_noise(plane) / (2 * np.sqrt(np.pi))  # of what was smoothed by one pixel
    unseen = np.zeros(root.shape, bool)
    guess: float | None = None
    for _ in range(_LOOKS):
        visible = root[~unseen]
        if visible.size == 0 or visible.min() == visible.max():
            break
        objects, count = ndi.label((root > threshold_otsu(visible)) & ~unseen)
        radius = np.asarray(ndi.maximum(ndi.distance_transform_edt(objects > 0), objects, np.arange(1, count + 1)))
        area = np.bincount(objects.ravel(), minlength=count + 1)[1:]
        is_round = radius > _LEAST_RADIUS_PX
        middle = _weighted_median(radius[is_round], area[is_round])
        if middle is not None and (
            guess is None
            or (
                np.count_nonzero(is_round) >= _ENOUGH_OBJECTS
                and _LARGER * middle < guess
                and flat[objects > 0].mean() - flat[(objects == 0) & ~unseen].mean() > _FLOOR_NOISE * noise
            )
        ):
            guess = middle
            largest = int(np.where(is_round, area, 0).argmax())
            if area[largest] <= area[is_round].sum() / 2:
                break
            out = objects == largest + 1
        elif middle is None:  # lines and specks alone
            out = objects > 0
        else:
            break
        unseen |= ndi.binary_dilation(out, iterations=_AROUND_PX)
    if guess is None:
        return None
    diameter = 2.2 * plane.shape[0] / root.shape[0] * guess
    return diameter if diameter < _LARGEST_PART * min(plane.shape) else None


def _weighted_median(values: NDArray[np.float64], weights: NDArray[np.int64]) -> float | None:
    if values.size == 0:
        return None
    order = np.argsort(values)
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, total[-1] / 2)])


def _without_background(plane: NDArray[np.float32], diameter: float) -> tuple[NDArray[np.float32], float]:
    """Return the image, smoothed, above its background, and the standard deviation of its noise."""
    sigma = max(_SMOOTH * diameter, 0.3)
    smooth = ndi.gaussian_filter(plane, sigma)
    flat: NDArray[np.float32] = smooth - _background(smooth, diameter)
    white = _white_noise(plane)
    least = float(np.ptp(plane)) / 512  # quantised images have no noise to measure
    left = max(white, least if np.unique(plane[::7, ::7]).size < 256 else 0.0) / (2 * np.sqrt(np.pi) * sigma)
    return flat, max(left, 0.02 * float(np.percentile(flat, 97)), 1e-6)


def _white_noise(plane: NDArray[np.float32]) -> float:
    """Return the standard deviation of what is different from pixel to pixel."""
    laplacian = 4 * plane[1:-1, 1:-1] - plane[:-2, 1:-1] - plane[2:, 1:-1] - plane[1:-1, :-2] - plane[1:-1, 2:]
    return 1.4826 * float(np.median(np.abs(laplacian))) / 20**0.5


def _background(smooth: NDArray[np.float32], diameter: float) -> NDArray[np.float32]:
    """Return what lies between the nuclei: the 10th percentile of a few diameters around, smoothed."""
    block = max(1, int(diameter / 3))
    height, width = (n // block for n in smooth.shape)
    if min(height, width) < 4:
        return np.full_like(smooth, np.percentile(smooth, 5))
    small = smooth[: height * block, : width * block].reshape(height, block, width, block).mean((1, 3))
    window = int(2 * round(3 * diameter / block / 2) + 1)
    low = ndi.percentile_filter(small, 10, size=window, mode="nearest")
    low = ndi.gaussian_filter(low, window / 4, mode="nearest")
    places = ((np.arange(n) + 0.5) / block - 0.5 for n in smooth.shape)
    y, x = (np.clip(place, 0, n - 1) for place, n in zip(places, low.shape, strict=True))
    background: NDArray[np.float32] = ndi.map_coordinates(
        low, np.meshgrid(y, x, indexing="ij"), order=1, output=np.float32
    )
    return background


def _scaled_down(flat: NDArray[np.float32], diameter: float) -> tuple[NDArray[np.float32], int]:
    factor = max(1, round(diameter / _WORKING_DIAMETER_PX))
    if factor == 1:
        return flat, 1
    height, width = (-(-n // factor) for n in flat.shape)
    padded = np.pad(flat, ((0, height * factor - flat.shape[0]), (0, width * factor - flat.shape[1])), mode="edge")
    return padded.reshape(height, factor, width, factor).mean((1, 3)), factor


def _look(flat: NDArray[np.float32], noise: float, diameter: float, how: NodeScore, edge: float) -> NDArray[np.int32]:
    """Find regions, and cut each at its steepest edge."""
    return cut_at_steepest(flat, _regions(flat, noise, diameter, how), noise, edge)


def _regions(flat: NDArray[np.float32], noise: float, diameter: float, how: NodeScore) -> NDArray[np.int32]:
    small, factor = _scaled_down(flat, diameter)
    regions = find_regions(small, diameter / factor, noise, how)
    return regions.repeat(factor, 0).repeat(factor, 1)[: flat.shape[0], : flat.shape[1]]


def _look_again(
    flat: NDArray[np.float32], noise: float, diameter: float, found: NDArray[np.int32], edge: float
) -> NDArray[np.int32]:
    """Find what the first look has missed: dim nuclei in the glare of bright ones are no regions of their own there.

    Returns labels above those that were found; 0 elsewhere.
    """
    glare = ndi.distance_transform_edt(found == 0) <= max(1, round(0.1 * diameter))
    regions = _regions(np.where(glare, 0, flat).astype(np.float32), noise, diameter, _AFTERWARDS)
    regions[glare] = 0
    if regions.max() == 0:
        return regions
    first = int(found.max())
    both = cut_at_steepest(flat, np.where(regions > 0, regions + first, found).astype(np.int32), noise, edge)
    return np.where(both > first, both, 0).astype(np.int32)


def _plausible(
    flat: NDArray[np.float32], labels: NDArray[np.int32], diameter: float, settings: SegmentationSettings
) -> NDArray[np.int32]:
    """Drop what is too small for a nucleus, or hardly brighter than what surrounds it."""
    numbers = np.arange(int(labels.max()) + 1)
    area = np.bincount(labels.ravel(), minlength=numbers.size)
    at_border = np.zeros(numbers.size, bool)
    at_border[np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])] = True
    around = ndi.grey_dilation(labels, footprint=disk(max(2, round(0.1 * diameter))))
    inside = _means(flat, labels, numbers.size)
    outside = _means(flat, np.where(labels == 0, around, 0), numbers.size)
    kept = area >= np.where(at_border, _SMALLEST_PIECE, settings.smallest) * np.pi / 4 * diameter**2
    kept &= inside - outside > settings.least_contrast * inside
    contour = np.where(ndi.minimum_filter(labels, 3) == labels, 0, labels)
    edge = _means(np.hypot(*np.gradient(flat)), contour, numbers.size)
    kept &= edge * diameter > _LEAST_EDGE * inside
    kept[0] = False
    return consecutive(np.where(kept[labels], labels, 0))


def _means(flat: NDArray[np.float32], labels: NDArray[np.int32], count: int) -> NDArray[np.float64]:
    """Return the mean over each label; 0 where there are no pixels."""
    total = np.bincount(labels.ravel(), flat.ravel(), count)
    means: NDArray[np.float64] = total / np.maximum(np.bincount(labels.ravel(), minlength=count), 1)
    return means
