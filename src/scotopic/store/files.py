"""Files that are whole or not there, on disks and in object stores."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, cast

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from collections.abc import Iterable

_HASH_NAME = re.compile("[0-9a-f]{12}")
_pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="sync")


def path_of(text: str) -> Path:
    """Return the path that a word means: a file or folder here, or, with `s3://` and the like in front, in an object store.

    Raises
    ------
    ProblemsError
        If the packages for object stores are not installed, or know no such store.
    """
    if "://" not in text:
        return Path(text)
    try:
        from upath import UPath

        path = UPath(text)
        _ = path.fs  # what it needs is loaded with the first use
    except (ImportError, ValueError) as error:
        told = f'cannot be used: {error}; needs pip install "scotopic[cloud]"'
        raise ProblemsError([Problem(told, text)]) from error
    return cast("Path", path)  # it has the same methods


def is_remote(path: Path) -> bool:
    """Return whether a path is in an object store: each file there appears whole, at once, and nothing can be locked."""
    return not isinstance(path, PurePath)


def replace_text(path: Path, text: str) -> None:
    """Write a text file as `replace_bytes` does, in UTF-8."""
    replace_bytes(path, text.encode("utf-8"))


def replace_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, also one after a power cut, sees the old or the new one, never a part.

    On Windows a file cannot be replaced while a reader holds it open: that is tried again for a second.
    """
    if is_remote(path):
        path.write_bytes(data)
        return
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(data)
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


def read_bytes(path: Path) -> bytes:
    """Read a file that another process replaces now and then; on Windows it cannot be opened meanwhile, and that is tried again."""
    for _ in range(20):
        try:
            return path.read_bytes()
        except PermissionError:
            time.sleep(0.05)
    return path.read_bytes()


def content_hash(data: bytes) -> str:
    """Return what the file of a model is called by: the first 12 hex digits of the SHA-256 of its content."""
    return hashlib.sha256(data).hexdigest()[:12]


def contradicts_its_name(path: Path, data: bytes) -> bool:
    """Return whether a file is called by a hash that is not its content's; one that a user has renamed says nothing."""
    name = path.name.split(".")[0]
    return bool(_HASH_NAME.fullmatch(name)) and name != content_hash(data)


def sync(paths: Iterable[Path]) -> None:
    """Make sure that contents of files, and names in folders, are on the disk.

    Several at once, which takes half as long. Windows keeps the names without being asked.
    """
    for _ in _pool.map(_sync_one, paths):
        pass


def _sync_one(path: Path) -> None:
    if is_remote(path):
        return
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
