"""A model at work: images in, nuclei out."""

from __future__ import annotations

import copy
import itertools
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from skimage.transform import resize, resize_local_mean
from torch import Tensor

from scotopic.learning.calibration import PLANES, input_planes
from scotopic.learning.device import DTYPES, chosen_device, faster_dtype
from scotopic.learning.instances import Maps, find_candidates, nuclei_of
from scotopic.learning.model import PIXEL_SIZE_TOLERANCE
from scotopic.learning.network import STRIDE, NucleusNet, fused
from scotopic.learning.targets import GRID
from scotopic.nuclei import renumbered
from scotopic.photons import CameraNoise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from scotopic.learning.model import Model

_LARGEST_TILE_PX = 1120
_MARGIN_PX = 80
"""Tiles overlap by twice this: half of what the network sees around a pixel is 76 px, so that no seam can be."""
_TILES_ON_A_GPU = 8
_TIMED_PX = 256
T = TypeVar("T")
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prediction:
    """Nuclei of an image."""

    labels: NDArray[np.int32]
    """Label image, shape (Y, X), 1 to n; each label in one piece without holes."""
    scores: NDArray[np.float32]
    """Object probability of each label, shape (n,)."""


class Predictor:
    """A model, ready for images of one camera: `Predictor(model)(image, dose)`."""

    def __init__(
        self,
        model: Model,
        camera: CameraNoise | None = None,
        *,
        pixel_size_um: float | None = None,
        dtype: str | None = None,
        device: str = "auto",
    ) -> None:
        """Get a model ready, and time the number formats.

        Parameters
        ----------
        model : Model
            Model.
        camera : CameraNoise, optional
            Camera of the images; the one that the model learned with, without it.
        pixel_size_um : float, optional
            Size of their pixels on the sample; images of other pixels than the model's are rescaled, labels back.
        dtype : str, optional
            `float32` or `bfloat16`; the faster of the two without it.
        device : str
            `cpu`, `cuda` or `mps`; the best there is for `auto`.

        Raises
        ------
        RuntimeError
            If there is no such device.
        """
        self.card = model.card
        self._camera = camera or model.card.camera
        ratio = (pixel_size_um or model.card.pixel_size_um) / model.card.pixel_size_um
        self._scale = 1.0 if abs(ratio - 1) <= PIXEL_SIZE_TOLERANCE else ratio
        self._shown_by = model.card.seen_by(self._camera)
        seen = self._shown_by if self._scale == 1 else _rescaled_camera(self._shown_by, self._scale)
        self._maps = MapMaker(model.network, seen, model.card.peak_e, dtype=dtype, device=device)

    @property
    def computes_in(self) -> str:
        """Device and number format that is computed in, for example `cpu, float32`."""
        return f"{self._maps.device.type}, {self._maps.dtype}"

    def warm_up(self, shape: tuple[int, int]) -> None:
        """Look at an image of no light, so that the first real one takes no longer than the others."""
        self(np.full(shape, round(self._camera.offset_counts), np.uint16), min(c.dose for c in self.card.cut_offs))

    def __call__(self, image: NDArray[Any], dose: float) -> Prediction:
        """Find the nuclei of an image.

        Parameters
        ----------
        image : NDArray, shape (Y, X)
            Counts.
        dose : float
            Light relative to full light, as the image has it: 0.002 for 0.2 %.
        """
        return next(self.predict([image], [dose]))

    def predict(self, images: Iterable[NDArray[Any]], doses: Iterable[float]) -> Iterator[Prediction]:
        """Find the nuclei of many images, of any sizes; as many at a time as the device takes.

        Parameters
        ----------
        images : iterable of NDArray, shape (Y, X)
            Counts; read one after the other.
        doses : iterable of float
            Light of each, relative to full light.
        """
        for several in _in_groups(zip(images, doses, strict=True), self._maps.batch):
            seen = [(self._rescaled(self.card.shown(image, dose, self._camera)), dose) for image, dose in several]
            for (image, dose), maps in zip(several, self._maps.many(seen), strict=True):
                yield self._nuclei(maps, dose, image.shape)

    def _nuclei(self, maps: Maps, dose: float, shape: tuple[int, ...]) -> Prediction:
        cut_off = self.card.cut_off(dose)
        candidates = find_candidates(maps, cut_off.probability)
        labels, scores = nuclei_of(maps, candidates, **cut_off.model_dump(exclude={"dose"}))
        if labels.shape != shape:
            labels, numbers = renumbered(resize(labels, shape, order=0, anti_aliasing=False, preserve_range=True))
            scores = scores[numbers - 1]
        return Prediction(labels, scores)

    def _rescaled(self, image: NDArray[Any]) -> NDArray[Any]:
        """Return an image with the model's pixels; photo-electrons of an area stay what they are."""
        if self._scale == 1:
            return image
        shape = tuple(max(1, round(n * self._scale)) for n in image.shape)
        electrons = self._shown_by.to_electrons(image)
        if self._scale < 1:  # the mean over the pixels that become one: photons that were counted stay counted
            scaled = resize_local_mean(electrons, shape, preserve_range=True)
        else:
            scaled = resize(electrons, shape, order=1, preserve_range=True)
        return np.asarray(scaled / self._scale**2, np.float32)


