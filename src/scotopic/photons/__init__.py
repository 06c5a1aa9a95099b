"""Camera physics shared by the simulator, the network's input and the measurements."""

from scotopic.photons.base import FrozenModel
from scotopic.photons.blocks import block_sums
from scotopic.photons.camera import CameraNoise
from scotopic.photons.dose import DoseRatio, Verdict, dose_ratio, pooled
from scotopic.photons.focus import focus_score
from scotopic.photons.shift import image_shift

__all__ = [
    "CameraNoise",
    "DoseRatio",
    "FrozenModel",
    "Verdict",
    "block_sums",
    "dose_ratio",
    "focus_score",
    "image_shift",
    "pooled",
]
