"""Nuclei of images and of runs, found by a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.protocol import MicroscopeProfile, Problem, ProblemsError, read_model
from scotopic.workflow.nuclei_folder import NucleiFolder
from scotopic.workflow.segmentation import Segmented, fields_of, placed, refuse_same_names, units_of
from scotopic.workflow.validating import fits

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def segment_with_model(
    sources: Sequence[Path],
    out: Path,
    say: Callable[[str], None] = print,
    *,
    model_path: Path,
    light: str | None = None,
    dose: float | None = None,
    profile_path: Path | None = None,
    rescale: bool = False,
    overwrite: bool = False,
) -> Segmented:
    """Find and measure the nuclei of images with a network; the folder has the layout of the reference segmentation's.

    Parameters
    ----------
    sources : sequence of Path
        Images, folders of images, and run folders.
    light : str, optional
        Light level of the images, by its name in the model (or in the run).
    dose : float, optional
        Their light relative to full light, instead.
    profile_path : Path, optional
        Microscope profile: camera and pixel size of images that are not of a run.
    rescale : bool
        Rescale images whose pixels have another size than the model's; labels and figures are of the images as given.
    overwrite : bool
        Replace labels and tables in `out`, whoever made them.

    Raises
    ------
    ProblemsError
        If no image can be read, the model does not fit, or light or camera are not said; or `out` holds labels or tables that
        no `segment` wrote.
    """
    from scotopic.learning.model import Model
    from scotopic.learning.prediction import Predictor
    from scotopic.nuclei import measure
    from scotopic.pictures import overlay

    model = Model.load(model_path)
    profile = read_model(profile_path, MicroscopeProfile) if profile_path else None
    relative = _relative_dose(model.card.levels, light, dose)
    fields = [field for source in sources for field in fields_of(source, profile, light)]
    if profile is not None:
        channel = (
            model.card.channel if model.card.channel in profile.light_sources else ", ".join(profile.light_sources)
        )
        fits(model_path, profile.camera.pixel_size_um, channel, rescale=rescale)
    refuse_same_names(fields, sources[0])
    how = {"method": f"model {model.hash} at {light or dose}", **units_of(fields)}
    folder = NucleiFolder(out, how, overwrite=overwrite)
    for field in fields:
        if field.camera is None:
            told = "must be given: a network needs the camera's offset, gain and read noise, and the pixel size"
            raise ProblemsError([Problem(told, key="--microscope")])
        fits(model_path, field.camera.pixel_size_um, *filter(None, [field.channel]), rescale=rescale)
    folder.open()
    left_out: list[Problem] = []
    predictors: dict[str, Predictor] = {}
    tables, images = [], {}
    for field in fields:
        if field.camera is None:
            continue  # refused above
        try:
            image = field.read()
        except ProblemsError as error:
            left_out += error.problems
            continue
        size = field.camera.pixel_size_um
        if (known := field.camera.model_dump_json()) not in predictors:
            predictors[known] = Predictor(model, field.camera.noise, pixel_size_um=size)
        labels = predictors[known](image, relative).labels
        folder.write_image(field.name, labels, overlay(image, labels))
        table = measure(labels, image, pixel_size_um=size, origin_um=field.origin_um, camera=field.camera)
        tables.append(placed(table, field))
        images[field.name] = image.shape
        say(f"{field.name}: {len(table)} nuclei")
    if not tables:
        folder.leave()
        raise ProblemsError(left_out)
    return Segmented(folder.write_tables(tables, [], images, say), tuple(left_out))


def _relative_dose(levels: dict[str, float], light: str | None, dose: float | None) -> float:
    if dose is not None:
        if not 0 < dose <= 1:
            raise ProblemsError([Problem(f"= {dose:g}; allowed: above 0, up to 1 (full light)", key="--dose")])
        return dose
    if light is None:
        raise ProblemsError([Problem("must be given: what light the images got (or --dose)", key="--light")])
    if light not in levels:
        raise ProblemsError([Problem(f"= {light!r}; the model knows: {', '.join(levels)}", key="--light")])
    return levels[light]
