"""What is done with dark images while the run goes on."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from scotopic.photons import FrozenModel
from scotopic.protocol.names import beside_the_file


class Rules(FrozenModel):
    """What is decided on what the network sees in a site's dark image, before any brighter one is taken."""

    least_nuclei: int | None = Field(default=None, ge=1)
    """A site with fewer nuclei gets no brighter image."""
    least_confidence: float | None = Field(default=None, gt=0, lt=1)
    """Where the nuclei's median object probability is lower, the next brighter level with `taken: when_unsure` is taken."""
    enough_nuclei: int | None = Field(default=None, ge=1)
    """A well in which so many nuclei were found at a time point gets no further site there."""
    retakes: int = Field(default=0, ge=0, le=10)
    """How often a site is taken anew whose dark image is not plausible (saturated, overfull, odd sizes or shapes, clumps)."""
    wait_s: float = Field(default=2.0, gt=0, le=60)
    """Longest wait for a result, in the dark; without one the levels are taken as planned."""

    @property
    def any(self) -> bool:
        """Whether anything is decided by what is seen."""
        return bool(self.least_nuclei or self.least_confidence or self.enough_nuclei or self.retakes)


class Sentinels(FrozenModel):
    """Sites at which the live masks are held against reference masks of the same moment."""

    every: int = Field(default=20, ge=1)
    """Every how manieth site is one; at each time point the next sites take their turn."""
    window: int = Field(default=5, ge=1, le=100)
    """How many sentinels are judged together: drift is noticed within `every` times `window` sites."""
    least_f1: float = Field(default=0.75, gt=0, lt=1)
    """Least F1 (at an IoU of 0.5) of the live masks against the reference masks."""
    most_count_percent: float = Field(default=10, gt=0)
    """Largest deviation of the count from that of the reference masks."""
    then: Literal["warn", "brighter", "pause"] = "warn"
    """What happens when one of them is missed by more than chance: a warning; also, the next brighter level with `taken:
    when_unsure` replaces the dimmer ones; or the run pauses in the dark until it is asked to resume."""


class LiveSettings(FrozenModel):
    """Segmentation of dark images as they are taken (`--model`), and what is decided by it."""

    model: Annotated[str, AfterValidator(beside_the_file)] | None = None
    """Model file, relative to this file, for `acquire` without `--model`; without both the run's own latest model is used."""
    levels: tuple[str, ...] = ()
    """Light levels whose images are segmented; all but the reference without it."""
    queue: int = Field(default=8, ge=1, le=64)
    """Images that may wait for the network; one more is not analysed, which is counted. It is stored in any case."""
    rules: Rules = Rules()
    """What is decided by what is seen."""
    held_out: Literal["full_light", "as_others"] = "full_light"
    """`full_light`: sites of held-out wells get their full-light image, and all that is planned, whatever rules say: wells that only
    show where the network sees something would flatter it. `as_others`: rules and sentinels decide there too."""
    sentinels: Sentinels | None = None
    """Whether, and how, the network is watched over."""
