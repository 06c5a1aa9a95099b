"""The model file: weights, normalisation, cut-offs and a card in one safetensors file that restores it alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from scotopic.learning.calibration import contrast, contrast_camera
from scotopic.learning.network import NucleusNet
from scotopic.photons import CameraNoise, FrozenModel
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import is_remote, sync

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

FORMAT = 2
PIXEL_SIZE_TOLERANCE = 0.1
"""Images whose pixels differ by less are looked at as they are."""

_NOISIER = 1.5


class CutOff(FrozenModel):
    """From which probabilities on a nucleus is a nucleus, at one light level."""

    dose: float = Field(gt=0)
    """Light relative to the reference level."""
    probability: float = Field(gt=0, lt=1)
    """Least object probability."""
    foreground: float = Field(gt=0, lt=1)
    """Least foreground probability of a nucleus' pixel."""
    presence: float = Field(default=0, ge=0, lt=1)
    """An image whose best object is less probable than this has no nuclei: noise and stray light alone reach it."""


class ModelCard(FrozenModel):
    """Everything about a model but its weights."""

    format: int = FORMAT
    """Version of this file format."""
    run: str
    """Name of the protocol of the run that it learned from."""
    specimen: str | None = None
    """Fingerprint of the simulated specimen; nothing on a real microscope."""
    channel: str
    """Channel of the images."""
    pixel_size_um: float = Field(gt=0)
    """Size of a pixel on the sample."""
    objective: str = ""
    """Objective, for the record."""
    camera: CameraNoise
    """Camera of the images that it learned from."""
    reference_exposure_ms: float
    """Exposure of the reference level, which doses are relative to."""
    reference_led_percent: float
    """LED power of the reference level."""
    levels: dict[str, float]
    """Light level -> relative dose, of those that it learned from."""
    peak_e: float = Field(gt=0)
    """Photo-electrons of a bright nucleus at full light: what images are normalised by."""
    field_e: float | None = Field(default=None, gt=0)
    """Photo-electrons of the bare field at full light, for images in transmitted light, whose contrast is looked at; none of fluorescence."""
    network: dict[str, int]
    """Shape of the network."""
    cut_offs: tuple[CutOff, ...]
    """By falling dose, chosen on the validation wells; between them they are interpolated over the logarithm of dose."""
    further_runs: tuple[str, ...] = ()
    """Folders of the runs that it learned from too, by name."""
    training_wells: tuple[str, ...]
    """Wells that it learned from."""
    validation_wells: tuple[str, ...]
    """Wells that cut-offs were chosen on."""
    held_out_wells: tuple[str, ...]
    """Wells that it has never seen."""
    training_sites: int
    """Number of sites that it learned from."""
    steps: int
    """Steps of training."""
    seed: int
    """Seed of weights and crops."""
    dtype: str
    """Number format of the training."""
    f1: dict[str, float]
    """Light level -> F1 at an IoU of 0.5 against the reference masks of the validation wells."""
    versions: dict[str, str]
    """Versions of scotopic and of what it computes with."""

    def seen_by(self, camera: CameraNoise) -> CameraNoise:
        """Return the camera of what the network is shown of images of a camera."""
        return camera if self.field_e is None else contrast_camera(camera, self.field_e)

    def shown(self, counts: NDArray[Any], dose: float, camera: CameraNoise) -> NDArray[Any]:
        """Return what of an image, shape (Y, X), the network is shown: the image, or in transmitted light its contrast."""
        return counts if self.field_e is None else contrast(counts, dose, camera)

    def cut_off(self, dose: float) -> CutOff:
        """Return the cut-offs for a dose, interpolated over its logarithm; beyond the levels those of the nearest."""
        by_dose = sorted(self.cut_offs, key=lambda c: c.dose)
        at = [math.log(c.dose) for c in by_dose]
        names = ("probability", "foreground", "presence")
        values = {name: float(np.interp(math.log(dose), at, [getattr(c, name) for c in by_dose])) for name in names}
        return CutOff(dose=dose, **values)

    def misfit(
        self, pixel_size_um: float, *channels: str, rescale: bool = False, camera: CameraNoise | None = None
    ) -> str:
        """Return why images do not fit the model, in words; empty if they do.

        Parameters
        ----------
        pixel_size_um : float
            Size of their pixels on the sample.
        channels : str
            Their channels, where they are known.
        rescale : bool
            Images of other pixels are rescaled, and fit.
        camera : CameraNoise, optional
            Their camera, where they are to be looked at live, which does not rescale. Offset and gain are calibrated away; more read noise than the network has learned with is not.
        """
        if not rescale and abs(pixel_size_um / self.pixel_size_um - 1) > PIXEL_SIZE_TOLERANCE:
            return (
                f"was trained on pixels of {self.pixel_size_um:g} um, these images have {pixel_size_um:g} um "
                f"(allowed: {PIXEL_SIZE_TOLERANCE:.0%} apart{', or --rescale' if camera is None else ''})"
            )
        if channels and self.channel not in channels:
            return (
                f"was trained on the channel {self.channel!r}, these images are of {' and '.join(map(repr, channels))}"
            )
        if camera is not None and camera.read_noise_e > _NOISIER * self.camera.read_noise_e:
            return (
                f"was trained with {self.camera.read_noise_e:g} e- of read noise, this camera has {camera.read_noise_e:g} e- "
                f"(allowed: up to {_NOISIER:g} times as much)"
            )
        return ""


@dataclass(frozen=True)
class Model:
    """A network with its card."""

    card: ModelCard
    network: NucleusNet

    def save(self, folder: Path) -> Path:
        """Write `<hash>.safetensors` into a folder, whole or not at all, and return its path.

        The hash is that of the file: the same weights and card have the same name.
        """
        tensors = {name: t.detach().contiguous() for name, t in self.network.state_dict().items()}
        data = save(tensors, {"scotopic": self.card.model_dump_json()})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{hashlib.sha256(data).hexdigest()[:12]}.safetensors"
        partial = path.with_suffix(".partial")
        partial.write_bytes(data)
        sync([partial])
        os.replace(partial, path)
        sync([folder])
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model file.

        Raises
        ------
        ProblemsError
            If it is no model of this program, or of a later version of it.
        """
        try:
            with _at_hand(path) as here, safe_open(here, framework="pt") as file:
                card_text = (file.metadata() or {}).get("scotopic")
                weights = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise ProblemsError([Problem(f"cannot be read as a model: {error}", str(path))]) from error
        if card_text is None:
            raise ProblemsError([Problem("is no model of scotopic: it has no card", str(path))])
        if (found := json.loads(card_text).get("format")) != FORMAT:
            raise ProblemsError([Problem(f"has the format {found!r}; this version reads {FORMAT}", str(path))])
        try:
            card = ModelCard.model_validate_json(card_text)
            network = NucleusNet(**card.network)
            network.load_state_dict(weights)
        except (ValidationError, RuntimeError, TypeError) as error:
            raise ProblemsError([Problem(f"is damaged: {str(error).splitlines()[0]}", str(path))]) from error
        return cls(card, network.eval())


@contextmanager
def _at_hand(path: Path) -> Iterator[Path]:
    """Yield a model's file on this computer."""
    if not is_remote(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder) / path.name
        here.write_bytes(path.read_bytes())
        yield here


def model_hash(path: Path) -> str:
    """Return the hash that a model file is named by."""
    return path.name.split(".")[0]
