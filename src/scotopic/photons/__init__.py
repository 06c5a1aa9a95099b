"""Camera physics shared by the simulator, the network's input and the measurements."""

from scotopic.photons.base import FrozenModel
from scotopic.photons.camera import CameraNoise

__all__ = ["CameraNoise", "FrozenModel"]
