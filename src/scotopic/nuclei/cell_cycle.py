"""G1, S and G2 from DNA content: a fit to the integrated intensities of many nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit, softmax
from scipy.stats import norm

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SPLIT_DNA_CONTENT = 1.5
"""Where the two-class split lies, in DNA content (G1 is 1, G2 is 2): below it a nucleus counts as G1, above it as G2,
in the truth of the simulator as in the fit."""
LEAST_NUCLEI = 100
"""Fewer nuclei than this are not fitted."""
_S_STEPS = 16
_GROUP_WIDTH = 0.01
"""Width of a group of values in the logarithm: a tenth of a peak's width, or less."""
_LEAST_RATIO, _MOST_RATIO = 1.8, 2.2
_LEAST_CV, _MOST_CV = 0.01, 0.35
_BACKGROUND_SHARE = 0.01
"""Clumps, debris and torn nuclei, spread evenly over the logarithm of intensity, that no peak has to explain."""
_CLASSES = ("G1", "S", "G2")


class NoFitError(ValueError):
    """The intensities do not show two peaks, or there are too few of them; the message says which."""


@dataclass(frozen=True)
class CellCycle:
    """A fitted DNA histogram."""

    g1_intensity: float
    """Integrated intensity of the G1 peak, in the unit of the data."""
    peak_ratio: float
    """Intensity of the G2 peak relative to that of G1."""
    cv: float
    """Coefficient of variation of a peak, without the measurement noise that was given."""
    fractions: dict[str, float]
    """Share of `G1`, `S` and `G2`."""
    posterior: NDArray[np.float64]
    """Probability of G1, S and G2 for each nucleus, shape (n, 3)."""
    n: int
    """Number of nuclei."""

    @property
    def g2_of_two(self) -> float:
        """Share of nuclei with a DNA content above `SPLIT_DNA_CONTENT`: S cells, evenly spread, are shared out."""
        return self.fractions["G2"] + self.fractions["S"] * (2 - SPLIT_DNA_CONTENT)

    @property
    def classes(self) -> NDArray[np.str_]:
        """Most probable phase of each nucleus: `G1`, `S` or `G2`."""
        named: NDArray[np.str_] = np.array(_CLASSES)[self.posterior.argmax(1)]
        return named


def fit_cell_cycle(intensity: ArrayLike, noise: ArrayLike = 0.0) -> CellCycle:
    """Fit G1, S and G2 to integrated DNA intensities, by maximum likelihood.

    The model is that of Dean and Jett (1974, J. Cell Biol. 60:523) in Fox's tradition: two Gaussian peaks of the same
    coefficient of variation, and S cells spread evenly in DNA content between them, blurred likewise. Each value's own
    measurement noise widens its density, so the fit stays the same down to low light.

    Parameters
    ----------
    intensity : array of n numbers
        Integrated intensity above background. Values that are not positive are left out of the fit (their posterior is
        not a number).
    noise : number, or array of n numbers
        Standard deviation of each value's measurement noise, in the same unit.

    Raises
    ------
    NoFitError
        With fewer than `LEAST_NUCLEI` nuclei, or where one peak explains the values as well as two.
    """
    values = np.asarray(intensity, float)
    usable = np.isfinite(values) & (values > 0)
    x, sd = values[usable], np.broadcast_to(np.asarray(noise, float), values.shape)[usable]
    if x.size < LEAST_NUCLEI:
        raise NoFitError(f"{x.size} nuclei are too few for a cell-cycle fit, which takes at least {LEAST_NUCLEI}")
    data = _grouped(x, sd)
    fits = [_maximum(data, start) for start in _starts(x)]
    best = min(fits, key=lambda fit: fit[0])
    _refuse_one_peak(data, best[0])
    g1, ratio, cv, weights = _natural(best[1])
    joint = _log_densities(x, sd, g1, ratio, cv) + np.log(weights)
    posterior = np.full((values.size, 3), np.nan)
    posterior[usable] = softmax(joint, axis=1)
    return CellCycle(g1, ratio, cv, dict(zip(_CLASSES, weights.tolist(), strict=True)), posterior, int(x.size))


