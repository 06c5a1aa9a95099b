"""What became of a dark image that was to be segmented while the run went on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field

from scotopic.photons import FrozenModel

if TYPE_CHECKING:
    from scotopic.store.ledger import FrameRecord

LIVE = "live"
"""Name of the tables of nuclei that were found live, and beginning of the names of the labels."""


class LiveRecord(FrozenModel):
    """One line of `live.jsonl`: one frame, or the comparison of a sentinel."""

    well: str
    """Well."""
    site: int = Field(ge=0)
    """Number of the site in its well."""
    t: int = Field(default=0, ge=0)
    """Time point."""
    z: int = Field(default=0, ge=0)
    """Plane."""
    attempt: int = Field(gt=0)
    """Visit."""
    level: str
    """Light level."""
    state: Literal["segmented", "compared", "dropped", "lost", "failed", "no model"]
    """`compared`: the masks of this level with reference masks of the same visit, at a sentinel. `dropped`: too many images were
    waiting. `lost`: the worker ended before it was done with it. `failed`: an error, see `reason`."""
    reason: str = ""
    """Why it was not segmented; or why the image is not plausible."""
    model: str = ""
    """Hash of the model's file."""
    nuclei: int | None = None
    """Nuclei found."""
    whole_nuclei: int | None = None
    """Of these, nuclei that the border does not cut."""
    g2_percent: float | None = None
    """Share of these with more than 1.5 times the DNA of G1, of all nuclei of this level seen so far; nothing until there are
    enough."""
    confidence: float | None = None
    """Median object probability of the nuclei; nothing without nuclei."""
    f1: float | None = None
    """Of a comparison: F1 at an IoU of 0.5 against the reference masks."""
    reference_nuclei: int | None = None
    """Of a comparison: nuclei of the reference masks."""
    matched: int | None = None
    """Of a comparison: nuclei that both have."""
    latency_ms: float | None = None
    """From the frame to this record."""

    @classmethod
    def of(cls, frame: FrameRecord, **values: Any) -> Self:
        """Return the line of a frame, with its place."""
        place = {name: getattr(frame, name) for name in ("well", "site", "t", "z", "attempt", "level")}
        return cls.model_validate(place | values)

    @property
    def key(self) -> tuple[str, int, int, int]:
        """Well, site, time point and attempt."""
        return self.well, self.site, self.t, self.attempt


def live_labels(order: int) -> str:
    """Return the name of the labels of the light level with this number in the protocol."""
    return f"network_live_{order}"