def _rescaled_camera(camera: CameraNoise, scale: float) -> CameraNoise:
    """Return the camera of an image in photo-electrons whose pixels were made larger (scale below 1) or smaller."""
    values = {"offset_counts": 0.0, "gain_e_per_count": 1.0, "read_noise_e": camera.read_noise_e / scale}
    return CameraNoise(**values, saturation_counts=65535)


class MapMaker:
    """A network at work: images become their maps, by overlapping tiles."""

    def __init__(
        self,
        network: NucleusNet,
        camera: CameraNoise,
        peak_e: float,
        *,
        dtype: str | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        self.device = chosen_device(device) if isinstance(device, str) else device
        self._network = fused(copy.deepcopy(network))
        self._to(self.device)
        self.camera, self.peak_e = camera, peak_e
        self.batch = 1 if self.device.type == "cpu" else _TILES_ON_A_GPU
        """Tiles that are looked at together; fewer once they did not fit."""
        self.dtype = dtype or self._faster_dtype()

    def _to(self, device: torch.device) -> None:
        self.device = device
        self._network = self._network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload] # torch knows it

    def __call__(self, counts: NDArray[Any], dose: float) -> Maps:
        """Return the maps of an image, shape (Y, X), of any size."""
        return self.many([(counts, dose)])[0]

    def many(self, images: Sequence[tuple[NDArray[Any], float]]) -> list[Maps]:
        """Return the maps of images and their doses; tiles of the same size are looked at together."""
        made = [_Made(counts.shape, self._network.shape["width"]) for counts, _ in images]
        for tiles in _in_groups(self._tiles(images, made), lambda: self.batch, lambda tile: tile.planes.shape):
            said = self._run(torch.stack([tile.planes for tile in tiles]))
            for number, tile in enumerate(tiles):
                tile.keep([part[number] for part in said])
        return [each.maps(self._rays) for each in made]

    def _tiles(self, images: Sequence[tuple[NDArray[Any], float]], made: Sequence[_Made]) -> Iterator[_Tile]:
        for (counts, dose), whole in zip(images, made, strict=True):
            padded = np.pad(counts, [(0, -n % STRIDE) for n in counts.shape], mode="edge")
            planes = input_planes(padded, dose, self.camera, self.peak_e)
            for down in _spans(padded.shape[0]):
                for across in _spans(padded.shape[1]):
                    yield _Tile(whole, down, across, planes[:, down.seen_on(GRID), across.seen_on(GRID)])

    @torch.inference_mode()
    def _rays(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        there = torch.from_numpy(features).to(self.device)
        rays: NDArray[np.float32] = self._network.rays_from(there).cpu().numpy()
        return rays

    def _run(self, planes: Tensor) -> tuple[Tensor, ...]:
        """Look at tiles; where they do not fit into a GPU's memory at fewer, and at last on the processor."""
        try:
            return self._look(planes)
        except torch.OutOfMemoryError:
            if len(planes) > 1:
                self.batch = len(planes) // 2
                parts = [self._run(part) for part in torch.split(planes, self.batch)]
                return tuple(torch.cat(each) for each in zip(*parts, strict=True))
            if self.device.type == "cpu":
                raise
            log.warning("an image does not fit into the memory of %s: the processor goes on", self.device.type)
            self._to(torch.device("cpu"))
            self.dtype, self.batch = "float32", 1
            return self._look(planes)

    def _look(self, planes: Tensor) -> tuple[Tensor, ...]:
        dtype = DTYPES[self.dtype]
        with torch.inference_mode(), torch.autocast(self.device.type, dtype=dtype, enabled=dtype != torch.float32):
            there = planes.to(self.device).contiguous(memory_format=torch.channels_last)
            probability, foreground, features = self._network.look(there)
            return probability.sigmoid().cpu(), foreground.sigmoid().cpu(), features.float().movedim(1, -1).cpu()

    def _faster_dtype(self) -> str:
        planes = torch.zeros(1, PLANES, _TIMED_PX // GRID, _TIMED_PX // GRID)

        def run(name: str) -> None:
            self.dtype = name
            self._look(planes)

        return faster_dtype(run, self.device)


class _Made:
    """The maps of an image while its tiles come in."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        self._shape = shape
        rows, columns = (n + -n % STRIDE for n in shape)
        self.probability = np.empty((rows // GRID, columns // GRID), np.float32)
        self.features = np.empty((rows // GRID, columns // GRID, width), np.float32)
        self.foreground = np.empty((rows, columns), np.float32)

    def maps(self, rays: Callable[[NDArray[np.float32]], NDArray[np.float32]]) -> Maps:
        return Maps(
            self.probability[tuple(slice(-(-n // GRID)) for n in self._shape)],
            self.foreground[tuple(slice(n) for n in self._shape)],
            lambda y, x: rays(self.features[y, x]),
        )


@dataclass(frozen=True)
class _Tile:
    """A tile of an image, and what the network sees of it."""

    whole: _Made
    down: _Span
    across: _Span
    planes: Tensor

    def keep(self, said: Sequence[Tensor]) -> None:
        made = self.whole.probability, self.whole.foreground, self.whole.features
        for whole, part, grid in zip(made, said, (GRID, 1, GRID), strict=True):
            kept = part[self.down.kept_of_seen(grid), self.across.kept_of_seen(grid)]
            whole[self.down.kept_on(grid), self.across.kept_on(grid)] = kept.numpy()


@dataclass(frozen=True)
class _Span:
    """Part of an axis: what a tile sees, and what is kept of it."""

    seen: slice
    kept: slice

    def seen_on(self, grid: int) -> slice:
        return slice(self.seen.start // grid, self.seen.stop // grid)

    def kept_on(self, grid: int) -> slice:
        return slice(self.kept.start // grid, self.kept.stop // grid)

    def kept_of_seen(self, grid: int) -> slice:
        return slice((self.kept.start - self.seen.start) // grid, (self.kept.stop - self.seen.start) // grid)


def _spans(length: int) -> Iterator[_Span]:
    """Cut an axis into equal overlapping tiles, on whole strides."""
    if length <= _LARGEST_TILE_PX:
        yield _Span(slice(0, length), slice(0, length))
        return
    count = -(-(length - 2 * _MARGIN_PX) // (_LARGEST_TILE_PX - 2 * _MARGIN_PX))
    borders = [round(number * length / count / STRIDE) * STRIDE for number in range(count)] + [length]
    for start, stop in itertools.pairwise(borders):
        yield _Span(slice(max(start - _MARGIN_PX, 0), min(stop + _MARGIN_PX, length)), slice(start, stop))


def _in_groups(
    items: Iterable[T], most: int | Callable[[], int], key: Callable[[T], object] = lambda _: None
) -> Iterator[list[T]]:
    """Yield items that follow each other and have the same key, as many at a time as allowed at that moment."""
    group: list[T] = []
    for item in items:
        if group and (len(group) >= (most if isinstance(most, int) else most()) or key(group[0]) != key(item)):
            yield group
            group = []
        group.append(item)
    if group:
        yield group
