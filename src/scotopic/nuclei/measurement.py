"""From masks to a table: one row a nucleus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import ndimage as ndi
from skimage.measure import regionprops_table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise

_AXES = ("axis_major_length", "axis_minor_length")
_HUGE, _LARGE, _TINY = 3.0, 1.6, 0.35
"""Areas relative to the median of the field: a G2 nucleus is about 1.6 times as large as one in G1."""
_NO_ELLIPSE = 0.93
"""Ellipse fit below which a large object is a clump: two discs that touch have 0.89."""
_CONDENSED = 1.8
"""Mean intensity relative to the median from which chromatin is condensed."""
_RIM = 0.1
"""Intensity is integrated so far beyond the mask, in median diameters: contours run where the edge is steepest, and the
light that blur puts outside belongs to the nucleus (correlation with true DNA of isolated nuclei 0.992 -> 0.997)."""
_LEAST_PLATEAU_PX = 20
_GAP, _RING = 0.15, 0.35
"""Local background is taken from this far to that far around a nucleus, in median diameters: beyond its own blur."""
_CLIP = 4.0
"""What is further from the median of its ring, in standard deviations of a pixel, is no background."""


def measure(
    labels: NDArray[Any],
    image: NDArray[Any],
    *,
    pixel_size_um: float | None = None,
    origin_um: tuple[float, float] = (0.0, 0.0),
    camera: CameraNoise | None = None,
) -> pd.DataFrame:
    """Measure every nucleus of a field.

    Parameters
    ----------
    labels : NDArray, shape (Y, X), integer
        Nuclei; 0 is background.
    image : NDArray, shape (Y, X)
        Counts.
    pixel_size_um : float, optional
        Size of a pixel in micrometres; without it areas are in pixels, and places in the image alone.
    origin_um : (float, float)
        Where the centre of the first pixel lies, x and y in micrometres.
    camera : CameraNoise, optional
        With it intensities are in photo-electrons, and saturation is known; without it in counts.

    Returns
    -------
    pandas.DataFrame
        Columns: `label`; `x_um`, `y_um` of the centroid on the stage, and `x_px`, `y_px` in the image; `area_um2`, or
        `area_px`; `eccentricity` (of the ellipse with the same second moments); `background_e` (mean around the nucleus, drawn to
        that of the field where noise hides what is local), `mean_intensity_e` above it, `integrated_intensity_e` above it with the
        blurred rim just outside the mask, which neighbours share by distance, and `integrated_noise_e`, its standard
        deviation by noise of pixels, of photons (with a camera) and of the background; without a camera these are `_counts`;
        `touches_border` (of the image, or of padding in it: an edge of pixels that are all the same), `saturated` (without
        a camera: a plateau of the highest value of an integer image); `clump` (far larger than the median, or larger and no
        ellipse), `debris` (far smaller, and whole), `mitotic` (smaller and far brighter: condensed chromatin).

    Raises
    ------
    ValueError
        If labels and image differ in shape.
    """
    images = {"": image}
    return measure_levels(labels, images, pixel_size_um=pixel_size_um, origin_um=origin_um, camera=camera)[""]


def measure_levels(
    labels: NDArray[Any],
    images: Mapping[str, NDArray[Any]],
    *,
    pixel_size_um: float | None = None,
    origin_um: tuple[float, float] = (0.0, 0.0),
    camera: CameraNoise | None = None,
) -> dict[str, pd.DataFrame]:
    """Measure the same nuclei in several images, as `measure` does in one; their shapes are looked at once.

    Parameters
    ----------
    images : mapping of NDArray, each of shape (Y, X)
        Counts, by light level.

    Returns
    -------
    dict of pandas.DataFrame
        A table for each image.
    """
    for image in images.values():
        if labels.shape != image.shape:
            raise ValueError(f"labels of shape {labels.shape} do not fit an image of shape {image.shape}")
    found = regionprops_table(labels, properties=("label", "centroid", "area", "eccentricity", *_AXES))
    shapes = pd.DataFrame({"label": found["label"].astype(np.int32)})
    if pixel_size_um is not None:
        shapes["x_um"] = origin_um[0] + found["centroid-1"] * pixel_size_um
        shapes["y_um"] = origin_um[1] + found["centroid-0"] * pixel_size_um
    shapes["x_px"], shapes["y_px"] = found["centroid-1"], found["centroid-0"]
    if pixel_size_um is not None:
        shapes["area_um2"] = found["area"] * pixel_size_um**2
    else:
        shapes["area_px"] = found["area"]
    shapes["eccentricity"] = found["eccentricity"]
    numbers = shapes["label"].to_numpy()
    at_border = np.isin(numbers, labels[_outer_edge(next(iter(images.values())), labels)])
    unit = "counts" if camera is None else "e"
    ellipse_px = np.pi / 4 * found["axis_major_length"] * found["axis_minor_length"]
    fit = found["area"] / np.maximum(ellipse_px, 1e-6)
    zones = _zones(labels, found["area"])

    def of(image: NDArray[Any]) -> pd.DataFrame:
        signal = camera.to_electrons(image) if camera is not None else image.astype(np.float32)
        background, uncertainty, pixel_noise = _local_background(zones, signal, numbers)
        mean = _sums(labels, signal)[numbers] / found["area"] - background
        pixels = np.bincount(zones.wide.ravel())[numbers]
        whole = _sums(zones.wide, signal)[numbers] - pixels * background
        shot = np.maximum(whole, 0) if camera is not None else 0.0
        full = np.isin(numbers, labels[_is_full(image, camera)])
        light = {f"background_{unit}": background, f"mean_intensity_{unit}": mean}
        light[f"integrated_intensity_{unit}"] = whole
        light[f"integrated_noise_{unit}"] = np.sqrt(pixels * pixel_noise**2 + (pixels * uncertainty) ** 2 + shot)
        return _with_flags(shapes.assign(**light, touches_border=at_border, saturated=full), fit)

    return {level: of(image) for level, image in images.items()}


def intensity_unit(nuclei: pd.DataFrame) -> str:
    """Return the unit of a table's intensities, as its columns end: `e` (photo-electrons) or `counts`."""
    return "e" if "mean_intensity_e" in nuclei else "counts"


