"""Image files of the usual kinds as one grey plane; what is none is refused by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import tifffile
from PIL import Image

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")
"""Endings of image files, in lower case."""


def image_name(path: Path) -> str:
    """Return the name of an image: that of its file without `.png`, `.tif` or `.ome.tif`; other dots belong to it."""
    return path.stem.removesuffix(".ome")


def image_files(folder: Path) -> list[Path]:
    """Return the images of a folder by name, without what an operating system hides there (`._A1.tif` of macOS)."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    )


def read_plane(path: Path, *, labels: bool = False) -> NDArray[Any]:
    """Return the one grey plane of an image file, shape (Y, X), of whole or finite numbers.

    Parameters
    ----------
    labels : bool
        Whether it is an image of labels, which may be of true and false alone (returned as 0 and 1).

    Raises
    ------
    ProblemsError
        If it cannot be read, or is no such plane.
    """
    try:
        image = _read_tiff(path) if path.suffix.lower() in {".tif", ".tiff"} else _read_with_pillow(path)
    except Exception as error:  # readers raise what they like
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ProblemsError([Problem(f"cannot be read as an image: {reason}", str(path))]) from error
    plane = np.squeeze(image)
    if plane.ndim != 2:
        told = f"has the shape {image.shape}: several planes or colours; allowed: one grey plane (Y, X)"
        raise ProblemsError([Problem(told, str(path))])
    if labels and plane.dtype.kind == "b":
        return plane.astype(np.uint8)
    if plane.dtype.kind not in "uif":
        what = "true and false alone" if plane.dtype.kind == "b" else f"{plane.dtype} values"
        raise ProblemsError([Problem(f"holds {what}, no intensities", str(path))])
    if plane.dtype.kind == "f" and not np.isfinite(plane).all():
        raise ProblemsError([Problem("holds values that are not finite", str(path))])
    return plane


def _read_tiff(path: Path) -> NDArray[Any]:
    try:
        return tifffile.imread(path)
    except ValueError:  # a compression that tifffile leaves to an optional package; Pillow knows the usual ones
        return _read_with_pillow(path)


def _read_with_pillow(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode == "P":
            raise ValueError("colours from a palette")
        if (planes := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"{planes} planes; allowed: one grey plane")
        return np.asarray(image)
