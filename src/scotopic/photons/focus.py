from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.photons.camera import CameraNoise


def focus_score(image: NDArray[Any], noise: CameraNoise) -> float:
    """Return how much fine structure an image has: the larger, the sharper, among images of one place.

    Brenner's gradient (Brenner et al. 1976, J. Histochem. Cytochem. 24:100): the mean squared difference of pixels
    two apart, here in photo-electrons, less what the camera's noise contributes, relative to the variance of the
    image without noise. It says nothing by itself, nor of an image that is mostly noise (then 0).

    Parameters
    ----------
    image : NDArray, shape (Y, X)
        Counts.
    noise : CameraNoise
        Offset, gain and read noise of the camera.
    """
    electrons = noise.to_electrons(image).astype(np.float64)
    variance = noise.read_noise_e**2 + max(float(electrons.mean()), 0.0)
    structure = float(electrons.var()) - variance
    gradient = float(((electrons[:, 2:] - electrons[:, :-2]) ** 2).mean()) - 2 * variance
    return max(gradient / structure, 0.0) if structure > 0.1 * variance else 0.0
