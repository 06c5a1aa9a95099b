"""Image files of the usual kinds as one grey plane; what is none is refused by its name."""

from __future__ import annotations

from dataclasses import dataclass
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
_TIFF = {".tif", ".tiff"}


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


@dataclass(frozen=True)
class Header:
    """What an image file says of its pixels, before they are read."""

    shape: tuple[int, ...]
    """Height and width, and the number of colours if there are any."""
    bits: int
    """Bits of a value in the file: 8, 16 or 32."""


def header_of(path: Path) -> Header:
    """Return the size of an image, or of the first plane of a stack, without its pixels.

    Raises
    ------
    ProblemsError
        If it cannot be read.
    """
    try:
        if path.suffix.lower() in _TIFF:
            with _opened_tiff(path) as file:
                page = file.pages.first
                return Header(page.shape, page.bitspersample)
        with Image.open(path) as image:
            return Header((image.height, image.width), 16 if "16" in image.mode else 32 if image.mode in "IF" else 8)
    except Exception as error:  # readers raise what they like
        raise ProblemsError([Problem(f"cannot be read as an image: {_reason(error)}", str(path))]) from error


def read_plane(path: Path, *, labels: bool = False, plane: int | None = None) -> NDArray[Any]:
    """Return the one grey plane of an image file, shape (Y, X), of whole or finite numbers.

    An OME-TIFF may be one of a set of files: what is in the others is not read.

    Parameters
    ----------
    labels : bool
        Whether it is an image of labels, which may be of true and false alone (returned as 0 and 1).
    plane : int, optional
        Which plane of a TIFF of several planes.

    Raises
    ------
    ProblemsError
        If it cannot be read, or is no such plane.
    """
    try:
        image = _read_tiff(path, plane) if path.suffix.lower() in _TIFF else _read_with_pillow(path)
    except Exception as error:  # readers raise what they like
        raise ProblemsError([Problem(f"cannot be read as an image: {_reason(error)}", str(path))]) from error
    grey = np.squeeze(image)
    if grey.ndim != 2:
        told = f"has the shape {image.shape}: several planes or colours; allowed: one grey plane (Y, X)"
        raise ProblemsError([Problem(told, str(path))])
    if labels and grey.dtype.kind == "b":
        return grey.astype(np.uint8)
    if grey.dtype.kind not in "uif":
        what = "true and false alone" if grey.dtype.kind == "b" else f"{grey.dtype} values"
        raise ProblemsError([Problem(f"holds {what}, no intensities", str(path))])
    if grey.dtype.kind == "f" and not np.isfinite(grey).all():
        raise ProblemsError([Problem("holds values that are not finite", str(path))])
    return grey


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _opened_tiff(path: Path) -> tifffile.TiffFile:
    """Open this file alone: by its OME metadata tifffile would read all files of a set, and return the first one's image."""
    return tifffile.TiffFile(path, is_ome=False, is_mmstack=False)


def _read_tiff(path: Path, plane: int | None) -> NDArray[Any]:
    with _opened_tiff(path) as file:
        if file.pages.first.photometric == tifffile.PHOTOMETRIC.MINISWHITE and file.pages.first.bitspersample > 1:
            raise ValueError("white is zero (inverted); save it with black as zero")
        if plane is None:
            whole: NDArray[Any] = file.series[0].asarray()
            return whole
        if len(file.pages) == 1 and plane > 0:  # ImageJ writes one page for a whole stack
            stack = file.series[0].asarray()
            return np.asarray(stack.reshape(-1, *stack.shape[-2:])[plane])
        image: NDArray[Any] = file.pages[plane].asarray()
        return image


def _read_with_pillow(path: Path) -> NDArray[Any]:
    with Image.open(path) as image:
        if image.mode == "P":
            raise ValueError("colours from a palette")
        if (planes := getattr(image, "n_frames", 1)) > 1:
            raise ValueError(f"{planes} planes; allowed: one grey plane")
        return np.asarray(image)
