"""scotopic from Python: the main commands as functions, and runs as arrays and tables.

The names here are the stable ones; `import scotopic` has them all, and loads what they need when they are first used.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scotopic.protocol import ImagingProtocol, MicroscopeProfile, ProblemsError, full_light_ms, read_model
from scotopic.reference import REFERENCE, Frames, finished_frames, read_frame
from scotopic.store import site_name
from scotopic.store.files import path_of
from scotopic.workflow import (
    acquire,
    check,
    compare,
    export_model,
    export_package,
    export_run,
    import_images,
    run,
    segment,
    segment_run,
    segment_with_model,
    snap,
    train,
    validate,
    verify,
)
from scotopic.workflow.importing import ImageSource, Imported
from scotopic.workflow.segmentation import opened_run

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import pandas as pd
    from numpy.typing import NDArray
    from pymmcore_plus import CMMCorePlus

    from scotopic.learning.prediction import Predictor
    from scotopic.report import Report
    from scotopic.store import RunFolder

__all__ = [
    "ImageSource",
    "Imported",
    "ProblemsError",
    "Run",
    "Site",
    "acquire",
    "check",
    "compare",
    "export_model",
    "export_package",
    "export_run",
    "import_images",
    "load_model",
    "open_microscope",
    "open_run",
    "read_profile",
    "read_protocol",
    "run",
    "segment",
    "segment_run",
    "segment_with_model",
    "snap",
    "train",
    "validate",
    "verify",
]


def read_protocol(path: str | Path) -> ImagingProtocol:
    """Read a protocol file.

    Raises
    ------
    ProblemsError
        All its mistakes, each with file, line and key.
    """
    return read_model(Path(path), ImagingProtocol)


def read_profile(path: str | Path) -> MicroscopeProfile:
    """Read a microscope profile.

    Raises
    ------
    ProblemsError
        All its mistakes, each with file, line and key.
    """
    return read_model(Path(path), MicroscopeProfile)


@contextmanager
def open_microscope(profile_path: str | Path, protocol: ImagingProtocol | None = None) -> Iterator[CMMCorePlus]:
    """Open the microscope of a profile for this process alone; its light is off then, and at the end.

    Parameters
    ----------
    protocol : ImagingProtocol, optional
        Its light levels become presets of the config group `LightLevel`.

    Raises
    ------
    ProblemsError, RuntimeError
        If another process drives it, or it cannot be loaded.
    """
    from scotopic.microscope import close_microscope, microscope_lock, switch_light_off
    from scotopic.microscope import open_microscope as opened

    path = Path(profile_path)
    profile = read_profile(path)
    with microscope_lock(profile, path):
        core = opened(profile, path, protocol)
        try:
            yield core
        finally:
            try:
                switch_light_off(core, profile)
            finally:
                close_microscope(core)


def open_run(path: str | Path) -> Run:
    """Open a run to read, finished or not: a folder, or a place in an object store such as `s3://bucket/run`.

    Raises
    ------
    ProblemsError
        If there is no run.
    """
    return Run(opened_run(path_of(str(path)) if isinstance(path, str) else path))


def load_model(path: str | Path, **how: Any) -> Predictor:
    """Load a model file, ready for images: `load_model(path)(image, dose)` has `labels` and `scores`.

    Parameters
    ----------
    how
        As for `scotopic.learning.prediction.Predictor`: camera, pixel_size_um, dtype, device.

    Raises
    ------
    ProblemsError
        If it is no model.
    """
    from scotopic.learning.model import Model
    from scotopic.learning.prediction import Predictor

    return Predictor(Model.load(Path(path)), **how)


@dataclass(frozen=True)
class Run:
    """A run, to read: sites as arrays, nuclei as tables, the report as a model."""

    folder: RunFolder
    """Its files."""

    @cached_property
    def protocol(self) -> ImagingProtocol:
        """What was imaged."""
        return self.folder.read_protocol()

    @cached_property
    def profile(self) -> MicroscopeProfile:
        """With what."""
        return self.folder.read_profile()

    @property
    def latest_model(self) -> Path | None:
        """File of the best model so far."""
        return self.folder.latest_model()

    def frames(self) -> pd.DataFrame:
        """Return the ledger: one row a frame, all attempts of all sites."""
        import pandas as pd

        return pd.DataFrame([record.model_dump() for record in self.folder.ledger.read()])

    def nuclei(self, source: str = REFERENCE) -> pd.DataFrame:
        """Return all nuclei at all light levels.

        Parameters
        ----------
        source : str
            Who found them: `reference`, `live`, or the hash of a model that was validated.

        Raises
        ------
        FileNotFoundError
            If there are none from this source.
        """
        table = self.folder.nuclei.read_sites(source)
        if table is None:
            raise FileNotFoundError(f"{self.folder.path}: there are no nuclei of {source!r}")
        return table

    def report(self) -> Report:
        """Return the report.

        Raises
        ------
        FileNotFoundError
            If the run was not validated.
        ProblemsError
            If its report is of another version.
        """
        from scotopic.workflow.reporting import read_report

        if not (self.folder.path / "report.json").exists():
            raise FileNotFoundError(f"{self.folder.path}: the run was not validated")
        return read_report(self.folder.path)

    def sites(self, wells: Collection[str] | None = None) -> Iterator[Site]:
        """Yield the finished sites, of some wells or of all; of a stack the plane of the masks, or the sharpest."""
        for (well, site, t), frames in finished_frames(self.folder).items():
            if wells is None or well in wells:
                yield Site(self, well, site, t, frames)


@dataclass(frozen=True)
class Site:
    """A finished site at a time point."""

    run: Run
    well: str
    site: int
    """Number in its well."""
    t: int
    """Time point."""
    frames: Frames
    """Light level -> line of the ledger."""

    @property
    def name(self) -> str:
        """For example `B2_0`."""
        return site_name(self.well, self.site, self.t)

    def image(self, level: str) -> NDArray[Any]:
        """Return the image at a light level as the camera gave it, shape (Y, X), uint16.

        Raises
        ------
        KeyError
            If there is none at that level.
        """
        return read_frame(self.run.folder.path, self.frames[level])

    def dose(self, level: str) -> float:
        """Return the light of an image relative to full light: the brightest level of its channel, that of the stain the reference."""
        protocol = self.run.protocol
        return self.frames[level].signal_dose_ms / full_light_ms(protocol, self.run.profile, protocol.level(level))

    def labels(self, name: str = REFERENCE) -> NDArray[Any]:
        """Return masks, shape (Y, X), uint32; 0 is background, and all of it where no masks were made.

        Parameters
        ----------
        name : str
            Of the plate's labels: `reference`, `network_HASH_0` for the first light level of the protocol, `network_live_0`.
        """
        z = next(iter(self.frames.values())).z
        plate = self.run.folder.plate(self.run.protocol, self.run.profile)
        return plate.read_labels(self.well, self.site, name, self.t, z)

    def nuclei(self, source: str = REFERENCE) -> pd.DataFrame:
        """Return the nuclei of this site at all light levels."""
        return self.run.folder.nuclei.read(source, self.well, self.site, self.t)