@dataclass(frozen=True)
class _Data:
    """Values that are nearly the same, taken together: a fit of many nuclei takes no longer than one of few."""

    x: NDArray[np.float64]
    sd: NDArray[np.float64]
    count: NDArray[np.float64]


def _grouped(x: NDArray[np.float64], sd: NDArray[np.float64]) -> _Data:
    group = np.unique(np.rint(np.log(x) / _GROUP_WIDTH), return_inverse=True)[1]
    count = np.bincount(group).astype(float)
    return _Data(np.bincount(group, x) / count, np.sqrt(np.bincount(group, sd**2) / count), count)


def _starts(x: NDArray[np.float64]) -> list[NDArray[np.float64]]:
    """Return starting points: the highest peak of the logarithms as G1, or as G2."""
    logs = np.log2(x)
    counts, edges = np.histogram(logs, bins=max(20, int(np.ptp(logs) / 0.08)))
    smooth = np.convolve(counts, [1, 2, 3, 2, 1], "same")
    mode = 2 ** float(edges[smooth.argmax()] + (edges[1] - edges[0]) / 2)
    middle, spread = logit((2 - _LEAST_RATIO) / (_MOST_RATIO - _LEAST_RATIO)), logit(0.25)
    return [np.array([np.log(g1), middle, spread, -1.0, s]) for g1 in (mode, mode / 2) for s in (-2.0, 0.0)]


def _natural(p: NDArray[np.float64]) -> tuple[float, float, float, NDArray[np.float64]]:
    ratio = _LEAST_RATIO + (_MOST_RATIO - _LEAST_RATIO) * expit(p[1])
    cv = _LEAST_CV + (_MOST_CV - _LEAST_CV) * expit(p[2])
    weights = np.exp(log_softmax([0.0, p[3], p[4]]))
    return float(np.exp(p[0])), float(ratio), float(cv), weights


def _log_densities(
    x: NDArray[np.float64], sd: NDArray[np.float64], g1: float, ratio: float, cv: float
) -> NDArray[np.float64]:
    """Return the logarithms of the densities of G1, S and G2 at each value, shape (n, 3)."""
    content = np.concatenate([[1.0], 1 + (ratio - 1) * (np.arange(_S_STEPS) + 0.5) / _S_STEPS, [ratio]])
    centre = g1 * content
    log_density = norm.logpdf(x[:, None], centre, np.hypot(cv * centre, sd[:, None]))
    s_phase = np.logaddexp.reduce(log_density[:, 1:-1], axis=1) - np.log(_S_STEPS)
    return np.stack([log_density[:, 0], s_phase, log_density[:, -1]], axis=1)


def _with_background(data: _Data, log_likelihood: NDArray[np.float64]) -> float:
    """Return the negative log-likelihood with a small share of values that belong to no peak."""
    flat = -np.log(data.x) - np.log(max(float(np.log(data.x.max() / data.x.min())), 1e-6))
    both = np.logaddexp(np.log1p(-_BACKGROUND_SHARE) + log_likelihood, np.log(_BACKGROUND_SHARE) + flat)
    return -float((data.count * both).sum())


def _maximum(data: _Data, start: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    def cost(p: NDArray[np.float64]) -> float:
        g1, ratio, cv, weights = _natural(p)
        phases = _log_densities(data.x, data.sd, g1, ratio, cv) + np.log(weights)
        return _with_background(data, np.logaddexp.reduce(phases, axis=1))

    found = minimize(cost, start, method="L-BFGS-B", bounds=[(None, None), (-6, 6), (-6, 6), (-8, 6), (-8, 6)])
    return float(found.fun), found.x


def _refuse_one_peak(data: _Data, two_peaks: float) -> None:
    """Compare with a single peak by the Bayesian information criterion (5 parameters against 2)."""

    def cost(p: NDArray[np.float64]) -> float:
        centre, width = np.exp(p[0]), np.exp(p[1])
        return _with_background(data, norm.logpdf(data.x, centre, np.hypot(width * centre, data.sd)))

    start = [np.log(np.average(data.x, weights=data.count)), np.log(0.2)]
    one_peak = minimize(cost, start, method="Nelder-Mead").fun
    if 2 * (one_peak - two_peaks) < 3 * np.log(data.count.sum()):
        raise NoFitError("the intensities show one peak only: there is no split into G1 and G2")
