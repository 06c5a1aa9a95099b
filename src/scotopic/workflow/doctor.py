"""What somebody who is to help must know of this computer, this microscope and this run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from scotopic import __version__
from scotopic.protocol import ImagingProtocol, MicroscopeProfile, ProblemsError, read_model
from scotopic.workflow.run_log import NAME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PACKAGES = (
    "pymmcore",
    "pymmcore-plus",
    "useq-schema",
    "torch",
    "numpy",
    "scipy",
    "scikit-image",
    "zarr",
    "zarrs",
    "pydantic",
)
_LAST_ERRORS, _PATIENCE_S = 20, 20


def doctor(
    say: Callable[[str], None] = print, *, profile_path: Path | None = None, run_path: Path | None = None
) -> None:
    """Say versions, processors, GPU, disk, adapters, what the check says of a profile, and the last errors of a run, to send for help.

    Nothing is loaded, moved or lit. Names of folders are in it.

    Parameters
    ----------
    profile_path : Path, optional
        Profile to check.
    run_path : Path, optional
        Run whose state and last errors are of interest.
    """
    for title, lines in (
        ("scotopic", _versions()),
        ("computer", _computer(run_path or Path())),
        ("adapters", _adapters()),
        ("profile", _profile(profile_path)),
        ("run", _run(run_path)),
    ):
        say(title)
        for line in lines:
            say(f"  {line}")


def _versions() -> Iterator[str]:
    yield f"scotopic {__version__}, Python {platform.python_version()}, {platform.platform()}"
    yield f"in {sys.prefix}"
    for package in _PACKAGES:
        try:
            yield f"{package} {version(package)}"
        except PackageNotFoundError:
            yield f"{package}: not installed"


def _computer(folder: Path) -> Iterator[str]:
    memory = psutil.virtual_memory()
    yield f"{os.cpu_count()} processors, {memory.total / 1e9:.1f} GB of memory, {memory.available / 1e9:.1f} GB of it free"
    there = next((each for each in (folder.absolute(), *folder.absolute().parents) if each.exists()), Path())
    yield f"{shutil.disk_usage(there).free / 1e9:.1f} GB free at {there}"
    yield f"GPU: {_gpu()}"


def _gpu() -> str:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "no nvidia-smi found" if sys.platform != "darwin" else "Apple's, if torch finds it"
    try:
        told = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=_PATIENCE_S, check=False).stdout  # noqa: S603 - found above
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi does not answer: {error}"
    return "; ".join(told.split("\n")).strip("; ") or "nvidia-smi lists none"


def _adapters() -> Iterator[str]:
    from scotopic.microscope.adapters import installations

    found = list(installations())
    yield from found or ["no Micro-Manager found"]


def _profile(path: Path | None) -> Iterator[str]:
    if path is None:
        yield "none given (--microscope)"
        return
    from scotopic.microscope import check_files

    try:
        profile = read_model(path, MicroscopeProfile)
        protocol = ImagingProtocol.white_paper(next(iter(profile.light_sources)), "A1")
        report = check_files(protocol, path, profile, path, path.parent)
    except ProblemsError as error:
        yield from (f"error: {problem}" for problem in error.problems)
        return
    yield f"{path}: {profile.name}, with the white paper's protocol in A1"
    yield from (
        f"{what}: {told}"
        for what, told in profile.calibration_facts(profile.light_sources, datetime.now().astimezone())
    )
    yield from (f"warning: {warning}" for warning in report.warnings)
    yield from (f"error: {problem}" for problem in report.problems)


def _run(path: Path | None) -> Iterator[str]:
    if path is None:
        yield "none given (--run)"
        return
    from scotopic.store.seals import read_json

    states = sorted((path / "status").glob("*.json"))
    if not states:
        yield f"{path} holds no run, or none that has begun"
    for status in states:
        try:
            told = read_json(status)
            yield f"{status.stem}: {told.get('state')} {told.get('message', '')}".rstrip()
        except (OSError, ProblemsError) as error:
            yield f"{status.stem}: cannot be read: {error}"
    log = path / NAME
    if log.exists():
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        odd = [line for line in lines if " WARNING " in line or " ERROR " in line]
        yield f"{NAME}: {len(lines)} lines, {len(odd)} warnings and errors" + (", the last of them:" if odd else "")
        yield from odd[-_LAST_ERRORS:]
