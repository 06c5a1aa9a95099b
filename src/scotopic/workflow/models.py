"""Model files: what they say of themselves, and their export."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.nuclei.images import read_plane
from scotopic.protocol import Problem, ProblemsError, rounded

if TYPE_CHECKING:
    from pathlib import Path


def model_facts(path: Path) -> list[tuple[str, str]]:
    """Return what a model says of itself, as names and words.

    Raises
    ------
    ProblemsError
        If it is no model.
    """
    from scotopic.learning.model import Model

    model = Model.load(path)
    card = model.card
    camera = card.camera
    weights = sum(weight.numel() for weight in model.network.parameters())
    levels = "; ".join(
        f"{name}: dose {rounded(dose)}, F1 {card.f1.get(name, float('nan')):.3f}, cut-offs {cut.probability:g} / {cut.foreground:g}"
        for (name, dose), cut in zip(card.levels.items(), card.cut_offs, strict=True)
    )
    return [
        ("model", model.hash),
        ("learned from", f"{card.run}, {card.training_sites} sites of {_wells(card.training_wells)}"),
        *([("and from", ", ".join(card.further_runs))] if card.further_runs else []),
        ("checked on", _wells(card.validation_wells)),
        ("never saw", _wells(card.held_out_wells)),
        ("specimen", card.specimen or "on a microscope"),
        ("channel", card.channel),
        ("pixels", f"{card.pixel_size_um:g} um" + f", {card.objective}" * bool(card.objective)),
        (
            "camera",
            f"offset {camera.offset_counts:g} counts, {camera.gain_e_per_count:g} e-/count, read noise {camera.read_noise_e:g} e-",
        ),
        ("full light", f"{card.reference_exposure_ms:g} ms at {card.reference_led_percent:g} % LED"),
        ("bright nucleus", f"{card.peak_e:,.0f} e- at full light"),
        ("light levels", levels),
        ("network", f"{weights:,} weights, {', '.join(f'{name} {value}' for name, value in card.network.items())}"),
        ("training", f"{card.steps:,} steps, seed {card.seed}, {card.dtype}"),
        ("versions", ", ".join(f"{name} {number}" for name, number in card.versions.items())),
    ]


def _wells(wells: tuple[str, ...]) -> str:
    count = f"{len(wells)} well{'s' if len(wells) != 1 else ''}"
    return f"{count} ({', '.join(wells)})" if 0 < len(wells) < 13 else count


def export_package(path: Path, package: Path, light: str | None, image: Path | None = None) -> None:
    """Write a model for one of its light levels as a package of the BioImage Model Zoo.

    Parameters
    ----------
    light : str
        Light level, by its name in the model.
    image : Path, optional
        Bright image of the model's camera, that the package's example is made from.

    Raises
    ------
    ProblemsError
        If it is no model or has no such level, a package is missing, or the file is there already or cannot be written.
    """
    from scotopic.learning.model import Model

    if package.suffix != ".zip":
        raise ProblemsError([Problem(f"= {package}: must end with .zip", key="--bioimageio")])
    if package.exists():
        raise ProblemsError([Problem("is there already", str(package))])
    model = Model.load(path)
    dose = model.card.levels.get(light or "")
    if light is None or dose is None:
        told = f"= {light or ''}: allowed: {', '.join(model.card.levels)}"
        raise ProblemsError([Problem(told, key="--light")])
    try:
        from scotopic.learning.bioimageio_package import write_package

        write_package(model, dose, light, package, read_plane(image) if image else None)
    except ImportError as error:
        told = f"needs the package {error.name}: pip install 'scotopic[bioimageio]'"
        raise ProblemsError([Problem(told, key="--bioimageio")]) from error
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be written: {error.strerror}", str(package))]) from error


def export_model(path: Path, onnx: Path, image: Path | None = None) -> None:
    """Write a model's network as an ONNX file.

    Parameters
    ----------
    image : Path, optional
        Bright image of the model's camera to compare onnxruntime with torch on.

    Raises
    ------
    ProblemsError
        If it is no model, the file is there already or cannot be written, or onnxruntime does not find the same with it.
    """
    from scotopic.learning.model import Model
    from scotopic.learning.onnx_file import export_onnx

    if onnx.exists():
        raise ProblemsError([Problem("is there already", str(onnx))])
    model = Model.load(path)
    try:
        export_onnx(model, onnx, read_plane(image) if image else None)
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be written: {error.strerror}", str(onnx))]) from error
