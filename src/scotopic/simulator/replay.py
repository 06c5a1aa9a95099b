from __future__ import annotations

import hashlib
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage.measure import label
from skimage.segmentation import relabel_sequential

from scotopic.nuclei.images import image_files, image_name, read_plane
from scotopic.protocol import Problem, ProblemsError
from scotopic.simulator.specimen import Field, Scene, Truth, nuclei_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from scotopic.protocol import ImageSpecimenSettings, Site

_CACHED_IMAGES = 8


class ImageSpecimen:
    """Real bright images, one piece a site, re-imaged at any light.

    Each source image belongs to one well alone, so that no image is on two of training, validation and held-out
    wells. A larger image gives several sites of its well. Where the images run out there is nothing but
    background: none is shown twice.
    """

    def __init__(
        self, settings: ImageSpecimenSettings, sites: Sequence[Site], shape: tuple[int, int], pixel_size_um: float
    ) -> None:
        """Share the images out over the sites.

        Parameters
        ----------
        settings : ImageSpecimenSettings
            Folder and conversion.
        sites : sequence of Site
            All sites of the protocol. Wells are served in the order in which they first occur.
        shape : (int, int)
            Rows and columns of the camera.
        pixel_size_um : float
            Size of a pixel on the plate; one pixel of a source image becomes one pixel of the camera.

        Raises
        ------
        ProblemsError
            If the folder holds no images, or one that cannot be read or is smaller than the camera.
        """
        self._settings = settings
        self._shape = shape
        self._pixel_size_um = pixel_size_um
        self._paths = image_paths(settings)
        self._refuse_repeats_and_bad_masks()
        self._read = lru_cache(maxsize=_CACHED_IMAGES)(self._prepare)
        self._pieces = self._share_out(sites)

    def _refuse_repeats_and_bad_masks(self) -> None:
        """Read everything once: an image that is there twice would be in training and held-out wells at once."""
        problems = []
        seen: dict[bytes, Path] = {}
        for path in self._paths:
            pixels = hashlib.sha256(read_plane(path).tobytes()).digest()
            if pixels in seen:
                problems.append(Problem(f"is the same image as {seen[pixels].name}: remove one of them", str(path)))
            seen.setdefault(pixels, path)
            try:
                if (mask := mask_path(path)) is not None:
                    _read_masks(mask, read_plane(path).shape)
            except ProblemsError as error:
                problems += error.problems
        if problems:
            raise ProblemsError(problems)

    def _share_out(self, sites: Sequence[Site]) -> list[tuple[Site, Path, int, int]]:
        """Return (site, image, first row, first column) of each site that has an image."""
        by_well: dict[str, list[Site]] = {}
        for site in sites:
            by_well.setdefault(site.well, []).append(site)
        left = [(path, places) for path in self._paths if (places := self._places(path))]
        shared: list[tuple[Site, Path, int, int]] = []
        for members in by_well.values():
            free: list[tuple[Path, int, int]] = []
            while left and len(free) < len(members):
                path, places = left.pop(0)
                free += [(path, row, column) for row, column in places]
            if len(free) < len(members):
                break  # a well is filled whole or not at all
            ordered = sorted(members, key=lambda s: s.index)
            shared += [(site, *place) for site, place in zip(ordered, free, strict=False)]
        return shared

    def _places(self, path: Path) -> list[tuple[int, int]]:
        """Return the first row and column of each piece of an image: pieces do not overlap."""
        height, width = _image_shape(path)
        rows, columns = height // self._shape[0], width // self._shape[1]
        if not rows or not columns:
            raise ProblemsError(
                [
                    Problem(
                        f"is {width} x {height} pixels, smaller than the camera ({self._shape[1]} x {self._shape[0]})",
                        str(path),
                    )
                ]
            )
        top, left = (height - rows * self._shape[0]) // 2, (width - columns * self._shape[1]) // 2
        return [(top + r * self._shape[0], left + c * self._shape[1]) for r in range(rows) for c in range(columns)]

    is_imaged = True

    def at(self, hours: float) -> Self:
        """Return itself: images do not live."""
        return self

    @property
    def wells(self) -> tuple[str, ...]:
        """Wells that have images on them, in the order given."""
        return tuple(dict.fromkeys(site.well for site, *_ in self._pieces))

    @property
    def n_images(self) -> int:
        """Number of source images."""
        return len(self._paths)

    @property
    def sources(self) -> dict[str, tuple[str, ...]]:
        """Names of the source images of each well."""
        return {
            well: tuple(dict.fromkeys(path.name for site, path, *_ in self._pieces if site.well == well))
            for well in self.wells
        }

    @cached_property
    def fingerprint(self) -> str:
        """Number of images and hash over the settings and every image's bytes."""
        digest = hashlib.sha256(self._settings.model_dump_json(exclude={"folder"}).encode())
        for path in self._paths:
            digest.update(path.read_bytes())
        return f"images-{len(self._paths)}-{digest.hexdigest()[:12]}"

    @property
    def description(self) -> str:
        """Number of images and masks, and the conversion from counts to photons."""
        offset, scale = self._conversion
        masks = sum(mask_path(path) is not None for path in self._paths)
        return (
            f"{len(self._paths)} images ({masks} with masks); offset {offset:.1f} counts, "
            f"{1 / scale:.1f} counts above it (99.5th percentile) become peak_e photo-electrons"
        )

    def scene(self, origin_px: tuple[float, float], shape: tuple[int, int], pixel_size_um: float) -> Scene:
        """Return the fluorescence of a piece of the plate (see `Specimen.scene`).

        The lattice is that of the site's source image, which lies exactly under the camera's pixels when the
        stage stands at the site: no resampling blurs it, and masks fit to the pixel.
        """
        light = np.full(shape, self._settings.background_fraction, np.float32)
        centre = origin_px[0] + (shape[1] - 1) / 2, origin_px[1] + (shape[0] - 1) / 2
        found = self._piece_at(centre, pixel_size_um)
        if found is None:
            return Scene(light, origin_px)
        image, _ = self._read(found[1])
        row, column, origin = self._start_of(found, origin_px)
        rows, columns = (
            np.clip(np.arange(start, start + n), 0, size - 1)
            for start, n, size in zip((row, column), shape, image.shape, strict=True)
        )
        # Beyond the source image its edge goes on: that is margin for drift and blur, hardly ever in view.
        light += image[np.ix_(rows, columns)]
        return Scene(light, origin)

    def truth(self, field: Field) -> Truth | None:
        """Return the hand masks of a field of view, at the nearest whole pixel, or None without masks."""
        x, y = field.origin_px
        centre = x + (field.width_px - 1) / 2, y + (field.height_px - 1) / 2
        found = self._piece_at(centre, field.pixel_size_um)
        if found is None or (masks := self._read(found[1])[1]) is None:
            return None
        row, column, _ = self._start_of(found, (x + 0.5, y + 0.5))
        row, column = (
            int(np.clip(start, 0, size - n))
            for start, size, n in zip((row, column), masks.shape, (field.height_px, field.width_px), strict=True)
        )
        labels, *_ = relabel_sequential(
            masks[row : row + field.height_px, column : column + field.width_px].copy()  # the masks are read-only
        )
        return Truth(labels.astype(np.int32), nuclei_table(labels, field.pixel_size_um))

    def _piece_at(self, centre_px: tuple[float, float], px: float) -> tuple[Site, Path, int, int] | None:
        """Return the piece whose site is nearest, if it is less than half a field away."""
        if not self._pieces:
            return None
        x, y = self._centres_um.T
        nearest = int(np.argmin(np.hypot(x - centre_px[0] * px, y - centre_px[1] * px)))
        far_x, far_y = (abs(c * px - v[nearest]) / px for c, v in zip(centre_px, (x, y), strict=True))
        return self._pieces[nearest] if far_x < self._shape[1] / 2 and far_y < self._shape[0] / 2 else None

    @cached_property
    def _centres_um(self) -> NDArray[np.float64]:
        return np.array([(site.plate_x_um, site.plate_y_um) for site, *_ in self._pieces])

    def _start_of(
        self, piece: tuple[Site, Path, int, int], origin_px: tuple[float, float]
    ) -> tuple[int, int, tuple[float, float]]:
        """Return row and column of the source pixel at or before a point of the plate, and where exactly it lies."""
        site, _, row, column = piece
        x0, y0 = Field(site.plate_x_um, site.plate_y_um, self._shape[1], self._shape[0], self._pixel_size_um).origin_px
        # A millionth of a pixel of tolerance: rounding of coordinates must not cost a whole pixel.
        dx, dy = (int(np.floor(o - start + 1e-6)) for o, start in zip(origin_px, (x0, y0), strict=True))
        return row + dy, column + dx, (x0 + dx, y0 + dy)

    def _prepare(self, path: Path) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """Return the fluorescence of a source image (peak near 1) and its masks."""
        offset, scale = self._conversion
        image = _smoothed(read_plane(path), self._settings.smooth_px)
        mask = mask_path(path)
        return np.maximum(image - offset, 0) * scale, None if mask is None else _read_masks(mask, image.shape)

    @cached_property
    def _conversion(self) -> tuple[np.float32, np.float32]:
        """Offset in counts, and 1 / (99.5th percentile above it), of all images together.

        One conversion for all: a dim or empty image stays dim or empty beside the others.
        """
        samples = np.concatenate([read_plane(path)[::5, ::5].ravel() for path in self._paths])
        offset = self._settings.offset_counts
        offset = float(np.percentile(samples, 1)) if offset is None else offset
        peak = float(np.percentile(samples, 99.5)) - offset
        if not peak > 0:
            raise ProblemsError([Problem("holds images that are all black above the offset", self._settings.folder)])
        return np.float32(offset), np.float32(1 / peak)


