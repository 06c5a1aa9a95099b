"""Files that notice when they have been damaged: each holds the checksum of its own bytes, its seal.

A seal is `xxh3:` and 16 digits, in a place where the format of a file allows a word: the last key of a JSON object or of a
line of JSON, an attribute of Zarr metadata, the metadata of a Parquet or safetensors file, a comment in HTML. The checksum
is that of the file with zeros for these digits. So a file and its checksum are replaced together, and any program can read
it as before. Files of earlier versions have no seal and are read as they are.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import xxhash

from scotopic.protocol import Problem, ProblemsError
from scotopic.store.files import read_bytes

if TYPE_CHECKING:
    from pathlib import Path

KEY = "seal"
BLANK = "xxh3:" + 16 * "0"
"""What stands in the place of a seal until it is known."""
_PREFIX = b"xxh3:"
_LENGTH = len(BLANK)
_LINE_SEAL = re.compile(rb',"seal":"xxh3:[0-9a-f]{16}"\}')

Told = tuple[str, str]
"""What is in doubt, and what can be done."""
_COPY = "Put back a copy of it"
_MASKS = "`scotopic segment RUN --reference --again` makes it again"
_TRAIN = f"{_COPY}, or delete models/latest.json, and `scotopic train RUN` makes another model"
_JUDGE = "`scotopic validate RUN` makes it again"
_IN_DOUBT: tuple[tuple[str, Told], ...] = (
    ("frames.jsonl", ("which frames were taken, and with which light", _COPY)),
    ("visits.jsonl", ("the light dose of the sample", _COPY)),
    ("light.jsonl", ("whether the images got their light", _COPY)),
    ("live.jsonl", ("what was found during the acquisition", _COPY)),
    (
        "reference/sites.jsonl",
        ("which sites are fit to learn from", "Delete it, and `scotopic segment RUN --reference` makes it again"),
    ),
    ("job.json", ("protocol and microscope of the run", _COPY)),
    ("models/latest.json", ("which model is the best", _TRAIN)),
    ("models/checkpoint.safetensors", ("where the training stands", "The next `scotopic train RUN` starts again")),
    ("models/*.safetensors", ("the weights of the network", _TRAIN)),
    ("report.json", ("every figure of the report", _JUDGE)),
    ("report.html", ("every figure on this page", "`scotopic report RUN` draws it again")),
    ("camera_maps.npz", ("offset and gain of the camera's pixels", _COPY)),
    ("status/*.json", ("what became of this stage of the run", _COPY)),
    ("nuclei/live/*.parquet", ("nuclei that were found during the acquisition", _COPY)),
    ("nuclei/reference/*.parquet", ("the nuclei of this site", _MASKS)),
    ("nuclei/*/*.parquet", ("the nuclei that a network found at this site", _JUDGE)),
    ("nuclei/*.*", ("the table of all nuclei", "`scotopic segment RUN --reference` makes it again")),
)
"""Files of a run by the end of their path, what they put in doubt when damaged, and what can be done."""
_LABELS_IN_DOUBT: tuple[tuple[str, Told], ...] = (
    ("reference", ("the reference masks of this site", _MASKS)),
    ("network_live_", ("masks that were made during the acquisition", _COPY)),
    ("network_", ("masks of a network", _JUDGE)),
)


def sealed(data: bytes) -> bytes:
    """Return the content of a file with its checksum in place of the last `BLANK` in it."""
    at = data.rindex(BLANK.encode())
    return data[:at] + _PREFIX + xxhash.xxh3_64_hexdigest(data).encode() + data[at + _LENGTH :]


def has_seal(data: bytes) -> bool:
    """Return whether a file has a seal, right or wrong; those of earlier versions have none."""
    return _PREFIX in data


def is_intact(data: bytes) -> bool:
    """Return whether a file is as it was written, as far as its seal knows: one without a seal may be."""
    at = data.rfind(_PREFIX)
    if at < 0:
        return True
    return data == sealed(data[:at] + BLANK.encode() + data[at + _LENGTH :])


def sealed_json(values: dict[str, Any], indent: int | None = 1) -> str:
    """Return a JSON object with a seal as its last key."""
    return sealed(json.dumps(values | {KEY: BLANK}, indent=indent, default=str).encode()).decode()


def read_json(path: Path) -> dict[str, Any]:
    """Return a JSON object from a file, without its seal.

    Raises
    ------
    ProblemsError
        If it is damaged.
    FileNotFoundError
        If it is not there.
    """
    data = read_bytes(path)
    try:
        if not is_intact(data):
            raise ProblemsError([damaged(path)])
        values = json.loads(data)
    except ValueError as error:
        raise ProblemsError([damaged(path)]) from error
    if not isinstance(values, dict):
        raise ProblemsError([damaged(path)])
    values.pop(KEY, None)
    return values


def sealed_line(text: str) -> bytes:
    """Return a line of JSON with its seal and its end."""
    return sealed(f'{text[:-1]},"{KEY}":"{BLANK}"}}'.encode()) + b"\n"


def unsealed_line(line: bytes) -> bytes:
    """Return a line of JSON without its seal.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    if not is_intact(line):
        raise ValueError("its checksum is wrong")
    return _LINE_SEAL.sub(b"}", line)


def end_of_sealed_line(data: bytes) -> int:
    """Return where the first line of JSON ends that has a seal; 0 if none has. A line that a crash has torn has none yet."""
    found = _LINE_SEAL.search(data)
    return found.end() if found else 0


def damaged(path: Path, why: str = "") -> Problem:
    """Return the line on a damaged file of a run: which one, what it puts in doubt, and what can be done."""
    return Problem(f"is damaged{f' ({why})' if why else ''}: {in_doubt(path)}", str(path))


def in_doubt(path: Path) -> str:
    """Return what a damaged file of a run puts in doubt, and what can be done."""
    what, remedy = _doubt(path)
    return f"{what} cannot be trusted. {remedy}"


def _doubt(path: Path) -> Told:
    if "labels" in path.parts:
        group = path.parts[path.parts.index("labels") + 1]
        return next((told for start, told in _LABELS_IN_DOUBT if group.startswith(start)), ("these masks", _COPY))
    if path.name == "zarr.json":
        return "the layout of the images below it", _COPY
    return next((told for pattern, told in _IN_DOUBT if path.match(pattern)), ("what it says", _COPY))
