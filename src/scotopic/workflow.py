"""The one place where everything is wired together."""

from __future__ import annotations

import itertools
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from scotopic.protocol import (
    ImageSpecimenSettings,
    ImagingProtocol,
    MicroscopeProfile,
    NucleiSettings,
    Problem,
    ProblemsError,
    read_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from scotopic.microscope import AcquireResult, CheckReport, Exposure, Progress
    from scotopic.protocol.profile import Camera
    from scotopic.store.run_folder import Request

MOST_SATURATED = 0.001
_IMAGES = (".png", ".tif", ".tiff")
M = TypeVar("M", ImagingProtocol, MicroscopeProfile)

STILL_MISSING = (
    "reference masks in the run (`scotopic segment RUN --reference` makes them beside it)",
    "training beside the acquisition",
    "validation and report",
)
"""Parts of a run that this version does not have."""


def read_job(
    protocol_path: Path, profile_path: Path, specimen: Path | None = None
) -> tuple[ImagingProtocol, MicroscopeProfile]:
    """Read a protocol and a microscope profile.

    Parameters
    ----------
    specimen : Path, optional
        Folder of images that become the specimen of a simulated microscope.

    Raises
    ------
    ProblemsError
        All mistakes of both files together.
    """
    problems: list[Problem] = []
    protocol, profile = (
        _read_or_note(protocol_path, ImagingProtocol, problems),
        _read_or_note(profile_path, MicroscopeProfile, problems),
    )
    if protocol is None or profile is None:
        raise ProblemsError(problems)
    return protocol, _with_specimen(profile, specimen)


def _with_specimen(profile: MicroscopeProfile, specimen: Path | None) -> MicroscopeProfile:
    """Put a folder of images under a simulated microscope."""
    if specimen is None:
        return profile
    if profile.simulator is None:
        raise ProblemsError([Problem("is given, but this microscope is not simulated", key="--specimen")])
    settings = ImageSpecimenSettings(kind="images", folder=str(specimen))
    simulator = profile.simulator.model_copy(update={"specimen": settings})
    return profile.model_copy(update={"simulator": simulator})


def _read_or_note(path: Path, model: type[M], problems: list[Problem]) -> M | None:
    try:
        return read_model(path, model)
    except ProblemsError as error:
        problems += error.problems
        return None


def fit_to_specimen(protocol: ImagingProtocol, profile: MicroscopeProfile) -> tuple[ImagingProtocol, str]:
    """Leave out the wells that a specimen of images cannot fill.

    Returns
    -------
    (ImagingProtocol, str)
        The protocol, with fewer wells if need be, and a line that says so (or an empty one).

    Raises
    ------
    ProblemsError
        If the images do not even fill one well.
    """
    settings = profile.simulator.specimen if profile.simulator else None
    if not isinstance(settings, ImageSpecimenSettings):
        return protocol, ""
    from scotopic.simulator import ImageSpecimen

    camera = profile.camera
    try:
        sites = protocol.sites_in_travel_order(camera.fov_um)
    except ValueError as error:
        raise ProblemsError([Problem(str(error), key="sites")]) from error
    filled = ImageSpecimen(settings, sites, (camera.height_px, camera.width_px), camera.pixel_size_um)
    n_wells, asked = len(filled.wells), len(protocol.well_names)
    if n_wells == asked:
        return protocol, ""
    told = f"{settings.folder}: {filled.n_images} images fill {n_wells} wells of {protocol.sites.count} sites"
    if n_wells == 0:
        raise ProblemsError([Problem(f"{told}: give more images, or fewer sites")])
    try:
        fewer = protocol.with_fewer_wells(n_wells)
    except ValueError as error:
        raise ProblemsError([Problem(f"{told}: {error}; give more images, or fewer sites")]) from error
    held_out = ", ".join(fewer.held_out_wells) or "none"
    imaged = ", ".join(fewer.well_names)
    return fewer, f"{told}; {asked - n_wells} of {asked} wells are left out, imaged are {imaged}, held out {held_out}"


def check(
    protocol_path: Path, profile_path: Path, *, connect: bool = False, specimen: Path | None = None, out: Path = Path()
) -> CheckReport:
    """Check a job before anything moves; with `connect`, also load the hardware and compare.

    Raises
    ------
    ProblemsError
        If a file has mistakes of its own; what one file has against the other is in the report.
    """
    from scotopic.microscope import check_hardware, close_microscope, open_microscope

    protocol, profile, report = _checked_files(protocol_path, profile_path, specimen, out)
    if connect and not report.problems:
        try:
            core = open_microscope(profile, profile_path, protocol)
        except (RuntimeError, OSError) as error:
            report.problems.append(Problem(str(error), str(profile.config_path(profile_path))))
            return report
        try:
            report.problems += check_hardware(core, protocol, profile, profile_path)
            report.facts.append(("device adapters", ", ".join(core.getDeviceAdapterSearchPaths()) or "none needed"))
        finally:
            close_microscope(core)
    return report


def _checked_files(
    protocol_path: Path, profile_path: Path, specimen: Path | None, out: Path
) -> tuple[ImagingProtocol, MicroscopeProfile, CheckReport]:
    """Read a job, fit it to its specimen, and check it from the files alone."""
    from scotopic.microscope import check_files

    protocol, profile = read_job(protocol_path, profile_path, specimen)
    protocol, fewer = fit_to_specimen(protocol, profile)
    report = check_files(protocol, protocol_path, profile, profile_path, out)
    if fewer:
        report.warnings.append(Problem(fewer))
    if not report.problems:
        _check_simulator(protocol, profile, profile_path, report)
    return protocol, profile, report


def _check_simulator(
    protocol: ImagingProtocol, profile: MicroscopeProfile, profile_path: Path, report: CheckReport
) -> None:
    """State the specimen of a simulated microscope, and hold the profile's camera against the simulated one."""
    if profile.simulator is None:
        return
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.simulator import CAMERA_NOISE, make_specimen

    try:
        specimen = make_specimen(SimulatorSetup.of(profile, protocol))
    except ProblemsError as error:
        report.problems += error.problems
        return
    except ValueError as error:
        report.problems.append(Problem(str(error), str(profile_path), key="simulator"))
        return
    report.facts += [("specimen", specimen.fingerprint), ("", specimen.description)]
    noise = CAMERA_NOISE[profile.simulator.camera]
    for key in ("offset_counts", "gain_e_per_count", "read_noise_e"):
        stated, true = getattr(profile.camera, key), getattr(noise, key)
        if stated != true:
            message = f"= {stated:g}: the simulated {profile.simulator.camera} has {true:g}"
            report.warnings.append(Problem(message, str(profile_path), key=f"camera.{key}"))


def _checked_job(
    protocol_path: Path, profile_path: Path, out: Path, say: Callable[[str], None], specimen: Path | None
) -> tuple[ImagingProtocol, MicroscopeProfile, CheckReport]:
    """Check a job, say its warnings, and return what is to be done."""
    protocol, profile, report = _checked_files(protocol_path, profile_path, specimen, out)
    if report.problems:
        raise ProblemsError(report.problems)
    for warning in report.warnings:
        say(f"warning: {warning}")
    return protocol, profile, report


def acquire(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    say: Callable[[str], None],
    *,
    specimen: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> AcquireResult:
    """Check a job, acquire it into a run folder (or go on with it), and verify what is on the disk.

    Parameters
    ----------
    say : callable
        Takes each line that the user is told.
    on_progress : callable, optional
        Called after each site; without it, one line a site is said.

    Raises
    ------
    ProblemsError
        If the check fails, or the folder holds another run; nothing was loaded, moved or lit then.
    """
    from scotopic import microscope

    protocol, profile, report = _checked_job(protocol_path, profile_path, out, say, specimen)
    for what, which in report.facts:
        if what == "specimen":
            say(f"specimen: {which}")
    held_out = ", ".join(protocol.held_out_wells) or "none"
    say(f"check passed: {protocol.n_frames:,} frames planned, held-out wells: {held_out}")
    run_folder = microscope.prepare_run(protocol_path, profile_path, protocol, profile, out)
    try:
        result = microscope.acquire(
            protocol, profile, profile_path, run_folder, on_progress=on_progress or (lambda p: say(progress_line(p)))
        )
    finally:
        run_folder.unlock()
    say(f"acquisition {result.end_reason.replace('_', ' ')}" + (f": {result.message}" if result.message else ""))
    if result.end_reason.startswith("completed"):
        problems = verify(out)
        if problems:
            raise ProblemsError(problems)
        say(f"verified: {result.progress.frames_written:,} frames written, {result.progress.frames_skipped} skipped")
    return result


def progress_line(progress: Progress) -> str:
    """Return one line on how far an acquisition is."""
    if progress.paused:
        return f"paused: {progress.paused}"
    left = "" if progress.seconds_left is None else f", {progress.seconds_left / 60:.0f} min left"
    skipped = f", {progress.frames_skipped} frames skipped" if progress.frames_skipped else ""
    return f"{progress.last_site}: {progress.sites_done} of {progress.sites_planned} sites{skipped}{left}"


def verify(run_path: Path) -> list[Problem]:
    """Read a run again, every pixel, and return what is wrong with it (nothing, if it is sound and complete).

    Raises
    ------
    ProblemsError
        If there is no run in the folder.
    """
    from scotopic.store import RunFolder
    from scotopic.store import verify as verify_run

    run_folder = RunFolder(run_path)
    if not run_folder.exists:
        raise ProblemsError([Problem("holds no run: there is no job.json in it", str(run_path))])
    return verify_run(run_folder)


def segment(sources: Sequence[Path], out: Path, say: Callable[[str], None], *, profile_path: Path | None = None) -> int:
    """Find and measure the nuclei of images, or of a run's reference images, by standard image analysis.

    Writes `labels/<name>.png` (16 bit), `overlays/<name>.png`, one table of all nuclei, `nuclei.csv` and
    `nuclei.parquet`, and `quality.csv`: which images are good enough to learn from, why not, and what was measured.

    Parameters
    ----------
    sources : sequence of Path
        Images, folders of images, and run folders.
    profile_path : Path, optional
        Microscope profile: pixel size and camera, for micrometres and photo-electrons. A run has its own.

    Returns
    -------
    int
        Number of nuclei.

    Raises
    ------
    ProblemsError
        If there is no image, or one cannot be read.
    """
    import imageio.v3 as iio
    import pandas as pd

    from scotopic.nuclei import judge, measure, reference_segmentation
    from scotopic.pictures import overlay

    profile = read_model(profile_path, MicroscopeProfile) if profile_path else None
    fields = [field for source in sources for field in _fields(source, profile)]
    names = [field.name for field in fields]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ProblemsError([Problem(f"name more than one image: {', '.join(twice[:5])}", str(sources[0]))])
    for folder in ("labels", "overlays"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    tables, verdicts, shapes = [], [], set()
    for field in fields:
        image = field.read()
        pixel_size_um = field.camera.pixel_size_um if field.camera else 1.0
        settings = field.settings.segmentation
        labels = reference_segmentation(image, pixel_size_um=pixel_size_um, settings=settings)
        iio.imwrite(out / "labels" / f"{field.name}.png", labels.astype(np.uint16))
        iio.imwrite(out / "overlays" / f"{field.name}.png", overlay(image, labels))
        table = measure(labels, image, pixel_size_um=pixel_size_um, origin_um=field.origin_um, camera=field.camera)
        table.insert(0, "image", field.name)
        table["x_px"] = (table["x_um"] - field.origin_um[0]) / pixel_size_um
        table["y_px"] = (table["y_um"] - field.origin_um[1]) / pixel_size_um
        shapes.add(image.shape)
        tables.append(table)
        quality = judge(labels, image, table, field.settings.quality)
        reasons = "; ".join(quality.reasons)
        verdicts.append({"image": field.name, "usable": quality.usable, "reasons": reasons, **quality.figures})
        say(f"{field.name}: {len(table)} nuclei" + (f"; not fit to learn from: {reasons}" if reasons else ""))
    nuclei = _evenly_lit(pd.concat(tables, ignore_index=True), shapes, say)
    nuclei.to_csv(out / "nuclei.csv", index=False)
    nuclei.to_parquet(out / "nuclei.parquet", index=False)
    pd.DataFrame(verdicts).to_csv(out / "quality.csv", index=False)
    if profile is None and any(field.camera is None for field in fields):
        say("no --microscope: areas are in pixels, intensities in counts")
    return len(nuclei)


def _evenly_lit(nuclei: pd.DataFrame, shapes: set[tuple[int, ...]], say: Callable[[str], None]) -> pd.DataFrame:
    """Take uneven illumination out of the intensities, or say why not."""
    from scotopic.nuclei import LEAST_NUCLEI_FOR_ILLUMINATION, estimate_illumination

    whole = nuclei[~nuclei["touches_border"] & (nuclei["mean_intensity"] > 0)]
    if len(shapes) > 1 or len(whole) < LEAST_NUCLEI_FOR_ILLUMINATION:
        few = f"{len(whole)} whole nuclei, at least {LEAST_NUCLEI_FOR_ILLUMINATION} are needed"
        say(f"uneven illumination is not corrected: {few if len(shapes) == 1 else 'the images differ in size'}")
        return nuclei.assign(illumination=1.0)
    height, width = next(iter(shapes))
    light = estimate_illumination(whole["y_px"], whole["x_px"], whole["mean_intensity"], (height, width))
    return light.corrected(nuclei, nuclei["y_px"], nuclei["x_px"])


@dataclass(frozen=True)
class _Field:
    """One image to be segmented."""

    name: str
    read: Callable[[], NDArray[Any]]
    camera: Camera | None
    settings: NucleiSettings
    origin_um: tuple[float, float] = (0.0, 0.0)


def _fields(source: Path, profile: MicroscopeProfile | None) -> list[_Field]:
    """Return the images that a path stands for.

    Raises
    ------
    ProblemsError
        If there are none.
    """
    if (source / "job.json").exists():
        return _fields_of_run(source)
    files = sorted(p for p in source.iterdir() if p.suffix.lower() in _IMAGES) if source.is_dir() else [source]
    if not files or not all(file.is_file() for file in files):
        allowed = f"an image ({', '.join(_IMAGES)}), a folder of them, or a run"
        raise ProblemsError([Problem(f"holds nothing to segment; allowed: {allowed}", str(source))])
    camera = profile.camera if profile else None
    return [_Field(file.name.split(".")[0], partial(_read_image, file), camera, NucleiSettings()) for file in files]


def _fields_of_run(source: Path) -> list[_Field]:
    from scotopic.store import RunFolder, finished_sites

    run_folder = RunFolder(source)
    protocol, profile = run_folder.read_protocol(), run_folder.read_profile()
    plate, records = run_folder.plate(protocol, profile), run_folder.ledger.read()
    finished = finished_sites(records, protocol.frames_per_site)
    camera = profile.camera
    half = (camera.width_px - 1) / 2 * camera.pixel_size_um, (camera.height_px - 1) / 2 * camera.pixel_size_um
    fields = []
    for r in records:
        counts = finished.get(r.site_key) == r.attempt and r.state == "written"
        if counts and r.level == protocol.reference.name and r.z == 0:
            name = f"{r.well}_{r.site}" + (f"_t{r.t}" if protocol.time_points > 1 else "")
            read = partial(plate.read, r.well, r.site, r.level, r.t, r.z)
            origin_um = r.xy_um[0] - half[0], r.xy_um[1] - half[1]
            fields.append(_Field(name, read, camera, protocol.nuclei, origin_um))
    if not fields:
        raise ProblemsError([Problem("has no finished site yet", str(source))])
    return fields


def _read_image(path: Path) -> NDArray[Any]:
    """Read one grey plane.

    Raises
    ------
    ProblemsError
        If it cannot be read, or is more than one plane.
    """
    import imageio.v3 as iio

    try:
        image = np.asarray(iio.imread(path))
    except (OSError, ValueError) as error:
        raise ProblemsError([Problem(f"cannot be read as an image: {error}", str(path))]) from error
    if image.ndim != 2:
        raise ProblemsError([Problem(f"has the shape {image.shape}; allowed: one grey plane", str(path))])
    return image


def ask(run_path: Path, request: Request) -> None:
    """Ask the acquisition that is running into a folder to pause, resume, finish or cancel.

    Raises
    ------
    ProblemsError
        If no acquisition is running there.
    """
    from scotopic.store import RunFolder

    run_folder = RunFolder(run_path)
    if not run_folder.exists or not run_folder.is_locked():
        raise ProblemsError([Problem("no acquisition is running into this folder", str(run_path))])
    run_folder.ask(request)


def light_off(profile_path: Path) -> None:
    """Load a microscope and switch every light off, and do nothing else.

    Raises
    ------
    ProblemsError
        If the profile has mistakes.
    RuntimeError
        If the hardware cannot be loaded, or some light stays on.
    """
    from scotopic.microscope import close_microscope, open_microscope

    profile = read_model(profile_path, MicroscopeProfile)
    close_microscope(open_microscope(profile, profile_path))


def snap(
    profile_path: Path,
    out: Path,
    say: Callable[[str], None],
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
    from scotopic.microscope import LightOnError, close_microscope, image_site, open_microscope
    from scotopic.pictures import write_site

    if protocol_path is not None:
        protocol, profile, _ = _checked_job(protocol_path, profile_path, out, say, specimen)
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
    core = open_microscope(profile, profile_path, protocol)
    try:
        say(f"{name}: exposing {level or ', '.join(names)}")
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

    profile = _with_specimen(read_model(profile_path, MicroscopeProfile), specimen)
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
    from scotopic.photons import focus_score
    from scotopic.pictures import histogram_line

    camera, source = profile.camera, profile.light_source(protocol.channel)
    for level in protocol.light_levels:
        if level.name not in exposures:
            continue
        image, power = exposures[level.name].image, source.relative_power(level.led_percent)
        yield (
            f"{name} at {level.name}: {image.mean() - camera.offset_counts:.2f} counts above the offset on average, "
            f"focus score {focus_score(image, camera):.3f}; "
            f"signal dose {level.exposure_ms * power:.3g} ms, sample dose {exposures[level.name].lit_ms * power:.3g} ms"
        )
        yield f"  {histogram_line(image, camera.saturation_counts)}"
        saturated = (image >= camera.saturation_counts).mean()
        if saturated > MOST_SATURATED:
            yield f"warning: {saturated:.1%} of the pixels are saturated at {level.name}"
    images = {each: exposure.image for each, exposure in exposures.items()}
    for odd, ratio in _odd_doses(protocol, profile, images).items():
        yield (
            f"warning: {odd} has {ratio:.2g} times the signal that its dose should give: LED, shutter or camera offset?"
        )


def run(
    protocol_path: Path,
    profile_path: Path,
    out: Path,
    say: Callable[[str], None],
    specimen: Path | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> AcquireResult:
    """Do the whole job, as far as today's parts reach: check, acquire the plate, verify it.

    Raises
    ------
    ProblemsError
        If the check or the verification fails.
    """
    result = acquire(protocol_path, profile_path, out, say, specimen=specimen, on_progress=on_progress)
    if result.end_reason.startswith("completed"):
        say("this version goes no further; still missing: " + "; ".join(STILL_MISSING))
    return result


def _odd_doses(
    protocol: ImagingProtocol, profile: MicroscopeProfile, images: dict[str, NDArray[np.uint16]]
) -> dict[str, float]:
    """Return the levels whose mean signal does not follow the dose, beyond noise and a fifth, and by what factor."""
    source, camera = profile.light_source(protocol.channel), profile.camera
    dose = {level.name: level.exposure_ms * source.relative_power(level.led_percent) for level in protocol.light_levels}
    reference = protocol.reference.name
    if reference not in images:
        return {}
    full = images[reference].mean() - camera.offset_counts
    odd = {}
    for name, image in images.items():
        expected = full * dose[name] / dose[reference]
        signal = image.mean() - camera.offset_counts
        noise = camera.read_noise_e / camera.gain_e_per_count / image.size**0.5
        if abs(signal - expected) > 0.2 * abs(expected) + 5 * noise + 0.1:
            odd[name] = float(signal / expected) if expected else float("inf")
    return odd
