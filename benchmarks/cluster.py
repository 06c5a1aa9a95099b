"""Throughput of reference masks on a Dask cluster of this computer: one worker, then two, and their ratio.

usage: cluster.py RUN [--wells 8]

Works on copies of some wells of RUN, which stays as it is. The two must make the same masks.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd
from machine import machine

from scotopic.store import RunFolder
from scotopic.workflow import segment_run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--wells", type=int, default=8)
    asked = parser.parse_args()
    print(f"# {machine()}")
    rates, tables = [], []
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            path, sites = some_wells(asked.run, Path(folder) / "RUN", asked.wells)
            begun = time.monotonic()
            segment_run(path, lambda _: None, workers=workers, dask="local")
            rates.append(sites / (time.monotonic() - begun))
            found = RunFolder(path).nuclei.read_sites("reference")
        if found is None:
            raise SystemExit("no masks were made")
        tables.append(found.sort_values(["well", "site", "level", "label"], ignore_index=True))
        print(f"{workers} workers: {rates[-1]:.2f} sites/s, cluster's start and end included")
    pd.testing.assert_frame_equal(*tables)
    print(f"ratio {rates[1] / rates[0]:.2f}, the same tables")


def some_wells(run: Path, out: Path, count: int) -> tuple[Path, int]:
    """Copy the images of the first wells of a run, without masks; return the copy and its number of sites."""
    records = RunFolder(run).ledger.read()
    wells = list(dict.fromkeys(record.well for record in records))[:count]

    def left_out(folder: str, names: list[str]) -> set[str]:
        place = Path(folder).relative_to(run).parts
        unwanted = {"nuclei", "models", "labels", "run.lock.owner", "report.html", "report.json"} & set(names)
        if len(place) == 2:  # rows of the plate
            unwanted |= {name for name in names if name.isdecimal() and f"{place[1]}{name}" not in wells}
        return unwanted

    shutil.copytree(run, out, ignore=left_out)
    lines = (out / "frames.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["well"] in wells]
    (out / "frames.jsonl").write_text("".join(kept), encoding="utf-8")
    return out, len({record.site_key for record in records if record.well in wells})


if __name__ == "__main__":
    main()
