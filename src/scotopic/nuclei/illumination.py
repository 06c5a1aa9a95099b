"""Uneven illumination, estimated from the nuclei of a plate themselves, and taken out of their intensities."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scotopic.nuclei.measurement import intensity_unit, mean_intensity

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

LEAST_NUCLEI_FOR_ILLUMINATION = 200
"""With fewer nuclei the field is not estimated: its error would exceed some 4 %."""
_ITERATIONS = 30
_OUTLYING = 2.0
"""Distance from the surface, in robust standard deviations, at which a nucleus has half its weight (Cauchy)."""
_NORMAL_MAD = 1.4826


class Illumination:
    """A smooth field of relative light over the image, with the mean 1.

    The logarithm of the light is a polynomial of second order in the place: fourth order follows the brightness of single
    nuclei (measured on 1300 nuclei of the simulated plate: error 5 % rms, against 2 %).
    """

    def __init__(self, coefficients: NDArray[np.float64], shape: tuple[int, int]) -> None:
        """Take the polynomial's coefficients; the first one is set so that the mean of the field is 1."""
        self._shape = shape
        self._coefficients = coefficients.copy()
        y, x = (axis.ravel() for axis in np.meshgrid(*(np.linspace(0, n - 1, 64) for n in shape), indexing="ij"))
        self._coefficients[0] -= np.log(np.mean(self.at(y, x)))

    def at(self, y_px: ArrayLike, x_px: ArrayLike) -> NDArray[np.float64]:
        """Return the relative light at places of the image, in pixels from the centre of the first one."""
        light: NDArray[np.float64] = np.exp(
            _terms(np.asarray(y_px), np.asarray(x_px), self._shape) @ self._coefficients
        )
        return light

    def corrected(self, nuclei: pd.DataFrame, y_px: ArrayLike, x_px: ArrayLike) -> pd.DataFrame:
        """Return a table with intensities above background divided by the light at each nucleus (`illumination`)."""
        light = self.at(y_px, x_px)
        intensities = {name: nuclei[name] / light for name in _lit_columns(nuclei)}
        return nuclei.assign(**intensities, illumination=light)


def estimate_illumination(
    y_px: ArrayLike, x_px: ArrayLike, mean_intensity: ArrayLike, shape: tuple[int, int]
) -> Illumination:
    """Estimate the illumination from the nuclei of many fields.

    Their brightness has nothing to do with where they lie in the image, so what depends on the place is the light. The
    fit is robust (iteratively reweighted least squares with Cauchy's weights): mitotic nuclei do not bend it.

    Parameters
    ----------
    y_px, x_px : arrays of n numbers
        Where each nucleus lies in its image, in pixels.
    mean_intensity : array of n numbers
        Its mean intensity above background.
    shape : (int, int)
        Height and width of an image in pixels.

    Raises
    ------
    ValueError
        With fewer than `LEAST_NUCLEI_FOR_ILLUMINATION` nuclei.
    """
    y, x, intensity = (np.asarray(a, float) for a in (y_px, x_px, mean_intensity))
    usable = np.isfinite(intensity) & (intensity > 0)
    if usable.sum() < LEAST_NUCLEI_FOR_ILLUMINATION:
        raise ValueError(f"{usable.sum()} whole nuclei, at least {LEAST_NUCLEI_FOR_ILLUMINATION} are needed")
    terms, logarithm = _terms(y[usable], x[usable], shape), np.log(intensity[usable])
    weight = np.ones(logarithm.size)
    for _ in range(_ITERATIONS):
        root = np.sqrt(weight)
        coefficients = np.linalg.lstsq(terms * root[:, None], logarithm * root, rcond=None)[0]
        off = logarithm - terms @ coefficients
        spread = max(_NORMAL_MAD * float(np.median(np.abs(off))), 1e-6)
        weight = 1 / (1 + (off / (_OUTLYING * spread)) ** 2)
    return Illumination(coefficients, shape)


def evenly_lit(
    nuclei: pd.DataFrame, shapes: set[tuple[int, ...]], *, trusted: pd.Series | None = None
) -> tuple[pd.DataFrame, str]:
    """Take uneven illumination out of the intensities of a table of nuclei of many images.

    Parameters
    ----------
    nuclei : DataFrame
        Columns of `measure`.
    shapes : set of (int, int)
        Height and width of the images in pixels.
    trusted : Series of bool, optional
        Rows that the light is estimated from, for example those of the bright images; all without it.

    Returns
    -------
    (DataFrame, str)
        The table with a column `illumination`, and why it is not corrected (empty if it is).
    """
    lit = mean_intensity(nuclei) > 0
    whole = nuclei[~nuclei["touches_border"] & lit & (True if trusted is None else trusted)]
    try:
        if len(shapes) > 1:
            raise ValueError("the images differ in size")
        shape = next(iter(shapes))
        light = estimate_illumination(whole["y_px"], whole["x_px"], mean_intensity(whole), (shape[0], shape[1]))
    except ValueError as error:
        return nuclei.assign(illumination=1.0), f"uneven illumination is not corrected: {error}"
    return light.corrected(nuclei, nuclei["y_px"], nuclei["x_px"]), ""


def unevenly_lit(nuclei: pd.DataFrame) -> pd.DataFrame:
    """Return a table as it was before `evenly_lit`."""
    raw = {name: nuclei[name] * nuclei["illumination"] for name in _lit_columns(nuclei)}
    return nuclei.assign(**raw).drop(columns="illumination")


def _lit_columns(nuclei: pd.DataFrame) -> tuple[str, ...]:
    unit = intensity_unit(nuclei)
    names = f"mean_intensity_{unit}", f"integrated_intensity_{unit}", f"integrated_noise_{unit}"
    return tuple(name for name in names if name in nuclei)


def _terms(y_px: NDArray[np.float64], x_px: NDArray[np.float64], shape: tuple[int, int]) -> NDArray[np.float64]:
    y, x = 2 * y_px / shape[0] - 1, 2 * x_px / shape[1] - 1
    return np.stack([np.ones_like(y), y, x, y * y, y * x, x * x], axis=-1)
