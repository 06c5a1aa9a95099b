"""What is to be done: protocol, profile and specimen, read and checked before anything moves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from scotopic.protocol import (
    ImageSpecimenSettings,
    ImagingProtocol,
    MicroscopeProfile,
    Problem,
    ProblemsError,
    read_model,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from scotopic.microscope import CheckReport


M = TypeVar("M", ImagingProtocol, MicroscopeProfile)


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
    return protocol, with_specimen(profile, specimen)


def with_specimen(profile: MicroscopeProfile, specimen: Path | None) -> MicroscopeProfile:
    """Put a folder of images under a simulated microscope."""
    if specimen is None:
        return profile
    if profile.simulator is None:
        raise ProblemsError([Problem("is given, but this microscope is not simulated", key="--specimen")])
    settings = ImageSpecimenSettings(kind="images", folder=str(specimen.absolute()))  # a run goes on from anywhere
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
    from scotopic.microscope import microscope_lock

    protocol, profile, report = _checked_files(protocol_path, profile_path, specimen, out)
    if connect and not report.problems:
        with microscope_lock(profile, profile_path):
            _compare_hardware(protocol, profile, profile_path, report)
    return report


def _compare_hardware(
    protocol: ImagingProtocol, profile: MicroscopeProfile, profile_path: Path, report: CheckReport
) -> None:
    from scotopic.microscope import check_hardware, close_microscope, open_microscope

    try:
        core = open_microscope(profile, profile_path, protocol)
    except ProblemsError as error:
        report.problems += error.problems
        return
    except (RuntimeError, OSError) as error:
        report.problems.append(Problem(str(error), str(profile.config_path(profile_path))))
        return
    try:
        found = check_hardware(core, protocol, profile, profile_path)
        report.problems += found.problems
        told = {(warning.key, warning.message) for warning in report.warnings}
        report.warnings += [warning for warning in found.warnings if (warning.key, warning.message) not in told]
        report.facts.append(("device adapters", ", ".join(core.getDeviceAdapterSearchPaths()) or "none needed"))
    finally:
        close_microscope(core)


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
        # A measured value is not the true one to the last digit.
        tolerance = 0.5 if key == "offset_counts" else 0.03 * true
        if abs(stated - true) > tolerance:
            message = f"= {stated:g}: the simulated {profile.simulator.camera} has {true:g}"
            report.warnings.append(Problem(message, str(profile_path), key=f"camera.{key}"))


def checked_job(
    protocol_path: Path, profile_path: Path, out: Path, say: Callable[[str], None], specimen: Path | None
) -> tuple[ImagingProtocol, MicroscopeProfile, CheckReport]:
    """Check a job, say its warnings, and return what is to be done."""
    protocol, profile, report = _checked_files(protocol_path, profile_path, specimen, out)
    if report.problems:
        raise ProblemsError(report.problems)
    for warning in report.warnings:
        say(f"warning: {warning}")
    return protocol, profile, report
