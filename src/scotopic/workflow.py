"""The one place where everything is wired together."""

from __future__ import annotations

import shutil
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

STILL_MISSING = (
    "acquisition of the whole plate into OME-Zarr",
    "reference masks and measurements",
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
    if specimen is not None:
        if profile.simulator is None:
            raise ProblemsError([Problem("is given, but this microscope is not simulated", key="--specimen")])
        settings = ImageSpecimenSettings(kind="images", folder=str(specimen))
        simulator = profile.simulator.model_copy(update={"specimen": settings})
        profile = profile.model_copy(update={"simulator": simulator})
    return protocol, profile


def _read_or_note(path: Path, model: type[M], problems: list[Problem]) -> M | None:
    try:
        return read_model(path, model)
    except ProblemsError as error:
        problems += error.problems
        return None


def describe_specimen(protocol: ImagingProtocol, profile: MicroscopeProfile) -> list[tuple[str, str]]:
    """Return (what, which) of the specimen under a simulated microscope, for the report of the check."""
    if profile.simulator is None:
        return []
    from scotopic.protocol.simulator_setup import SimulatorSetup
    from scotopic.simulator import make_specimen

    specimen = make_specimen(SimulatorSetup.of(profile, protocol))
    return [("specimen", specimen.fingerprint), ("", specimen.description)]


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
    sites = protocol.sites_in_travel_order(camera.fov_um)
    filled = ImageSpecimen(settings, sites, (camera.height_px, camera.width_px), camera.pixel_size_um)
    n_wells, asked = len(filled.wells), len(protocol.well_names)
    if n_wells == asked:
        return protocol, ""
    told = f"{settings.folder}: {filled.n_images} images fill {n_wells} wells of {protocol.sites.count} sites"
    if n_wells == 0:
        raise ProblemsError([Problem(f"{told}: give more images, or fewer sites")])
    fewer = protocol.with_fewer_wells(n_wells)
    return fewer, f"{told}; {asked - n_wells} of {asked} wells are left out, imaged are {', '.join(fewer.well_names)}"


def check(
    protocol_path: Path, profile_path: Path, *, connect: bool = False, specimen: Path | None = None, out: Path = Path()
) -> CheckReport:
    """Check a job before anything moves; with `connect`, also load the hardware and compare.

    Raises
    ------
    ProblemsError
        If a file has mistakes of its own; what one file has against the other is in the report.
    """
    from scotopic.microscope import check_files, check_hardware, open_microscope

    protocol, profile = read_job(protocol_path, profile_path, specimen)
    protocol, fewer = fit_to_specimen(protocol, profile)
    report = check_files(protocol, protocol_path, profile, profile_path, out)
    if not report.problems:
        report.facts += describe_specimen(protocol, profile)
    if fewer:
        report.warnings.append(Problem(fewer))
    if connect and not report.problems:
        try:
            core = open_microscope(profile, profile_path, protocol)
        except (RuntimeError, OSError) as error:
            report.problems.append(Problem(str(error), str(profile.config_path(profile_path))))
            return report
        report.problems += check_hardware(core, protocol, profile, profile_path)
        core.unloadAllDevices()
    return report


def run(
    protocol_path: Path, profile_path: Path, out: Path, say: Callable[[str], None], specimen: Path | None = None
) -> None:
    """Do the whole job, as far as today's parts reach: check, open the microscope, image the first site.

    Parameters
    ----------
    say : callable
        Takes each line that the user is told.

    Raises
    ------
    ProblemsError
        If the check fails; nothing was moved or lit then.
    """
    report = check(protocol_path, profile_path, specimen=specimen, out=out)
    if report.problems:
        raise ProblemsError(report.problems)
    for warning in report.warnings:
        say(f"warning: {warning}")
    protocol, profile = read_job(protocol_path, profile_path, specimen)
    protocol, _ = fit_to_specimen(protocol, profile)
    from scotopic.microscope import image_site, open_microscope
    from scotopic.pictures import write_site

    _keep_copies(out, protocol_path, profile_path, profile)
    say(f"check passed: {protocol.n_frames:,} frames planned, {len(protocol.held_out_wells)} wells held out")
    try:
        core = open_microscope(profile, profile_path, protocol)
    except (RuntimeError, OSError) as error:
        raise ProblemsError([Problem(str(error), str(profile.config_path(profile_path)))]) from error
    try:
        position = protocol.to_sequence(profile).stage_positions[0]
        images = image_site(core, profile, protocol, position.x or 0.0, position.y or 0.0, position.z)
    except RuntimeError as error:
        raise ProblemsError([Problem(str(error), profile.name)]) from error
    finally:
        core.unloadAllDevices()
    for level in protocol.light_levels:
        signal = images[level.name].mean() - profile.camera.offset_counts
        say(f"{position.name} at {level.name}: {signal:.2f} counts above the offset on average")
    for path in write_site(out, position.name or "site", images, profile.camera.pixel_size_um):
        say(f"wrote {path}")
    say("this version goes no further; still missing: " + "; ".join(STILL_MISSING))


def _keep_copies(out: Path, protocol_path: Path, profile_path: Path, profile: MicroscopeProfile) -> None:
    """Copy protocol, profile and configuration into the run folder, as given."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        for source, name in (
            (protocol_path, "protocol.yaml"),
            (profile_path, "microscope.yaml"),
            (profile.config_path(profile_path), "microscope.cfg"),
        ):
            shutil.copyfile(source, out / name)
    except OSError as error:
        raise ProblemsError([Problem(f"cannot be written: {error.strerror}", str(out))]) from error
