"""The arrays of a plate: created, opened and read, each as whole planes, and never from damaged metadata."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
import zarrs  # noqa: F401 - registers its codec pipeline, three times as fast on frames of 512²
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import FsspecStore

from scotopic.protocol import ProblemsError
from scotopic.store.files import is_remote
from scotopic.store.seals import damaged, is_intact

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FAST = {"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}
EVERY_CHUNK = {"array.write_empty_chunks": True}
"""Chunks of zeros are written too: a missing chunk must always mean a missing frame."""
_config_lock = threading.Lock()
"""zarr's configuration is one for all threads."""
LARGEST_CHUNK_PX = 2048


def opened(folder: Path, pyramid: tuple[int, ...], config: dict[str, Any]) -> list[zarr.Array[Any]]:
    """Open the arrays of a pyramid.

    Raises
    ------
    ProblemsError
        If their metadata are damaged.
    """
    folders = [folder / str(number) for number in range(len(pyramid))]
    if is_remote(folder):
        return [_array(each) for each in folders]
    with _config_lock, zarr.config.set(config):
        return [_array(each) for each in folders]


def _array(folder: Path) -> zarr.Array[Any]:
    if (folder / "zarr.json").exists() and not is_sound(folder):
        raise ProblemsError([damaged(folder / "zarr.json")])
    try:
        return zarr.open_array(_remote_store(folder) if is_remote(folder) else folder, mode="r+")
    except OSError:
        raise
    except Exception as error:  # zarr raises what it likes
        raise ProblemsError([damaged(folder / "zarr.json")]) from error


def is_sound(folder: Path) -> bool:
    """Return whether the metadata of a group or an array are there, and as they were written."""
    path = folder / "zarr.json"
    return path.exists() and is_intact(path.read_bytes())


class DamagedChunkError(OSError):
    """Pixels cannot be decoded."""


def plane(array: zarr.Array[Any], index: tuple[int, ...]) -> NDArray[Any]:
    """Return a plane of an array.

    Raises
    ------
    DamagedChunkError
        If it cannot be decoded.
    """
    try:
        return np.asarray(array[index])
    except OSError:
        raise
    except Exception as error:  # zarr and its codecs raise what they like
        raise DamagedChunkError(" ".join(f"{error or type(error).__name__}".split())) from error


def _remote_store(folder: Any) -> FsspecStore:
    """Return zarr's store of a path in an object store; it wants a connection of its own, on its own event loop."""
    return FsspecStore.from_url(str(folder), storage_options=dict(folder.storage_options))


def create_array(
    path: Path,
    shape: tuple[int, ...],
    dtype: Any,
    chunks: tuple[int, ...],
    *,
    shards: tuple[int, ...] | None,
    overwrite: bool,
    compression: str,
    dimension_names: list[str] | None,
) -> zarr.Array[Any]:
    """Create an array with one chunk a frame, in blosc with bit-shuffle (yaozarrs offers byte shuffle only).

    The ledger has the checksums of images; masks have theirs in each chunk.
    """
    del shards, compression
    chunks = (*(1 for _ in shape[:-2]), *(min(n, LARGEST_CHUNK_PX) for n in shape[-2:]))
    blosc = BloscCodec(typesize=dtype.itemsize, cname="lz4", clevel=5, shuffle="bitshuffle")
    return zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        compressors=[blosc] if dtype == np.uint16 else [blosc, Crc32cCodec()],
        dimension_names=dimension_names,
        fill_value=0,
        overwrite=overwrite,
    )
