"""The newest image of a run in a window, with the contours of what was found in it: a process of its own, which only reads."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any

from scotopic.pictures import overlay
from scotopic.protocol import Problem, ProblemsError
from scotopic.reference import read_frame
from scotopic.store import live_labels

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.store import FrameRecord, LiveRecord, RunFolder

_EVERY_S, _FRAME_S = 0.5, 0.02
_LOOKED_AT = 100
"""Last lines of ledger and `live.jsonl` among which the newest image is looked for."""


def newest(run: RunFolder) -> tuple[str, NDArray[Any]] | None:
    """Return name and picture, shape (Y, X, 3), uint8, of the newest image of a run; nothing as long as there is none.

    It is the newest that was segmented live, with contours, or else the newest that was written.
    """
    found = newest_record(run)
    return None if found is None else picture(run, *found)


def newest_record(run: RunFolder) -> tuple[FrameRecord, LiveRecord | None] | None:
    """Return the line of the newest image of a run, and of what was found in it live, if anything was."""
    written = {(*r.site_key, r.attempt, r.level): r for r in run.ledger.tail(_LOOKED_AT) if r.state == "written"}
    found = [r for r in run.live.tail(_LOOKED_AT) if r.state == "segmented" and (*r.key, r.level) in written]
    if not written:
        return None
    return (written[*found[-1].key, found[-1].level], found[-1]) if found else (list(written.values())[-1], None)


def picture(run: RunFolder, record: FrameRecord, found: LiveRecord | None) -> tuple[str, NDArray[Any]]:
    """Return name and picture, shape (Y, X, 3), uint8, of an image, with the contours of what was found in it live."""
    image = read_frame(run.path, record)
    name = f"{record.well}_{record.site}, t {record.t}, {record.level}"
    labels: NDArray[Any] = image * 0
    if found is not None:
        protocol = run.read_protocol()
        order = [level.name for level in protocol.light_levels].index(record.level)
        plate = run.plate(protocol, run.read_profile())
        labels = plate.read_labels(record.well, record.site, live_labels(order), record.t, record.z)
        name += f": {found.nuclei} nuclei"
    return name, overlay(image, labels)


def watch(run: RunFolder) -> None:
    """Show the newest image of a run until the window is closed.

    Raises
    ------
    ProblemsError
        If ndv is not installed, or there is no image and none will come.
    """
    try:
        import ndv
    except ImportError as error:
        told = "needs the viewer ndv: pip install 'scotopic[view]'"
        raise ProblemsError([Problem(told, key="the window")]) from error
    viewer: Any = None
    shown, looked_s = "", -math.inf
    while viewer is None or viewer.widget().isVisible():
        if time.monotonic() - looked_s >= _EVERY_S:
            looked_s = time.monotonic()
            there = newest(run)
            if there is None and not run.is_locked():
                raise ProblemsError([Problem("has no image, and none is being acquired", str(run.path))])
            if there is not None and there[0] != shown:
                shown, image = there
                if viewer is None:
                    viewer = ndv.ArrayViewer(image, channel_mode="rgba", channel_axis=2, visible_axes=(0, 1))
                    viewer.show()
                else:
                    viewer.data = image
                viewer.widget().setWindowTitle(f"{run.path.name}: {shown}")
        ndv.process_events()
        time.sleep(_FRAME_S)
