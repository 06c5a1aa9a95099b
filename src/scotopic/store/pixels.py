"""A frame as its ledger line describes it: pixels that are not what the camera gave are never handed out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.protocol import Problem, ProblemsError
from scotopic.store.arrays import DamagedChunkError
from scotopic.store.ledger import checksum

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from scotopic.store.ledger import FrameRecord
    from scotopic.store.plate import PlateStore


def read_frame(plate: PlateStore, record: FrameRecord) -> NDArray[np.uint16]:
    """Return the image of a line of the ledger, shape (Y, X), uint16.

    Raises
    ------
    ProblemsError
        If it is not what the camera gave, by the checksum in the ledger, or cannot be read.
    FileNotFoundError
        If its field does not exist.
    """
    place = record.well, record.site, record.level, record.t, record.z
    try:
        image = plate.read(*place)
        wrong = "" if record.checksum in {None, checksum(image)} else "is not what the camera gave (checksum)"
    except DamagedChunkError as error:
        wrong = f"cannot be read ({error})"
    if wrong:
        site = f"{record.well}_{record.site}"
        told = f"{record.level} of {site}, t {record.t}, z {record.z} {wrong}. `scotopic retake RUN {site}` gives the site up"
        raise ProblemsError([Problem(told, str(plate.frame_path(*place)))])
    return image
