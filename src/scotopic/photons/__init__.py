"""Camera physics shared by the simulator, the network's input and the measurements."""

from scotopic.photons.base import FrozenModel
from scotopic.photons.blocks import block_sums
from scotopic.photons.camera import CameraNoise
from scotopic.photons.dose import DoseRatio, Verdict, dose_ratio, is_dark, pooled
from scotopic.photons.focus import focus_score
from scotopic.photons.light_response import LightFigures, Shot, light_figures
from scotopic.photons.maps import CameraMaps, camera_maps
from scotopic.photons.photon_transfer import CameraFigures, CannotTellError, Pair, camera_figures
from scotopic.photons.shift import image_shift

__all__ = [
    "CameraFigures",
    "CameraMaps",
    "CameraNoise",
    "CannotTellError",
    "DoseRatio",
    "FrozenModel",
    "LightFigures",
    "Pair",
    "Shot",
    "Verdict",
    "block_sums",
    "camera_figures",
    "camera_maps",
    "dose_ratio",
    "focus_score",
    "image_shift",
    "is_dark",
    "light_figures",
    "pooled",
]
