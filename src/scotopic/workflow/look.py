"""One look before a whole run."""

from __future__ import annotations

import itertools
import math
import tempfile
from typing import TYPE_CHECKING

from scotopic.protocol import (
    ImagingProtocol,
    MicroscopeProfile,
    Problem,
    ProblemsError,
    read_model,
)
from scotopic.workflow.job import checked_job, with_specimen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from scotopic.microscope import Exposure


MOST_SATURATED = 0.001


def snap(
    profile_path: Path,
    out: Path,
    say: Callable[[str], None] = print,
    *,
    well: str,
    site: int = 0,
    level: str | None = None,
    protocol_path: Path | None = None,
    specimen: Path | None = None,
) -> None:
    """Take one look before a whole run: image one site, and say what there is to see and what is odd about it.

    Parameters
    ----------
    level : str, optional
        Light level; all of the protocol's, one after the other, without it.
    protocol_path : Path, optional
        Protocol with plate, sites and light levels; those of the white paper without it.

    Raises
    ------
    ProblemsError
        If the check fails, or there is no such site or level; nothing was loaded, moved or lit then.
    RuntimeError, OSError
        If the hardware or the disk fails. The light is off, and that was said, unless it is a `LightOnError`.
    """
    from scotopic.microscope import LightOnError, close_microscope, image_site, microscope_lock, open_microscope
    from scotopic.pictures import write_site

    if protocol_path is not None:
        protocol, profile, _ = checked_job(protocol_path, profile_path, out, say, specimen)
    else:
        protocol, profile = _white_paper_job(profile_path, specimen, well)
        say("no --protocol: a 96-well plate, 3x3 sites, the light levels of the white paper")
    positions = {p.name: p for p in protocol.to_sequence(profile).stage_positions}
    names = [each.name for each in protocol.light_levels]
    name = f"{well.upper()}_{site}"
    if name not in positions:
        allowed = f"wells {', '.join(protocol.well_names)}, sites 0 to {protocol.sites.count - 1}"
        raise ProblemsError([Problem(f"is not in the protocol; allowed: {allowed}", key=name)])
    if level is not None and level not in names:
        raise ProblemsError([Problem(f"= {level!r}: no such light level; allowed: {', '.join(names)}", key="--level")])
    file_name = _free_name(out, name)  # before any light is spent
    with microscope_lock(profile, profile_path):
        core = open_microscope(profile, profile_path, protocol)
        try:
            order = ", ".join(each.name for each in protocol.levels_in_exposure_order)
            say(f"{name}: exposing {level or order}")
            place = positions[name]
            x, y = place.x or 0.0, place.y or 0.0
            exposures = image_site(core, profile, protocol, x, y, place.z, [level] if level else ())
        except LightOnError:
            raise
        except BaseException:
            say("It stopped there; the light is off.")
            raise
        finally:
            close_microscope(core)
    images = {each: exposures[each].image for each in names if each in exposures}
    written = write_site(out, file_name, images, profile.camera.pixel_size_um)
    for line in _seen(name, protocol, profile, exposures):
        say(line)
    for path in written:
        say(f"wrote {path}")


def _free_name(folder: Path, name: str) -> str:
    """Make sure that a folder can be written to, and return a name for images that none of an earlier look has.

    Raises
    ------
    ProblemsError
        If the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be written to: {error.strerror}", str(folder))]) from error
    names = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in names if not (folder / f"{each}.ome.tif").exists())


def _white_paper_job(profile_path: Path, specimen: Path | None, well: str) -> tuple[ImagingProtocol, MicroscopeProfile]:
    """Read a profile, and return the white paper's protocol for one well with its first light source."""
    from pydantic import ValidationError

    profile = with_specimen(read_model(profile_path, MicroscopeProfile), specimen)
    try:
        return ImagingProtocol.white_paper(next(iter(profile.light_sources)), well), profile
    except ValidationError as error:
        raise ProblemsError(
            [Problem(each["msg"].removeprefix("Value error, "), key=well) for each in error.errors()]
        ) from error


