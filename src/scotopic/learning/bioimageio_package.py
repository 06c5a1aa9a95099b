"""A model as a package of the BioImage Model Zoo, for programs that know nothing of scotopic."""

from __future__ import annotations

import re
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn

from scotopic import __version__
from scotopic.learning.calibration import planes_of
from scotopic.learning.network import STRIDE, fused
from scotopic.learning.onnx_file import NAMES, OPSET, Outputs, to_onnx
from scotopic.learning.targets import GRID, RAYS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.learning.model import Model

_TRIED_PX = 256
_SMALLEST_PX = 64


class OfCounts(nn.Module):
    """The network with what comes before it: counts of the camera at one light level in, maps out."""

    def __init__(self, model: Model, dose: float) -> None:
        super().__init__()
        self.outputs = Outputs(fused(model.network))
        self.card, self.dose = model.card, dose

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return object probability, rays and foreground of an image, float32, shape (1, 1, Y, X)."""
        camera = self.card.camera
        electrons = (image[0, 0] - camera.offset_counts) * camera.gain_e_per_count
        probability, rays, foreground = self.outputs(planes_of(electrons, self.dose, camera, self.card.peak_e)[None])
        return probability[:, None], rays, foreground[:, None]


def write_package(model: Model, dose: float, light: str, path: Path, image: NDArray[Any] | None = None) -> None:
    """Write a model for one light level as a package of the BioImage Model Zoo (model description 0.5), weights as ONNX.

    Input `image`: counts, float32, axes batch (1), channel (1), y, x, sides multiples of 16. Outputs: `probability` of a
    nucleus' middle and `rays` (distances to its border in pixels, 32 directions) on a grid of half the size, and
    `foreground`. How nuclei are made of them stands in its README, with a script that does it.

    Parameters
    ----------
    dose : float
        Light relative to full light.
    light : str
        Name of the light level.
    image : NDArray, shape (Y, X), optional
        Bright image, counts, that the package's example is made from; simulated spots without it.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    import bioimageio.spec.model.v0_5 as zoo
    from bioimageio.spec import save_bioimageio_package
    from bioimageio.spec.common import FileDescr

    card = model.card
    side = torch.export.Dim.DYNAMIC
    example = _example(model, dose, image)
    data = to_onnx(OfCounts(model, dose), torch.from_numpy(example), "image", {2: side, 3: side}, model)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    outputs = dict(zip(NAMES, session.run(list(NAMES), {"image": example}), strict=True))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:  # bioimageio.spec leaves files open: Windows
        folder = Path(name)

        def kept(file_name: str, content: bytes | NDArray[Any]) -> Any:
            target = folder / file_name
            if isinstance(content, bytes):
                target.write_bytes(content)
            else:
                np.save(target, content)
            return FileDescr(source=target)

        def axes(channels: list[str], scale: int) -> list[Any]:
            sizes = {
                axis: zoo.SizeReference(tensor_id=zoo.TensorId("image"), axis_id=zoo.AxisId(axis)) for axis in "yx"
            }
            pixel = card.pixel_size_um * scale
            space = [
                zoo.SpaceOutputAxis(id=zoo.AxisId(axis), size=size, unit="micrometer", scale=pixel)
                for axis, size in sizes.items()
            ]
            return [zoo.BatchAxis(size=1), zoo.ChannelAxis(channel_names=channels), *space]

        space = zoo.ParameterizedSize(min=_SMALLEST_PX, step=STRIDE)
        inputs = zoo.InputTensorDescr(
            id=zoo.TensorId("image"),
            description=f"Counts of the camera at {light} of full light",
            axes=[
                zoo.BatchAxis(size=1),
                zoo.ChannelAxis(channel_names=["nuclei"]),
                *(
                    zoo.SpaceInputAxis(id=zoo.AxisId(axis), size=space, unit="micrometer", scale=card.pixel_size_um)
                    for axis in "yx"
                ),
            ],
            test_tensor=kept("test_image.npy", example),
            data=zoo.IntervalOrRatioDataDescr(type="float32"),
        )
        channels = {"probability": ["middle"], "rays": [f"ray{n}" for n in range(RAYS)], "foreground": ["nucleus"]}
        described = [
            zoo.OutputTensorDescr(
                id=zoo.TensorId(tensor),
                description=_OUTPUTS[tensor],
                axes=axes(channels[tensor], 1 if tensor == "foreground" else GRID),
                test_tensor=kept(f"test_{tensor}.npy", value),
                data=zoo.IntervalOrRatioDataDescr(type="float32"),
            )
            for tensor, value in outputs.items()
        ]
        cut = card.cut_off(dose)
        readme = (files("scotopic.learning") / "bioimageio_readme.md").read_text(encoding="utf-8")
        text = readme.format(
            light=light,
            dose=dose,
            exposure_ms=card.reference_exposure_ms,
            led_percent=card.reference_led_percent,
            pixel_size_um=card.pixel_size_um,
            offset=card.camera.offset_counts,
            gain=card.camera.gain_e_per_count,
            read_noise=card.camera.read_noise_e,
            run=card.run,
            training_wells=len(card.training_wells),
            validation_wells=len(card.validation_wells),
            probability=cut.probability,
            foreground=cut.foreground,
            presence=cut.presence,
        )
        description = zoo.ModelDescr(
            name=re.sub(r"[^A-Za-z0-9_+ ()-]", "_", f"Nuclei at {light.replace('%', ' percent')} of the light"),
            description=f"Nuclei at {light} of full light. Star-convex network that found nuclei in dark images by what it learned from pairs of bright and dark ones.",
            authors=[zoo.Author(name="The scotopic developers")],
            cite=[zoo.CiteEntry(text="scotopic", url=zoo.HttpUrl("https://github.com/scotopic/scotopic"))],
            license=zoo.LicenseId("BSD-3-Clause"),
            documentation=kept("README.md", text.encode()),
            tags=["fluorescence-light-microscopy", "nuclei", "instance-segmentation", "2d", "low-light"],
            inputs=[inputs],
            outputs=described,
            weights=zoo.WeightsDescr(
                onnx=zoo.OnnxWeightsDescr(source=kept("weights.onnx", data).source, opset_version=OPSET)
            ),
            config=zoo.Config.model_validate(
                {"scotopic": {"version": __version__, "card": card.model_dump(mode="json"), "dose": dose}}
            ),
        )
        save_bioimageio_package(description, output_path=path)


_OUTPUTS = {
    "probability": "Probability that a nucleus has its middle here; a grid of half as many points each way",
    "rays": "Distance from here to the border of the nucleus, in pixels of the image, in 32 directions from +x towards +y",
    "foreground": "Probability of nucleus",
}


def _example(model: Model, dose: float, image: NDArray[Any] | None) -> NDArray[np.float32]:
    """Return an image at a light level, counts, float32, shape (1, 1, 256, 256)."""
    card, rng = model.card, np.random.default_rng(0)
    if image is None:
        y, x = np.mgrid[:_TRIED_PX, :_TRIED_PX]
        middles = rng.uniform(20, _TRIED_PX - 20, (20, 2))
        inside = [np.hypot(y - row, x - column) < 8 / card.pixel_size_um * 0.65 for row, column in middles]
        bright = card.peak_e * (0.05 + 0.7 * np.any(inside, axis=0))
    else:
        height, width = (min(side, _TRIED_PX) // STRIDE * STRIDE for side in image.shape)
        bright = np.maximum(card.camera.to_electrons(image[:height, :width]), 0)
    counts = card.camera.expose((bright * dose).astype(np.float32), rng)
    return counts[None, None].astype(np.float32)
