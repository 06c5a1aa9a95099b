"""What is kept of the nuclei of a run: a line a site on its masks, and tables of measurements."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from scotopic.photons import FrozenModel
from scotopic.store.files import is_remote, sync

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd


class ReferenceRecord(FrozenModel):
    """The reference masks of one site: written, with the verdict of the quality gate."""

    well: str
    """Well."""
    site: int = Field(ge=0)
    """Number of the site in its well."""
    t: int = Field(ge=0)
    """Time point."""
    z: int = Field(default=0, ge=0)
    """Plane that they were made from: the sharpest one of a stack."""
    attempt: int = Field(gt=0)
    """Visit whose bright image they were made from."""
    nuclei: int = Field(ge=0)
    """Number of nuclei."""
    reasons: tuple[str, ...] = ()
    """Why the site is not fit to be learned from; nothing if it is."""
    figures: dict[str, float | None] = Field(default_factory=dict)
    """What the gate measured; nothing where there were too few nuclei."""

    @property
    def usable(self) -> bool:
        """Whether the site may be learned from."""
        return not self.reasons

    @property
    def site_key(self) -> tuple[str, int, int]:
        """Well, site and time point."""
        return self.well, self.site, self.t

    @property
    def name(self) -> str:
        """Name of the site for people and files."""
        return site_name(*self.site_key)


def site_name(well: str, site: int, t: int) -> str:
    """Return the name of a site at a time point: `B2_0`, later `B2_0_t1`."""
    return f"{well}_{site}" + (f"_t{t}" if t else "")


class NucleusTables:
    """Tables of nuclei: one a site, `<source>/<well>_<site>[_t<t>].parquet`, and one of all, `<source>.parquet`.

    The source is who made the masks: `reference`, or a network by the hash of its file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, source: str, well: str, site: int, t: int, table: pd.DataFrame) -> None:
        """Write the table of a site; it is on the disk when this returns."""
        _replace(self._of_site(source, well, site, t), lambda path: table.to_parquet(path, index=False))

    def read(self, source: str, well: str, site: int, t: int) -> pd.DataFrame:
        """Return the table of a site."""
        import pandas as pd  # not where a microscope is driven

        with self._of_site(source, well, site, t).open("rb") as file:
            return pd.read_parquet(file)

    def forget(self, well: str, site: int, t: int) -> None:
        """Remove the tables of a site, of all sources: they are of images that are given up."""
        for path in list(self._path.glob(f"*/{site_name(well, site, t)}.parquet")):
            path.unlink(missing_ok=True)

    def read_sites(self, source: str) -> pd.DataFrame | None:
        """Return the tables of all sites of a source as one; nothing if there are none."""
        import pandas as pd

        tables = []
        for path in sorted(self.folder(source).glob("*.parquet"), key=str):
            with path.open("rb") as file:
                tables.append(pd.read_parquet(file))
        return pd.concat(tables, ignore_index=True) if tables else None

    def write_all(self, source: str, table: pd.DataFrame) -> None:
        """Write the table of all sites, for programs (Parquet) and for people (CSV)."""
        _replace(self._path / f"{source}.parquet", lambda path: table.to_parquet(path, index=False))
        _replace(self._path / f"{source}.csv", lambda path: table.to_csv(path, index=False))

    def folder(self, source: str) -> Path:
        """Return the folder of a source's tables."""
        return self._path / source

    def _of_site(self, source: str, well: str, site: int, t: int) -> Path:
        return self.folder(source) / f"{site_name(well, site, t)}.parquet"


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Write a file so that its name stands for the whole of it, the old or the new."""
    if is_remote(path):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder) / path.name
            write(here)
            path.write_bytes(here.read_bytes())
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    write(partial)
    sync([partial])
    os.replace(partial, path)
    sync([path.parent])