def _seen(
    name: str, protocol: ImagingProtocol, profile: MicroscopeProfile, exposures: dict[str, Exposure]
) -> Iterator[str]:
    """Yield what a person wants to know of the images of a site."""
    from scotopic.pictures import histogram_line
    from scotopic.protocol import rounded

    camera = profile.camera
    for level in protocol.light_levels:
        if level.name not in exposures:
            continue
        source = profile.light_source(protocol.channel_of(level))
        image, power = exposures[level.name].image, source.relative_power(level.led_percent)
        signal_ms = profile.signal_ms(protocol.channel_of(level), level.exposure_ms, level.led_percent)
        yield (
            f"{name} at {level.name}: {image.mean() - camera.offset_counts:.2f} counts above the offset on average, "
            f"{_focus(image, profile, protocol, is_bright=level.role == 'reference')}; "
            f"signal dose {rounded(signal_ms)} ms, sample dose {rounded(exposures[level.name].lit_ms * power)} ms"
        )
        saturated = (image >= camera.saturation_counts).mean()
        yield f"  {histogram_line(image, camera.saturation_counts)}; saturated: {saturated:.2%}"
        if saturated > MOST_SATURATED:
            yield f"warning: {saturated:.1%} of the pixels are saturated at {level.name}"
    images = {each: exposure.image for each, exposure in exposures.items()}
    for odd, ratio in _odd_doses(protocol, profile, images).items():
        yield (
            f"warning: {odd} has {ratio:.2g} times the signal that its dose should give: LED, shutter or camera offset?"
        )


def _focus(image: NDArray[np.uint16], profile: MicroscopeProfile, protocol: ImagingProtocol, *, is_bright: bool) -> str:
    """Return what an image says of the focus: of a bright one whether it is good, by the edges of its nuclei."""
    from scotopic.nuclei import judge, measure, reference_segmentation
    from scotopic.photons import focus_score

    camera, nuclei = profile.camera, protocol.nuclei
    score = f"focus score {focus_score(image, camera):.3f}"
    if not is_bright:
        return f"{score} (more is sharper, among images of one place and level)"
    labels = reference_segmentation(image, pixel_size_um=camera.pixel_size_um, settings=nuclei.segmentation)
    table = measure(labels, image, pixel_size_um=camera.pixel_size_um, camera=camera)
    sharpness = judge(labels, image, table, nuclei.quality).figures.get("sharpness", math.nan)
    if math.isnan(sharpness):
        return f"{score}, too few nuclei to tell whether that is good"
    least = nuclei.quality.least_sharpness
    verdict = "good" if sharpness >= least else "bad"
    return f"focus {verdict} (edges of nuclei {sharpness:.1f}, good from {least:g} on), {score}"


def _odd_doses(
    protocol: ImagingProtocol, profile: MicroscopeProfile, images: dict[str, NDArray[np.uint16]]
) -> dict[str, float]:
    """Return the levels whose mean signal does not follow the dose, beyond noise and a fifth, and by what factor."""
    camera = profile.camera
    own = protocol.levels_of(protocol.channel)
    dose = {level.name: profile.signal_ms(protocol.channel, level.exposure_ms, level.led_percent) for level in own}
    reference = protocol.reference.name
    if reference not in images:
        return {}
    full = images[reference].mean() - camera.offset_counts
    odd = {}
    for name, image in images.items():
        if name not in dose:
            continue
        expected = full * dose[name] / dose[reference]
        signal = image.mean() - camera.offset_counts
        noise = camera.read_noise_e / camera.gain_e_per_count / image.size**0.5
        if abs(signal - expected) > 0.2 * abs(expected) + 5 * noise + 0.1:
            odd[name] = float(signal / expected) if expected else float("inf")
    return odd
