"""A model at work: images in, nuclei out."""

from __future__ import annotations

import copy
import itertools
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from scotopic.learning.calibration import PLANES, input_planes
from scotopic.learning.instances import Maps, find_candidates, nuclei_of
from scotopic.learning.network import STRIDE, NucleusNet, fused
from scotopic.learning.targets import GRID

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from scotopic.learning.model import Model
    from scotopic.photons import CameraNoise

_LARGEST_TILE_PX = 1120
_MARGIN_PX = 80
"""Tiles overlap by twice this: half of what the network sees around a pixel is 76 px, so that no seam can be."""
_TIMED_PX = 256
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Prediction:
    """Nuclei of an image."""

    labels: NDArray[np.int32]
    """Label image, shape (Y, X), 1 to n; each label in one piece without holes."""
    scores: NDArray[np.float32]
    """Object probability of each label, shape (n,)."""


class Predictor:
    """A model, ready for images of one camera: `Predictor(model)(image, dose)`."""

    def __init__(self, model: Model, camera: CameraNoise | None = None, *, dtype: str | None = None) -> None:
        """Get a model ready, and time the number formats.

        Parameters
        ----------
        model : Model
            Model.
        camera : CameraNoise, optional
            Camera of the images; the one that the model learned with, without it.
        dtype : str, optional
            `float32` or `bfloat16`; the faster of the two without it.
        """
        self.card = model.card
        self._maps = MapMaker(model.network, camera or model.card.camera, model.card.peak_e, dtype=dtype)

    @property
    def dtype(self) -> str:
        """Number format that is computed in."""
        return self._maps.dtype

    def __call__(self, image: NDArray[Any], dose: float) -> Prediction:
        """Find the nuclei of an image.

        Parameters
        ----------
        image : NDArray, shape (Y, X)
            Counts.
        dose : float
            Light relative to full light, as the image has it: 0.002 for 0.2 %.
        """
        cut_off = self.card.cut_off(dose)
        maps = self._maps(image, dose)
        candidates = find_candidates(maps, cut_off.probability)
        return Prediction(*nuclei_of(maps, candidates, **cut_off.model_dump(exclude={"dose"})))


class MapMaker:
    """A network at work: an image becomes its maps, by overlapping tiles."""

    def __init__(self, network: NucleusNet, camera: CameraNoise, peak_e: float, *, dtype: str | None = None) -> None:
        self._network = fused(copy.deepcopy(network)).to(memory_format=torch.channels_last)  # type: ignore[call-overload] # torch knows it
        self.camera, self.peak_e = camera, peak_e
        self.dtype = dtype or self._faster_dtype()

    def __call__(self, counts: NDArray[Any], dose: float) -> Maps:
        """Return the maps of an image, shape (Y, X), of any size."""
        padded = np.pad(counts, [(0, -n % STRIDE) for n in counts.shape], mode="edge")
        rows, columns = padded.shape
        planes = input_planes(padded, dose, self.camera, self.peak_e)
        on_grid = rows // GRID, columns // GRID
        width = self._network.shape["width"]
        probability, features = np.empty(on_grid, np.float32), np.empty((*on_grid, width), np.float32)
        foreground = np.empty((rows, columns), np.float32)
        for down in _tiles(rows):
            for across in _tiles(columns):
                tile = planes[None, :, down.seen_on(GRID), across.seen_on(GRID)]
                said = self._run(tile)
                for whole, part, grid in zip((probability, foreground, features), said, (GRID, 1, GRID), strict=True):
                    kept = part[down.kept_of_seen(grid), across.kept_of_seen(grid)]
                    whole[down.kept_on(grid), across.kept_on(grid)] = kept.numpy()
        return Maps(
            probability[tuple(slice(-(-n // GRID)) for n in counts.shape)],
            foreground[tuple(slice(n) for n in counts.shape)],
            lambda y, x: self._rays(features[y, x]),
        )

    @torch.inference_mode()
    def _rays(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        rays: NDArray[np.float32] = self._network.rays_from(torch.from_numpy(features)).numpy()
        return rays

    def _run(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        dtype = DTYPES[self.dtype]
        with torch.inference_mode(), torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
            said = self._network.look(planes.contiguous(memory_format=torch.channels_last))
        probability, foreground, features = (part[0] for part in said)
        return probability.sigmoid(), foreground.sigmoid(), features.float().movedim(0, -1)

    def _faster_dtype(self) -> str:
        """Time both number formats: many processors emulate bfloat16, ten times slower."""
        planes = torch.zeros(1, PLANES, _TIMED_PX // GRID, _TIMED_PX // GRID)
        seconds = {}
        for name in DTYPES:
            self.dtype = name
            self._run(planes)
            begun = time.perf_counter()
            self._run(planes)
            seconds[name] = time.perf_counter() - begun
        return min(seconds, key=lambda name: seconds[name])


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


def _tiles(length: int) -> Iterator[_Span]:
    """Cut an axis into equal overlapping tiles, on whole strides."""
    if length <= _LARGEST_TILE_PX:
        yield _Span(slice(0, length), slice(0, length))
        return
    count = -(-(length - 2 * _MARGIN_PX) // (_LARGEST_TILE_PX - 2 * _MARGIN_PX))
    borders = [round(number * length / count / STRIDE) * STRIDE for number in range(count)] + [length]
    for start, stop in itertools.pairwise(borders):
        yield _Span(slice(max(start - _MARGIN_PX, 0), min(stop + _MARGIN_PX, length)), slice(start, stop))
