"""The folder that `scotopic segment` writes: labels, overlays, and tables that belong to them."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import replace_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

_MOST_IN_16_BIT = 65_535
_LABELS, _OVERLAYS, _MARK = "labels", "overlays", "segment.json"
_OURS = (_LABELS, _OVERLAYS, "nuclei.csv", "nuclei.parquet", "images.csv", "quality.csv")


class NucleiFolder:
    """Labels, overlays and tables of images: of one method, in one unit; only extended, or replaced as a whole."""

    def __init__(self, path: Path, how: dict[str, Any], *, overwrite: bool = False) -> None:
        """Look at the folder; nothing is written yet.

        Parameters
        ----------
        how : dict
            What all its images have in common: method and camera.
        overwrite : bool
            Replace what is there, whoever made it.

        Raises
        ------
        ProblemsError
            If it holds such files from elsewhere, or of another method.
        """
        self.path = path
        self._how = how
        self._overwrite = overwrite
        self._images: dict[str, list[int]] = {}
        there = [name for name in _OURS if (path / name).exists()]
        mark = _read_mark(path / _MARK)
        if there and not overwrite:
            if mark is None:
                told = f"holds {', '.join(there)} that no `segment` wrote; choose another --out, or --overwrite"
                raise ProblemsError([Problem(told, str(path))])
            if odd := [key for key, value in how.items() if mark.get(key) != value]:
                told = f"was written with {odd[0]} = {mark.get(odd[0])!r}, this is {how[odd[0]]!r}; choose another --out, or --overwrite"
                raise ProblemsError([Problem(told, str(path))])
        self._extends = bool(there) and not overwrite
        if self._extends and mark is not None:
            self._images = mark.get("images", {})

    def open(self) -> None:
        """Make the folder, without what is to be replaced.

        Raises
        ------
        ProblemsError
            If it cannot be written.
        """
        try:
            if self._overwrite:
                for name in _OURS:
                    target = self.path / name
                    if target.is_dir():
                        shutil.rmtree(target)
                    else:
                        target.unlink(missing_ok=True)
            for name in (_LABELS, _OVERLAYS):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            self._write_mark()
        except OSError as error:
            raise ProblemsError([Problem(f"cannot be written: {error.strerror}", str(self.path))]) from error

    def _write_mark(self) -> None:
        replace_text(self.path / _MARK, json.dumps({**self._how, "images": self._images}, indent=1))

    def leave(self) -> None:
        """Take back what `open` made: there is nothing to be written."""
        if self._extends:
            return
        (self.path / _MARK).unlink(missing_ok=True)
        for folder in (self.path / _LABELS, self.path / _OVERLAYS, self.path):
            with suppress(OSError):  # something else is in it
                folder.rmdir()

    def write_image(self, name: str, labels: NDArray[Any], overlay: NDArray[np.uint8]) -> None:
        """Write labels and overlay of an image; from any process.

        Parameters
        ----------
        labels : NDArray, shape (Y, X), integer
            A PNG of 16 bit; of more than 65,535 labels a TIFF of 32 bit.
        overlay : NDArray, shape (Y, X, 3), uint8
        """
        import imageio.v3 as iio
        import tifffile

        small, large = (self.path / _LABELS / f"{name}{suffix}" for suffix in (".png", ".tif"))
        if labels.max(initial=0) > _MOST_IN_16_BIT:
            tifffile.imwrite(large, labels.astype(np.uint32), compression="zlib")
            small.unlink(missing_ok=True)
        else:
            iio.imwrite(small, labels.astype(np.uint16))
            large.unlink(missing_ok=True)
        iio.imwrite(self.path / _OVERLAYS / f"{name}.png", overlay)

    def write_tables(
        self,
        tables: Sequence[pd.DataFrame],
        verdicts: Sequence[dict[str, Any]],
        images: Mapping[str, tuple[int, ...]],
        say: Callable[[str], None],
    ) -> int:
        """Write the nuclei of all images into one table, evenly lit, their number in each image, 0 too, and the verdicts on the images.

        What an earlier `segment` has found in other images stays.

        Parameters
        ----------
        tables, verdicts : sequence of DataFrame, sequence of dict
            Nuclei, and figures of the quality (none of a network's), of the images.
        images : mapping of str to (int, int)
            Height and width of each image, by its name.

        Returns
        -------
        int
            Number of nuclei of the images given.
        """
        import pandas as pd

        from scotopic.nuclei import evenly_lit, unevenly_lit

        new = pd.concat(tables, ignore_index=True)
        self._images |= {name: list(shape) for name, shape in images.items()}
        if self._extends and (self.path / "nuclei.parquet").exists():
            earlier = unevenly_lit(pd.read_parquet(self.path / "nuclei.parquet"))
            new_and_old = pd.concat([earlier[~earlier["image"].isin(list(images))], new], ignore_index=True)
        else:
            new_and_old = new
        nuclei, uncorrected = evenly_lit(new_and_old, {tuple(shape) for shape in self._images.values()})
        if uncorrected:
            say(uncorrected)
        for name in (name for name in nuclei if nuclei[name].dtype == object):
            if nuclei[name].dropna().map(type).nunique() > 1:  # labels of wells may be numbers here and words there
                nuclei[name] = nuclei[name].map(str, na_action="ignore")
        nuclei.to_csv(self.path / "nuclei.csv", index=False)
        nuclei.to_parquet(self.path / "nuclei.parquet", index=False)
        found = nuclei["image"].map(str).value_counts()
        counts = [{"image": name, "nuclei": int(found.get(name, 0))} for name in self._images]
        pd.DataFrame(counts).to_csv(self.path / "images.csv", index=False)
        if verdicts:
            quality, path = pd.DataFrame(verdicts), self.path / "quality.csv"
            if self._extends and path.exists():
                old = pd.read_csv(path, dtype={"image": str})
                quality = pd.concat([old[~old["image"].isin(list(images))], quality], ignore_index=True)
            quality.to_csv(path, index=False)
        self._write_mark()
        return len(new)


def _read_mark(path: Path) -> dict[str, Any] | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
