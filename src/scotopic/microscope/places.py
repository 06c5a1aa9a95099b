"""Where things are on the stage: read, and gone to in small steps for the first time."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scotopic.microscope.exposure import autofocus, go_to
from scotopic.photons import CannotTellError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pymmcore_plus import CMMCorePlus

    from scotopic.protocol import MicroscopeProfile, Plate

_STEP_UM = 5000.0
"""Length of a step of a first move: short enough to be stopped by hand."""
_ROUND = 0.15


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


class Places:
    """Where wells are: as given, as typed, or where the stage stands when the user says so."""

    def __init__(
        self,
        core: CMMCorePlus,
        profile: MicroscopeProfile,
        plate: Plate,
        ask: Callable[[str], str],
        given: dict[str, tuple[float, float]],
        *,
        edges: bool,
    ) -> None:
        self._core, self._profile, self._plate, self._ask = core, profile, plate, ask
        self._given, self._edges = given, edges

    def centre(self, well: str) -> tuple[float, float]:
        """Return where the centre of a well is.

        Raises
        ------
        CannotTellError, ValueError
            If it is outside the limits, no position was typed, or an edge is no circle of the well's size.
        """
        if well in self._given:
            refuse_outside(self._profile, *self._given[well])
            return self._given[well]
        if not self._edges:
            return self._told(f"Drive to the centre of {well}")
        points = [self._told(f"Drive to a point of the edge of {well} ({number} of 3)") for number in (1, 2, 3)]
        diameter = 1000 * self._plate.well_size_mm[0] if self._plate.round_wells else None
        return circle_centre(points, diameter)

    def verified(self, well: str, expected: tuple[float, float]) -> tuple[float, float]:
        """Go to a well for the first time, and return where its centre really is.

        Raises
        ------
        CannotTellError, ValueError
            If it is outside the limits, or no position was typed.
        RuntimeError
            If the stage does not get there.
        """
        if well in self._given:
            return self.centre(well)
        refuse_outside(self._profile, *expected)
        answer = self._ask(
            f"The stage goes to {well}, {expected[0]:.0f}, {expected[1]:.0f} um, in steps of 5 mm; the objective must be clear of the "
            "plate (`n` stops here)"
        )
        if answer.strip().lower() in {"n", "no"}:
            raise CannotTellError(f"stopped before the move to {well}")
        go_slowly(self._core, self._profile, *expected)
        return self._told(f"Is the centre of {well} under the objective? If not, drive there")

    def height(self, well: str, at: tuple[float, float]) -> float:
        """Go to a well, and return the height of its focus.

        Raises
        ------
        RuntimeError
            If the stage does not get there, or no focus is found.
        """
        go_slowly(self._core, self._profile, *at)
        if self._profile.stage.autofocus_device is not None:
            autofocus(self._core, self._profile, retries=2)
        else:
            self._ask(f"Focus in {well}")
        return float(self._core.getZPosition())

    def _told(self, what: str) -> tuple[float, float]:
        typed = self._ask(f"{what}; or type its stage position, X Y in um")
        if typed.strip():
            try:
                x, y = map(float, typed.replace(",", " ").split())
            except ValueError:
                raise ValueError(f"{typed!r} is no stage position; allowed: X Y in um") from None
        else:
            x, y = self._core.getXYPosition()
        refuse_outside(self._profile, x, y)
        return x, y