def mean_intensity(nuclei: pd.DataFrame) -> pd.Series:
    """Return the mean intensities above background, in whatever unit a table has."""
    return nuclei[f"mean_intensity_{intensity_unit(nuclei)}"]


def area(nuclei: pd.DataFrame) -> pd.Series:
    """Return the areas of nuclei, in whatever unit a table has."""
    return nuclei["area_um2" if "area_um2" in nuclei else "area_px"]


def _outer_edge(image: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the outermost pixels of what was imaged: along the border, and along padding and seams.

    Padding is what a stitched or turned image has where nothing was imaged: large patches of its lowest value, which hardly
    a pixel elsewhere has, or lines of one value from end to end.
    """
    edge = np.zeros(image.shape, bool)
    if not image.size:
        return edge
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    blank = _padding(image)
    elsewhere = image[~blank & (labels == 0)]
    if blank.any() and elsewhere.size and (elsewhere == image.min()).mean() < _MOST_ELSEWHERE:
        edge |= ndi.binary_dilation(blank, iterations=_BESIDE_PADDING_PX) & ~blank
    return edge


def _padding(image: NDArray[Any]) -> NDArray[np.bool_]:
    """Return where an image has no picture: large patches of one and the same extreme value that reach its border."""
    lowest = image == image.min()
    lines = np.zeros(image.shape, bool)  # a seam: rows or columns of one value from end to end
    lines[np.ptp(image, axis=1) == 0] = lines[:, np.ptp(image, axis=0) == 0] = True
    if lines.mean() > _MOST_SEAMS:  # no seams, but a picture without noise
        lines[:] = False
    if lowest.mean() < _LEAST_PADDING:
        return lines
    patches, count = ndi.label(ndi.binary_opening(lowest, iterations=2))
    if count == 0:
        return lines
    size = np.bincount(patches.ravel(), minlength=count + 1)
    rim = np.unique(np.concatenate([patches[0], patches[-1], patches[:, 0], patches[:, -1]]))
    large = np.zeros(count + 1, bool)
    large[rim] = size[rim] >= _LEAST_PADDING * image.size
    large[0] = False
    return np.asarray(large[patches] | lines)


_MOST_SEAMS = 0.1
_LEAST_PADDING = 0.005
"""Smallest patch without picture, as a share of the image."""
_MOST_ELSEWHERE = 0.01
"""Largest share of the rest's background with the value of the padding: a background that ends at zero is none."""
_BESIDE_PADDING_PX = 3


class _Zones(NamedTuple):
    """Label images of what lies around nuclei, each shape (Y, X); what is near to several is the nearest one's."""

    wide: NDArray[Any]
    """Nuclei with their blurred rims."""
    ring: NDArray[Any]
    """Rings of background."""
    free: NDArray[np.bool_]
    """Where no nucleus is near."""


def _zones(labels: NDArray[Any], area_px: NDArray[np.float64]) -> _Zones:
    if area_px.size == 0:
        return _Zones(labels, labels, labels == 0)
    diameter = float(np.sqrt(4 / np.pi * np.median(area_px)))
    distance, nearest = ndi.distance_transform_edt(labels == 0, return_indices=True)
    owner = labels[tuple(nearest)]
    free = distance > max(1.0, _GAP * diameter)
    wide = np.where(distance <= max(1.0, _RIM * diameter), owner, 0)
    return _Zones(wide, np.where(free & (distance <= max(3.0, _RING * diameter)), owner, 0), free)


def _sums(labels: NDArray[Any], signal: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(np.bincount(labels.ravel(), signal.ravel()), np.float64)


def _is_full(image: NDArray[Any], camera: CameraNoise | None) -> NDArray[np.bool_]:
    if camera is not None:
        return np.asarray(image >= camera.saturation_counts)
    if not np.issubdtype(image.dtype, np.integer) or not image.size:
        return np.zeros(image.shape, bool)
    highest = image == image.max()
    # A camera of 12 bits in a file of 16: its end shows as plateaus, where noise would leave single pixels.
    neighbours = ndi.convolve(highest.astype(np.uint8), np.ones((3, 3), np.uint8), mode="constant")
    is_plateau = highest.sum() >= _LEAST_PLATEAU_PX and (neighbours[highest] >= 6).mean() > 0.3
    return np.asarray(highest if is_plateau or image.max() == np.iinfo(image.dtype).max else np.zeros_like(highest))


def _with_flags(table: pd.DataFrame, ellipse_fit: NDArray[np.float64]) -> pd.DataFrame:
    """Add what a nucleus looks like beside the others of its field; whole nuclei say what is typical."""
    whole = table[~table["touches_border"]] if not table["touches_border"].all() else table
    size = area(table) / area(whole).median()
    brightness = mean_intensity(table) / mean_intensity(whole).median()
    table["clump"] = (size > _HUGE) | ((size > _LARGE) & (ellipse_fit < _NO_ELLIPSE))
    table["debris"] = (size < _TINY) & ~table["touches_border"]
    table["mitotic"] = (size < 1) & (brightness > _CONDENSED) & ~table["debris"]
    return table


def _local_background(
    zones: _Zones, signal: NDArray[np.float32], numbers: NDArray[np.int32]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return the background at each nucleus, its standard deviation, and that of a pixel of background.

    The mean of a ring around the nucleus without what is no background there (a median of whole counts is off by up to half
    a count, which in the dark is a third of a nucleus). Rings of a field differ by what is local and by noise; each is drawn
    to their mean by the share of noise in its variance (James and Stein 1961; Efron and Morris 1973, JASA 68:117): at full light
    hardly at all, in the dark nearly the whole way.
    """
    free = signal[zones.free] if zones.free.any() else signal.ravel()
    middle, noise = _robust(free)
    everywhere = _clipped_mean(free, middle, noise)
    inside = zones.ring > 0
    if not inside.any():
        return np.full(numbers.size, everywhere), np.zeros(numbers.size), noise
    ring, values = zones.ring[inside], signal[inside]
    medians = np.zeros(int(numbers.max()) + 1)
    medians[numbers] = np.nan_to_num(ndi.median(values, ring, numbers), nan=everywhere)
    near = np.abs(values - medians[ring]) <= _CLIP * noise
    count = np.bincount(ring[near], minlength=medians.size)[numbers]
    means = np.bincount(ring[near], values[near], medians.size)[numbers] / np.maximum(count, 1)
    if not (count > 0).any():
        return np.full(numbers.size, everywhere), np.zeros(numbers.size), noise
    by_noise = noise / np.sqrt(np.maximum(count, 1))
    typical, spread = _robust(means[count > 0])
    local = max(spread**2 - float(np.median(by_noise[count > 0] ** 2)), 0.0)
    share = np.where(count > 0, local / np.maximum(local + by_noise**2, 1e-12), 0.0)
    common = typical if local > 0 else float(np.average(means, weights=count))
    return common + share * (means - common), np.sqrt(share) * by_noise, noise


def _robust(values: NDArray[Any]) -> tuple[float, float]:
    """Return median and standard deviation of what most values are like; whole counts have a least one, of their steps."""
    low, middle, high = (float(v) for v in np.percentile(values, [15.865, 50, 84.135]))
    return middle, max((high - low) / 2, 1e-6)


def _clipped_mean(values: NDArray[Any], middle: float, noise: float) -> float:
    near = values[np.abs(values - middle) <= _CLIP * noise]
    return float(near.mean()) if near.size else middle
