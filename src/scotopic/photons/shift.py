from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.photons.blocks import block_sums

if TYPE_CHECKING:
    from numpy.typing import NDArray

_LARGEST_PX = 256
_FRACTIONS = 20


def image_shift(image: NDArray[Any], reference: NDArray[Any]) -> tuple[float, float]:
    """Return how far the content of an image lies from where it is in the reference, by phase correlation.

    Both are summed over blocks first (2 px at 512², 8 px at 2048²), which is fast, and takes the noise down that
    decides at low light; the answer comes in twentieths of a block. The correlation is not whitened: in a dark
    image most frequencies are noise.

    Parameters
    ----------
    image, reference : NDArray, shape (Y, X), uint16
        Counts of two exposures of the same place, not necessarily equally bright.

    Returns
    -------
    (float, float)
        Shift along y and x in pixels. Of an empty field it means nothing.
    """
    from skimage.registration import phase_cross_correlation  # a third of a second to import

    block = max(2, -(-max(image.shape) // _LARGEST_PX))
    moved, fixed = (_centred_blocks(a, block) for a in (image, reference))
    shift, _, _ = phase_cross_correlation(moved, fixed, upsample_factor=_FRACTIONS, normalization=None)
    y, x = (round(float(s) * block, 2) + 0.0 for s in shift)
    return y, x


def _centred_blocks(image: NDArray[Any], block: int) -> NDArray[np.float32]:
    sums = block_sums(image, block).astype(np.float32)
    sums -= sums.mean()
    return sums