def image_paths(settings: ImageSpecimenSettings) -> tuple[Path, ...]:
    """Return the images of a specimen folder in the order of their names.

    Raises
    ------
    ProblemsError
        If there is no such folder, or no image in it.
    """
    folder = Path(settings.folder)
    inner = folder / "images"
    source = inner if inner.is_dir() else folder
    paths = image_files(source) if source.is_dir() else []
    if not paths:
        what = "holds no TIFF or PNG images" if folder.is_dir() else "is no folder"
        raise ProblemsError([Problem(what, str(folder))])
    return tuple(paths[: settings.limit])


def mask_path(image: Path) -> Path | None:
    """Return the label image of the same name in `masks/` that belongs to an image of `images/`, if there is one."""
    folder = image.parent.parent / "masks"
    if not folder.is_dir():
        return None
    return next((p for p in image_files(folder) if image_name(p) == image_name(image)), None)


def _image_shape(path: Path) -> tuple[int, int]:
    """Return rows and columns, from the header where that is easily had."""
    if path.suffix.lower() == ".png":
        try:
            with Image.open(path) as image:
                width, height = image.size
        except Exception as error:
            raise ProblemsError([Problem(f"cannot be read as an image: {error}", str(path))]) from error
        return height, width
    height, width = read_plane(path).shape
    return height, width


def _read_masks(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a label image; one that knows nucleus and background only is taken apart into its pieces."""
    masks = read_plane(path, labels=True)
    if masks.shape != shape:
        what = f"is {masks.shape[1]} x {masks.shape[0]} pixels, its image {shape[1]} x {shape[0]}"
        raise ProblemsError([Problem(what, str(path))])
    if masks.dtype.kind not in "ui" or masks.min() < 0:
        raise ProblemsError([Problem(f"must hold whole numbers from 0 (background), not {masks.dtype}", str(path))])
    return label(masks) if len(np.unique(masks)) <= 2 else masks


def _smoothed(image: NDArray[Any], sigma_px: float | None) -> NDArray[np.float32]:
    sigma = sigma_px if sigma_px is not None else 1.0 if image.dtype == np.uint8 else 0.6
    smooth: NDArray[np.float32] = ndimage.gaussian_filter(image.astype(np.float32), sigma, mode="nearest")
    return smooth
