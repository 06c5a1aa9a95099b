from __future__ import annotations

import errno
import shutil
import tempfile
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from scotopic.protocol import Fault
    from scotopic.protocol.simulation import FaultKind

_LARGEST_DISK_TO_FILL = 2 * 1024**3


class Faults:
    """Counts the operations of each kind and says when one of them is to fail."""

    def __init__(self, faults: tuple[Fault, ...]) -> None:
        self._faults = faults
        self._done: Counter[int] = Counter()

    def due(self, kind: FaultKind) -> Fault | None:
        """Count one operation and return the fault that strikes it, if any."""
        struck = None
        for number, fault in enumerate(self._faults):
            if fault.kind == kind:
                count = self._done[number]
                self._done[number] += 1
                if count >= fault.after and (fault.times is None or count < fault.after + fault.times):
                    struck = fault
        return struck


def fill_disk(folder: Path) -> None:
    """Write until the file system is full. Refuses any but a small one made for the purpose.

    Raises
    ------
    RuntimeError
        If the file system is larger than 2 GiB, or there is no such folder.
    """
    if not folder.is_dir():
        raise RuntimeError(f"disk_fills: {folder} is no folder")
    if shutil.disk_usage(folder).total > _LARGEST_DISK_TO_FILL:
        raise RuntimeError(f"disk_fills: {folder} is on a file system larger than 2 GiB, which will not be filled")
    with tempfile.NamedTemporaryFile(dir=folder, prefix="ballast-", delete=False) as ballast:
        try:
            for size in (2**20, 2**12, 1):
                _write_until_full(ballast, size)
        except OSError as error:  # pragma: no cover
            if error.errno != errno.ENOSPC:
                raise


def _write_until_full(file: object, size: int) -> None:
    try:
        while True:
            file.write(bytes(size))  # type: ignore[attr-defined]
            file.flush()  # type: ignore[attr-defined]
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
