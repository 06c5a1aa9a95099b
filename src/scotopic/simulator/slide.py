from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np

from scotopic.simulator.specimen import Field, Scene

if TYPE_CHECKING:
    from scotopic.protocol import SlideSettings


@dataclass(frozen=True)
class Slide:
    """A fluorescent slide, the same everywhere and at any time."""

    settings: SlideSettings
    is_imaged = False

    def at(self, hours: float) -> Self:
        """Return itself."""
        return self

    def scene(self, origin_px: tuple[float, float], shape: tuple[int, int], pixel_size_um: float) -> Scene:
        """Return its fluorescence."""
        left, top = (float(np.floor(o)) for o in origin_px)
        return Scene(np.full(shape, self.settings.brightness, np.float32), (left, top))

    def truth(self, field: Field) -> None:
        """Return nothing: there are no nuclei."""

    @property
    def fingerprint(self) -> str:
        """Hash of its settings."""
        return f"slide-{hashlib.sha256(self.settings.model_dump_json().encode()).hexdigest()[:12]}"

    @property
    def description(self) -> str:
        """What it is."""
        return "an even fluorescent slide"
