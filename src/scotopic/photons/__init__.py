"""Camera physics shared by the simulator, the network's input and the measurements."""

from scotopic.photons.base import FrozenModel
from scotopic.photons.camera import CameraNoise
from scotopic.photons.dose import DoseRatio, Verdict, dose_ratio, pooled

__all__ = ["CameraNoise", "DoseRatio", "FrozenModel", "Verdict", "dose_ratio", "pooled"]
