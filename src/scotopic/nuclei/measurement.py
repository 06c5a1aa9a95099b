"""From masks to a table: one row a nucleus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import ndimage as ndi
from skimage.measure import regionprops_table
from skimage.segmentation import expand_labels

if TYPE_CHECKING:
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
_GAP, _RING = 0.15, 0.35
"""Local background is taken from this far to that far around a nucleus, in median diameters: beyond its own blur."""


def measure(
    labels: NDArray[Any],
    image: NDArray[Any],
    *,
    pixel_size_um: float = 1.0,
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
    pixel_size_um : float
        Size of a pixel in micrometres; 1 leaves everything in pixels.
    origin_um : (float, float)
        Where the centre of the first pixel lies, x and y in micrometres.
    camera : CameraNoise, optional
        With it intensities are in photo-electrons, and saturation is known; without it in counts.

    Returns
    -------
    pandas.DataFrame
        Columns: `label`; `x_um`, `y_um` of the centroid, and `x_px`, `y_px` in the image; `area_um2`; `eccentricity` (of the ellipse with the same second
        moments); `background` (median around the nucleus), `mean_intensity` above it, and `integrated_intensity` above it with
        the blurred rim just outside the mask, which neighbours share by distance;
        `touches_border`, `saturated` (without a camera: the highest value of an integer image); `clump` (far larger
        than the median, or larger and no ellipse), `debris` (far smaller, and whole), `mitotic` (smaller and far
        brighter: condensed chromatin).

    Raises
    ------
    ValueError
        If labels and image differ in shape.
    """
    if labels.shape != image.shape:
        raise ValueError(f"labels of shape {labels.shape} do not fit an image of shape {image.shape}")
    signal = camera.to_electrons(image) if camera is not None else image.astype(np.float32)
    found = regionprops_table(
        labels, signal, properties=("label", "centroid", "area", "eccentricity", "mean_intensity", *_AXES)
    )
    table = pd.DataFrame({"label": found["label"].astype(np.int32)})
    numbers = table["label"].to_numpy()
    table["x_um"] = origin_um[0] + found["centroid-1"] * pixel_size_um
    table["y_um"] = origin_um[1] + found["centroid-0"] * pixel_size_um
    table["x_px"], table["y_px"] = found["centroid-1"], found["centroid-0"]
    table["area_um2"] = found["area"] * pixel_size_um**2
    table["eccentricity"] = found["eccentricity"]
    table["background"] = _local_background(labels, signal, numbers, found["area"])
    table["mean_intensity"] = found["mean_intensity"] - table["background"]
    table["integrated_intensity"] = _integrated(labels, signal, numbers, table["background"].to_numpy())
    rim = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]) if labels.size else labels.ravel()
    table["touches_border"] = np.isin(numbers, rim)
    table["saturated"] = np.isin(numbers, labels[_is_full(image, camera)])
    ellipse_px = np.pi / 4 * found["axis_major_length"] * found["axis_minor_length"]
    return _with_flags(table, found["area"] / np.maximum(ellipse_px, 1e-6))


def _is_full(image: NDArray[Any], camera: CameraNoise | None) -> NDArray[np.bool_]:
    if camera is not None:
        return np.asarray(image >= camera.saturation_counts)
    if np.issubdtype(image.dtype, np.integer):
        return np.asarray(image == np.iinfo(image.dtype).max)
    return np.zeros(image.shape, bool)


def _with_flags(table: pd.DataFrame, ellipse_fit: NDArray[np.float64]) -> pd.DataFrame:
    """Add what a nucleus looks like beside the others of its field; whole nuclei say what is typical."""
    whole = table[~table["touches_border"]] if not table["touches_border"].all() else table
    size = table["area_um2"] / whole["area_um2"].median()
    brightness = table["mean_intensity"] / whole["mean_intensity"].median()
    table["clump"] = (size > _HUGE) | ((size > _LARGE) & (ellipse_fit < _NO_ELLIPSE))
    table["debris"] = (size < _TINY) & ~table["touches_border"]
    table["mitotic"] = (size < 1) & (brightness > _CONDENSED) & ~table["debris"]
    return table


def _integrated(
    labels: NDArray[Any], signal: NDArray[np.float32], numbers: NDArray[np.int32], background: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the signal above background of each nucleus and of the rim around it."""
    if numbers.size == 0:
        return np.zeros(0)
    diameter = np.sqrt(4 / np.pi * np.median(np.bincount(labels.ravel())[numbers]))
    wide = expand_labels(labels, max(1.0, _RIM * diameter)).ravel()
    total, pixels = np.bincount(wide, signal.ravel())[numbers], np.bincount(wide)[numbers]
    integrated: NDArray[np.float64] = total - pixels * background
    return integrated


def _local_background(
    labels: NDArray[Any], signal: NDArray[np.float32], numbers: NDArray[np.int32], area_px: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the median of the signal in a ring around each nucleus; of all background where it has no ring."""
    if numbers.size == 0:
        return np.zeros(0)
    diameter = float(np.sqrt(4 / np.pi * np.median(area_px)))
    near = expand_labels(labels, max(1.0, _GAP * diameter))
    ring = np.where(near > 0, 0, expand_labels(labels, max(3.0, _RING * diameter)))
    everywhere = float(np.median(signal[near == 0])) if (near == 0).any() else float(signal.min())
    inside = ring > 0
    if not inside.any():
        return np.full(numbers.size, everywhere)
    medians = np.asarray(ndi.median(signal[inside], ring[inside], numbers), dtype=float)
    present = np.isin(numbers, ring[inside])
    return np.where(present, medians, everywhere)
