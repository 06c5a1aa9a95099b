"""What is kept of the nuclei of a run: a line a site on its masks, and tables of measurements."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from pydantic import Field

from scotopic.photons import FrozenModel
from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import read_bytes, replace_bytes
from scotopic.store.seals import BLANK, KEY, damaged, is_intact, sealed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
        self.folder(source).mkdir(parents=True, exist_ok=True)
        replace_bytes(self._of_site(source, well, site, t), _parquet(table))

    def read(self, source: str, well: str, site: int, t: int) -> pd.DataFrame:
        """Return the table of a site.

        Raises
        ------
        ProblemsError
            If it is damaged.
        """
        return _read(self._of_site(source, well, site, t))

    def forget(self, well: str, site: int, t: int) -> None:
        """Remove the tables of a site, of all sources: they are of images that are given up."""
        for path in list(self._path.glob(f"*/{site_name(well, site, t)}.parquet")):
            path.unlink(missing_ok=True)

    def read_sites(self, source: str) -> pd.DataFrame | None:
        """Return the tables of all sites of a source as one; nothing if there are none.

        Raises
        ------
        ProblemsError
            If one is damaged.
        """
        import pandas as pd

        tables = [_read(path) for path in sorted(self.folder(source).glob("*.parquet"), key=str)]
        return pd.concat(tables, ignore_index=True) if tables else None

    def write_all(self, source: str, table: pd.DataFrame) -> None:
        """Write the table of all sites, for programs (Parquet) and for people (CSV)."""
        self._path.mkdir(parents=True, exist_ok=True)
        replace_bytes(self._path / f"{source}.parquet", _parquet(table))
        replace_bytes(self._path / f"{source}.csv", _csv(table))

    def damaged_csv(self) -> Iterator[Problem]:
        """Yield the tables for people, which have no room for a seal, that are not those for programs."""
        for path in sorted(self._path.glob("*.csv")):
            try:
                table = _read(path.with_suffix(".parquet"))
            except (ProblemsError, FileNotFoundError):
                continue  # which of the two is damaged nobody knows; that of the other is told
            if path.read_bytes().replace(b"\r\n", b"\n") != _csv(table):
                yield damaged(path, f"not the table in {path.stem}.parquet")

    def folder(self, source: str) -> Path:
        """Return the folder of a source's tables."""
        return self._path / source

    def _of_site(self, source: str, well: str, site: int, t: int) -> Path:
        return self.folder(source) / f"{site_name(well, site, t)}.parquet"


def _parquet(table: pd.DataFrame) -> bytes:
    """Return a table as a Parquet file with a seal in its metadata."""
    import pyarrow
    from pyarrow import parquet

    content = pyarrow.Table.from_pandas(table, preserve_index=False)
    content = content.replace_schema_metadata({**(content.schema.metadata or {}), KEY: BLANK})
    file = io.BytesIO()
    parquet.write_table(content, file)
    return sealed(file.getvalue())


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd  # not where a microscope is driven

    data = read_bytes(path)
    if not is_intact(data):
        raise ProblemsError([damaged(path)])
    try:
        return pd.read_parquet(io.BytesIO(data))
    except (OSError, ValueError) as error:  # of an earlier version, without a seal
        raise ProblemsError([damaged(path)]) from error


def _csv(table: pd.DataFrame) -> bytes:
    return str(table.to_csv(index=False, lineterminator="\n")).encode()
