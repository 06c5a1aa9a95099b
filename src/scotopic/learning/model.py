"""The model file: weights, normalisation, cut-offs and a card in one safetensors file that restores it alone."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import torch
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from scotopic.learning.calibration import contrast, contrast_camera
from scotopic.learning.network import NucleusNet
from scotopic.photons import CameraNoise, FrozenModel
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import content_hash, contradicts_its_name, replace_bytes

if TYPE_CHECKING:
    from pathlib import Path

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


Relation = Literal["same_plate", "other_plate", "unknown"]
"""Whether a model has learned from the plate that it is to be judged on, as far as that is known."""
_IMAGES = "images-"
"""How fingerprints of replayed images begin. Which well shows which image differs from run to run."""


class PlateIdentity(FrozenModel):
    """What a plate is known again by."""

    run_id: str = ""
    """Identity of the acquisition (`RunFolder.run_id`)."""
    plate_id: str | None = None
    """Barcode or name of the plate, as the protocol says."""
    specimen: str | None = None
    """Fingerprint of a simulated specimen."""

    def relation(self, other: PlateIdentity) -> Relation:
        """Return whether two acquisitions are of one plate. Nothing is guessed: two runs without marks may be of one."""
        if self.run_id and self.run_id == other.run_id:
            return "same_plate"
        if self.plate_id and other.plate_id:
            return "same_plate" if self.plate_id == other.plate_id else "other_plate"
        if self.specimen and other.specimen:
            if self.specimen != other.specimen:
                return "other_plate"
            return "unknown" if self.specimen.startswith(_IMAGES) else "same_plate"
        return "unknown"


class LearnedFrom(PlateIdentity):
    """A run that a model learned from, or that its thresholds were chosen on."""

    run: str
    """Name of the run's protocol."""
    wells: tuple[str, ...]
    """Wells that it has seen."""
    sites: tuple[str, ...] = ()
    """Sites that it has seen."""


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
    cut_offs: tuple[CutOff, ...] = Field(min_length=1)
    """By falling dose, chosen on the validation wells; between them they are interpolated over the logarithm of dose."""
    further_runs: tuple[str, ...] = ()
    """Folders of the runs that it learned from too, by name."""
    learned: tuple[LearnedFrom, ...] = ()
    """Each run, with the wells and sites that it has seen there; none in models of earlier versions."""
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

    def seen_wells(self, plate: PlateIdentity, *, is_own: bool = False) -> tuple[Relation, tuple[str, ...]]:
        """Return whether the model has learned from a plate, and which of its wells it has seen there.

        Parameters
        ----------
        is_own : bool
            The model lies in the run of this plate: one of an earlier version, which remembers no run, has learned from it.
        """
        runs = self.learned or (self._learned_by_an_earlier_version(plate.run_id if is_own else ""),)
        relations = [run.relation(plate) for run in runs]
        wells = {
            well
            for run, relation in zip(runs, relations, strict=True)
            if relation == "same_plate"
            for well in run.wells
        }
        if "same_plate" in relations:
            return "same_plate", tuple(sorted(wells))
        return ("unknown" if "unknown" in relations else "other_plate"), ()

    def _learned_by_an_earlier_version(self, run_id: str) -> LearnedFrom:
        wells = (*self.training_wells, *self.validation_wells)
        own = tuple(well for well in wells if "/" not in well)  # those of further runs have the run's name
        specimen = None if self.further_runs else self.specimen
        return LearnedFrom(run=self.run, run_id=run_id, specimen=specimen, wells=own)

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
        self,
        pixel_size_um: float,
        *channels: str,
        rescale: bool = False,
        camera: CameraNoise | None = None,
        least_f1: float = 0,
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
        least_f1 : float
            Least F1 at its brightest level, where it is to be used live.
        """
        brightest = max(self.levels, key=lambda level: self.levels[level])
        if (found := self.f1.get(brightest, 1.0)) < least_f1:
            return f"has not learned: its F1 is {found:.2f} at {brightest} (at least {least_f1:g} is needed)"
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
    hash: str = ""
    """First 12 hex digits of the SHA-256 of the file that it was read from: what it is called by, whatever the file is called."""

    def save(self, folder: Path) -> Path:
        """Write `<hash>.safetensors` into a folder, whole or not at all, and return its path.

        The hash is that of the file: the same weights and card have the same name.
        """
        tensors = {name: t.detach().contiguous() for name, t in self.network.state_dict().items()}
        data = save(tensors, {"scotopic": self.card.model_dump_json()})
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{content_hash(data)}.safetensors"
        replace_bytes(path, data)
        return path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a model file.

        Raises
        ------
        ProblemsError
            If it is no model of this program, of a later version of it, or damaged: its content is not what its name says, or
            weights are no numbers.
        """
        try:
            data = path.read_bytes()
            if contradicts_its_name(path, data):
                told = f"is damaged: its content has the hash {content_hash(data)}, not its name's"
                raise ProblemsError([Problem(told, str(path))])
            weights = load(data)
        except (OSError, SafetensorError) as error:
            raise ProblemsError([Problem(f"cannot be read as a model: {error}", str(path))]) from error
        if (card_text := _metadata(data).get("scotopic")) is None:
            raise ProblemsError([Problem("is no model of scotopic: it has no card", str(path))])
        if bad := [name for name, weight in weights.items() if not torch.isfinite(weight).all()]:
            raise ProblemsError([Problem(f"is damaged: weights that are no numbers in {bad[0]}", str(path))])
        try:
            if (found := json.loads(card_text).get("format")) != FORMAT:
                raise ProblemsError([Problem(f"has the format {found!r}; this version reads {FORMAT}", str(path))])
            card = ModelCard.model_validate_json(card_text)
            network = NucleusNet(**card.network)
            network.load_state_dict(weights)
        except (ValidationError, RuntimeError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ProblemsError):
                raise
            told = _first_mistake(error) if isinstance(error, ValidationError) else str(error).splitlines()[0]
            raise ProblemsError([Problem(f"is damaged: {told}", str(path))]) from error
        return cls(card, network.eval(), content_hash(data))


def _metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file that could be read: its header is JSON after eight bytes of length."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return dict(header.get("__metadata__", {}))


def _first_mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc'])) or 'the card'}: {first['msg']}"


def model_name(path: Path) -> str:
    """Return the name of a model's file without its ending: its hash, unless a user has renamed it."""
    return path.name.split(".")[0]


def model_hash(path: Path) -> str:
    """Return the hash of a model file's content: what its masks and tables are called by."""
    return content_hash(path.read_bytes())
