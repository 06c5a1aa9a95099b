from __future__ import annotations

import errno
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sync")


def replace_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, also one after a power cut, sees the old or the new one, never a part.

    On Windows a file cannot be replaced while a reader holds it open: that is tried again for a second.
    """
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    for attempt in range(20):
        try:
            os.replace(partial, path)
            break
        except PermissionError:
            if attempt == 19:
                raise
            time.sleep(0.05)
    sync([path.parent])


def sync(paths: Iterable[Path]) -> None:
    """Make sure that contents of files, and names in folders, are on the disk.

    Several at once, which takes half as long. Windows keeps the names without being asked.
    """
    for _ in _pool.map(_sync_one, paths):
        pass


def _sync_one(path: Path) -> None:
    if not path.is_dir():
        with path.open("rb+") as file:
            os.fsync(file.fileno())
    elif os.name != "nt":
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # some network file systems know no sync of folders
                raise
        finally:
            os.close(descriptor)
