"""Where things are on the stage: read, and gone to in small steps for the first time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scotopic.microscope.exposure import autofocus, go_to
from scotopic.photons import CannotTellError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import MicroscopeProfile

_STEP_UM = 5000.0
"""Length of a step of a first move: short enough to be stopped by hand."""
_ROUND = 0.15


def place(core: CMMCorePlus, profile: MicroscopeProfile) -> tuple[float, float]:
    """Return where the stage stands, in micrometres.

    Raises
    ------
    CannotTellError
        If that is outside the profile's limits.
    """
    x, y = core.getXYPosition()
    refuse_outside(profile, x, y)
    return x, y


def refuse_outside(profile: MicroscopeProfile, x_um: float, y_um: float) -> None:
    """Refuse a stage position outside the limits of the profile.

    Raises
    ------
    CannotTellError
        If it is.
    """
    for axis, at, (low, high) in (("x", x_um, profile.stage.x_um), ("y", y_um, profile.stage.y_um)):
        if not low <= at <= high:
            raise CannotTellError(f"{axis} = {at:.0f} um is outside stage.{axis}_um = [{low:g}, {high:g}]")


def go_slowly(core: CMMCorePlus, profile: MicroscopeProfile, x_um: float, y_um: float) -> None:
    """Go somewhere in short steps, each of which is checked before the next.

    Raises
    ------
    CannotTellError
        If it is outside the limits; nothing has moved then.
    RuntimeError
        If the stage does not get where it is told to; it stays there.
    """
    refuse_outside(profile, x_um, y_um)
    x0, y0 = core.getXYPosition()
    steps = max(1, math.ceil(math.dist((x0, y0), (x_um, y_um)) / _STEP_UM))
    for step in range(1, steps + 1):
        go_to(core, profile, (x0 + (x_um - x0) * step / steps, y0 + (y_um - y0) * step / steps), None)


def focused(core: CMMCorePlus, profile: MicroscopeProfile) -> float:
    """Let the autofocus find the focus, and return its height in micrometres.

    Raises
    ------
    RuntimeError
        If it does not find it, or leaves the limits of the Z drive.
    """
    autofocus(core, profile, retries=2)
    return core.getZPosition()


def circle_centre(points_um: Sequence[tuple[float, float]], diameter_um: float | None) -> tuple[float, float]:
    """Return the centre of the circle through three points of an edge.

    Parameters
    ----------
    diameter_um : float, optional
        Diameter that the circle should have.

    Raises
    ------
    CannotTellError
        If they lie on a line, or on a circle of another size.
    """
    points = np.array(points_um, float)
    if len(points) != 3:
        raise CannotTellError(f"{len(points)} points of an edge; three are needed")
    matrix = 2 * (points[1:] - points[0])
    if abs(np.linalg.det(matrix)) < 1e-3 * float((matrix**2).sum()):
        raise CannotTellError(
            "the three points of the edge lie on a line: take them a third of the way around from each other"
        )
    x, y = np.linalg.solve(matrix, (points[1:] ** 2).sum(1) - (points[0] ** 2).sum())
    found = 2 * math.dist((x, y), points[0])
    if diameter_um is not None and abs(found / diameter_um - 1) > _ROUND:
        raise CannotTellError(
            f"the edge makes a circle of {found / 1000:.2f} mm; the wells of this plate have {diameter_um / 1000:.2f} mm"
        )
    return float(x), float(y)
