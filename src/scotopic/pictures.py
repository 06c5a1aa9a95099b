"""Pictures for people: images side by side, each with its own contrast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import imageio.v3 as iio
import numpy as np
import tifffile
from scipy import ndimage as ndi

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


def stretched(image: NDArray[Any], low: float = 1, high: float = 99.8) -> NDArray[np.uint8]:
    """Return an image, shape (Y, X), with the contrast stretched between two percentiles, as 8 bit."""
    black, white = np.percentile(image, [low, high])
    scaled: NDArray[np.uint8] = (np.clip((image - black) / max(white - black, 1e-9), 0, 1) * 255).astype(np.uint8)
    return scaled


def overlay(
    image: NDArray[Any], labels: NDArray[Any], unlabelled: NDArray[np.bool_] | None = None
) -> NDArray[np.uint8]:
    """Return an image, shape (Y, X), stretched, with contours: shape (Y, X, 3), 8 bit.

    Labels are drawn in red, and in yellow what is as bright and has none.
    """
    grey = stretched(image, 0.5, 99.8)
    root = (np.sqrt(grey / 255) * 255).astype(np.uint8)  # dim nuclei must be seen beside bright ones
    picture = np.repeat(root[..., None], 3, axis=2)
    inner = (ndi.minimum_filter(labels, 3) != labels) | (ndi.maximum_filter(labels, 3) != labels)
    picture[inner & (labels > 0)] = (255, 40, 40)
    if unlabelled is not None:
        picture[unlabelled & ~ndi.binary_erosion(unlabelled)] = (255, 210, 40)
    return picture


def write_site(folder: Path, name: str, images: dict[str, NDArray[Any]], pixel_size_um: float) -> tuple[Path, Path]:
    """Write the images of a site as an OME-TIFF in counts (light levels as channels) and as a PNG to look at."""
    tiff, png = folder / f"{name}.ome.tif", folder / f"{name}.png"
    tifffile.imwrite(
        tiff,
        np.stack(list(images.values())),
        metadata={
            "axes": "CYX",
            "PhysicalSizeX": pixel_size_um,
            "PhysicalSizeXUnit": "µm",
            "PhysicalSizeY": pixel_size_um,
            "PhysicalSizeYUnit": "µm",
            "Channel": {"Name": list(images)},
        },
    )
    iio.imwrite(png, np.hstack([stretched(image) for image in images.values()]))
    return tiff, png


_BARS = " ▁▂▃▄▅▆▇█"


def histogram_line(image: NDArray[Any], saturation: int, bars: int = 40) -> str:
    """Return the histogram of an image as one line of text, logarithmic, from its darkest to its brightest pixel."""
    low, high = int(image.min()), max(int(image.max()), int(image.min()) + 1)
    counts, _ = np.histogram(image, bars, (low, high))
    heights = np.log1p(counts) / np.log1p(counts.max())
    line = "".join(_BARS[int(np.ceil(h * (len(_BARS) - 1)))] for h in heights)
    return f"{low} |{line}| {high} of {saturation} counts"
