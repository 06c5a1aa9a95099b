"""A power cut leaves on the disk what was synced, and perhaps nothing else; a killed process cannot show that."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import acquired, small
from scotopic.store import verify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what was synced is found out through /proc")


class Disk:
    """Everything that was synced, in order: contents of files, and names in folders, by inode."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: list[tuple[int, bytes | dict[str, tuple[int, bool]]]] = []
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self.fsync)

    def fsync(self, descriptor: int) -> None:
        self._fsync(descriptor)
        path, status = Path(f"/proc/self/fd/{descriptor}").resolve(), os.fstat(descriptor)
        if stat.S_ISDIR(status.st_mode):
            self.synced.append((status.st_ino, {p.name: (p.stat().st_ino, p.is_dir()) for p in path.iterdir()}))
        else:
            self.synced.append((status.st_ino, path.read_bytes()))

    def after_power_cut(self, moment: int, root: int, target: Path) -> None:
        """Make the folder as it is found when the power was cut after so many syncs."""
        self._restore(dict(self.synced[:moment]), root, target)

    def _restore(self, found: dict[int, bytes | dict[str, tuple[int, bool]]], folder: int, target: Path) -> None:
        target.mkdir(exist_ok=True)
        names = found.get(folder)
        for name, (child, is_folder) in (names if isinstance(names, dict) else {}).items():
            if is_folder:
                self._restore(found, child, target / name)
            else:  # a name that was synced may stand for a content that was not
                content = found.get(child, b"")
                (target / name).write_bytes(content if isinstance(content, bytes) else b"")


@pytest.mark.e2e
def test_after_a_power_cut_the_run_goes_on_to_the_same_end(tmp_path, monkeypatch):
    job = small("simulated", wells="B2:B4")
    with monkeypatch.context() as patch:
        disk = Disk(patch)
        run, result = acquired(job, tmp_path / "RUN")
    assert result.end_reason == "completed"
    whole = {(r.well, r.site, r.level) for r in run.ledger.read()}
    root = (tmp_path / "RUN").stat().st_ino
    rng = np.random.default_rng(1)
    resumed = 0
    for number, moment in enumerate(sorted(rng.integers(1, len(disk.synced), 12))):
        out = tmp_path / f"CUT{number}"
        out.mkdir()
        disk.after_power_cut(int(moment), root, out)
        ledger = out / "frames.jsonl"
        if number % 2 and ledger.exists():  # its length had grown already, but what was appended is lost
            with ledger.open("ab") as file:
                file.write(bytes(700))
        kept = ledger.read_bytes().count(b"\n") if ledger.exists() else 0
        run, result = acquired(job, out)
        assert result.end_reason == "completed", result.message
        assert verify(run) == []
        records = run.ledger.read()
        assert {(r.well, r.site, r.level) for r in records} == whole
        resumed += 0 < kept < len(whole)
        for site in {r.site_key for r in records}:
            visits = [r.attempt for r in records if r.site_key == site]
            assert visits.count(max(visits)) == 4
            assert all(visits.count(a) < 4 for a in range(1, max(visits))), "a finished site was exposed again"
    assert resumed > 3, "hardly any cut was within the run: the test is void"
