"""A model's network as an ONNX file, for programs without torch."""

from __future__ import annotations

import json
import logging
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from scotopic.learning.calibration import PLANES, input_planes
from scotopic.learning.instances import Maps, find_candidates, nuclei_of
from scotopic.learning.network import STRIDE, NucleusNet, fused
from scotopic.learning.prediction import Predictor
from scotopic.learning.targets import GRID
from scotopic.nuclei import matching
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import sync

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from scotopic.learning.model import Model

OPSET = 18
NAMES = ("probability", "rays", "foreground")
_TRIED_PX = 256
_SAME = 0.995
"""Least mean F1 between what both find: a pixel on a cut-off may fall to either side of it."""


class Outputs(nn.Module):
    """Probabilities and rays in pixels, as `Maps` has them."""

    def __init__(self, network: NucleusNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, planes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return object probability (N, Y/2, X/2), rays (N, 32, Y/2, X/2) and foreground (N, Y, X) of input planes."""
        probability, foreground, features = self.network.look(planes)
        rays = self.network.rays_from(features.movedim(1, -1)).movedim(-1, 1)
        return probability.sigmoid(), rays, foreground.sigmoid()


def export_onnx(model: Model, path: Path, image: NDArray[Any] | None = None) -> None:
    """Write the network of a model as an ONNX file, after looking whether onnxruntime finds the same nuclei with it.

    Input `planes`, float32, shape (N, 11, Y/2, X/2), Y and X multiples of 16, as `scotopic.learning.calibration` makes them.
    Outputs, float32: `probability` (N, Y/2, X/2), `rays` in pixels (N, 32, Y/2, X/2), `foreground` (N, Y, X). The model's
    card is in the file's metadata, under `scotopic`.

    Parameters
    ----------
    model : Model
        Model.
    path : Path
        File to write.
    image : NDArray, shape (Y, X), optional
        Counts at full light to compare with; noise without it.

    Raises
    ------
    ProblemsError
        If a package is missing that this needs, or onnxruntime does not find the same.
    """
    refuse_contrast(model, "--onnx")
    try:
        import onnx  # noqa: F401 - torch's exporter needs these two
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        told = f"needs the package {error.name}: pip install 'scotopic[onnx]'"
        raise ProblemsError([Problem(told, key="--onnx")]) from error
    side = torch.export.Dim.DYNAMIC
    example = torch.zeros(1, PLANES, _TRIED_PX // GRID, _TRIED_PX // GRID)
    data = to_onnx(Outputs(fused(model.network)), example, "planes", {0: "n", 2: side, 3: side}, model)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    _compare(model, session, image)
    path.write_bytes(data)
    sync([path])


def refuse_contrast(model: Model, option: str) -> None:
    """Refuse to export a model for images in transmitted light: what makes their contrast is not part of the network.

    Raises
    ------
    ProblemsError
        If it is one.
    """
    if model.card.field_e is not None:
        told = (
            f"cannot hold this model yet: it looks at the contrast of {model.card.channel} images, which scotopic makes"
        )
        raise ProblemsError([Problem(told, key=option)])


def to_onnx(network: nn.Module, example: Tensor, name: str, sizes: dict[int, Any], model: Model) -> bytes:
    """Return a network of one input as ONNX, with the model's card in its metadata.

    Parameters
    ----------
    name : str
        Of the input.
    sizes : dict
        Axes of the input that may have any size.
    """
    with _quiet():
        program = torch.onnx.export(
            network.eval(),
            (example,),
            input_names=[name],
            output_names=list(NAMES),
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch exported nothing")
    made = program.model_proto
    entry = made.metadata_props.add()
    entry.key, entry.value = "scotopic", json.dumps(model.card.model_dump(mode="json"))
    data: bytes = made.SerializeToString()
    return data


def _compare(model: Model, session: Any, image: NDArray[Any] | None) -> None:
    """Refuse an ONNX session that does not find in an image what the model finds, at each light level.

    Raises
    ------
    ProblemsError
        If it does not.
    """
    card, rng = model.card, np.random.default_rng(0)
    predictor = Predictor(model, dtype="float32", device="cpu")
    bright = np.full((_TRIED_PX, _TRIED_PX), 0.1 * card.peak_e, np.float32)
    if image is not None:
        height, width = (n // STRIDE * STRIDE for n in image.shape)
        bright = np.maximum(card.camera.to_electrons(image[:height, :width]), 0)
    for level, dose in card.levels.items():
        counts = card.camera.expose(bright * np.float32(dose), rng)
        expected, found = predictor(counts, dose).labels, labels_by_onnx(session, model, counts, dose)
        if matching(expected, found).mean_f1 < _SAME:
            told = f"onnxruntime finds {found.max()} nuclei at {level} where torch finds {expected.max()}: not written"
            raise ProblemsError([Problem(told, key="--onnx")])


def labels_by_onnx(session: Any, model: Model, counts: NDArray[Any], dose: float) -> NDArray[np.int32]:
    """Return the nuclei that an onnxruntime session finds in an image whose sides are multiples of 16.

    Parameters
    ----------
    session : onnxruntime.InferenceSession
        Session of an exported network.
    counts : NDArray, shape (Y, X)
        Image.
    dose : float
        Light relative to full light.

    Returns
    -------
    NDArray[int32], shape (Y, X)
    """
    card = model.card
    planes = input_planes(counts, dose, card.camera, card.peak_e)[None].numpy()
    probability, rays, foreground = (part[0] for part in session.run(list(NAMES), {"planes": planes}))
    maps = Maps(probability, foreground, lambda y, x: rays[:, y, x].T)
    cut_off = card.cut_off(dose)
    candidates = find_candidates(maps, cut_off.probability)
    return nuclei_of(maps, candidates, **cut_off.model_dump(exclude={"dose"}))[0]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks on its own inside out of the terminal."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
