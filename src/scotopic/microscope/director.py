"""Who decides, while a run is under way, which images of a site are taken."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.protocol import ImagingProtocol, LightLevel
    from scotopic.store import FrameRecord

SiteKey = tuple[str, int, int]
"""Well, site and time point."""


@dataclass(frozen=True)
class Place:
    """A visit of a site."""

    key: SiteKey
    attempt: int
    number: int
    """Number of the site in the order of travel."""

    @property
    def t(self) -> int:
        """Time point."""
        return self.key[2]


@dataclass(frozen=True)
class Decision:
    """What becomes of an image that is due."""

    taken: bool = True
    reason: str = ""
    """Why it is not taken; or why it is, where a rule asks for it."""
    anew: bool = False
    """The whole site is taken anew instead; `reason` says why."""


class Director(Protocol):
    """Asked by the engine, in the dark and in the thread that drives the hardware."""

    def site(self, place: Place) -> str:
        """Return why nothing of a site is to be taken; empty if something is."""
        ...

    def level(self, place: Place, level: LightLevel) -> Decision:
        """Decide on one image of a site, before the light goes on. It may wait, for a stated time."""
        ...

    def frame(self, place: Place, record: FrameRecord, image: NDArray[Any]) -> None:
        """Take note of an image, shape (Y, X), uint16, that was taken; it must return at once, and not keep it."""
        ...


class AsPlanned:
    """Takes what the protocol plans, whatever the images show."""

    def __init__(self, protocol: ImagingProtocol) -> None:
        self._protocol = protocol

    def site(self, place: Place) -> str:
        """Leave out no site."""
        return ""

    def level(self, place: Place, level: LightLevel) -> Decision:
        """Leave out levels that are for sentinels, or for rules, only."""
        if self._protocol.is_planned(level, place.key[0], place.number, place.t):
            return Decision()
        return Decision(False, "no sentinel" if level.taken == "at_sentinels" else "no rule asked for it")

    def frame(self, place: Place, record: FrameRecord, image: NDArray[Any]) -> None:
        """Do nothing."""
