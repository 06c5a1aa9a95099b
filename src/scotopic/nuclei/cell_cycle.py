"""G1, S and G2 from DNA content: a fit to the integrated intensities of many nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.signal import find_peaks
from scipy.special import expit, log_softmax, logit, ndtr

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SPLIT_DNA_CONTENT = 1.5
"""Where the two-class split lies, in DNA content (G1 is 1, G2 is 2): below it a nucleus counts as G1, above it as G2,
in the truth of the simulator as in the fit."""
LEAST_NUCLEI = 100
"""Fewer nuclei than this are not fitted."""
_S_STEPS = 10
_GROUP_WIDTH = 0.02
"""Width of a group of values in the logarithm: a quarter of a peak's width, or less."""
_PEAKS_TRIED, _STARTS_FOLLOWED = 4, 2
_LEAST_RATIO, _MOST_RATIO = 1.8, 2.2
_RATIO_SD = 0.06
"""G2 has twice the DNA of G1, and microscopes measure nearly that: where few nuclei leave S and G2 undecided, it decides."""
_LEAST_CV, _MOST_CV = 0.01, 0.35
_LEAST_DECAY, _MOST_DECAY = 0.3, 1.0
"""Bounds of the exponent of debris: 1 is spread evenly in intensity, 0 would be evenly in its logarithm. More than that
would be a peak's flank."""
_LEAST_EDGE, _MOST_EDGE = 0.3, 1.0
"""Bounds of the largest debris, relative to G1."""
_AT_BOUND = 0.01
"""A parameter that has come so near to a bound, relative to the bounds' distance, was stopped by it."""
_LEAST_IN_PHASES = 0.55
"""Least share of the values that must be in a phase of the cell cycle."""
_BACKGROUND_SHARE = 0.01
"""Clumps and torn nuclei, spread evenly over the logarithm of intensity, that no peak has to explain."""
_PREFER_G1 = 10
"""What is the same to the likelihood is decided as if so many more nuclei were in G1: else a G1 peak could be called the
G2 peak of a G1 that nobody sees, and its G2 peak polyploid."""
_PHASES = ("G1", "S", "G2")
_CLASSES = (*_PHASES, "other")


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
    """Share of `G1`, `S` and `G2` among the nuclei that are in one of them."""
    other: float
    """Share of all values that is none of these: debris, and nuclei with twice the DNA of G2."""
    posterior: NDArray[np.float64]
    """Probability of G1, S, G2 and none of these for each nucleus, shape (n, 4)."""
    n: int
    """Number of nuclei."""

    @property
    def g2_of_two(self) -> float:
        """Share of nuclei with a DNA content above `SPLIT_DNA_CONTENT`: S cells, evenly spread, are shared out."""
        return self.fractions["G2"] + self.fractions["S"] * (2 - SPLIT_DNA_CONTENT)

    @property
    def classes(self) -> NDArray[np.str_]:
        """Most probable phase of each nucleus: `G1`, `S`, `G2`, or `other`."""
        of_none = np.where(np.isnan(self.posterior), [0.0, 0.0, 0.0, 1.0], self.posterior)
        named: NDArray[np.str_] = np.array(_CLASSES)[of_none.argmax(1)]
        return named


def fit_cell_cycle(intensity: ArrayLike, noise: ArrayLike = 0.0) -> CellCycle:
    """Fit G1, S and G2 to integrated DNA intensities, by maximum likelihood.

    The model is that of Dean and Jett (1974, J. Cell Biol. 60:523) in Fox's tradition: two Gaussian peaks of the same
    coefficient of variation, and S cells spread evenly in DNA content between them, blurred likewise. Each value's own
    measurement noise widens its density, so the fit stays the same down to low light. Beside them stand a peak at twice
    the DNA of G2 (polyploid nuclei, pairs left as one), and debris: a power law of intensity, up to the G1 peak. That the
    ratio of the peaks is near 2 is known beforehand (standard deviation 0.06).

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
        With fewer than `LEAST_NUCLEI` nuclei; where one peak explains the values as well as two; where most of them are
        debris; or where the best fit lies at the bounds of what the two peaks of a cell cycle can be.
    """
    values = np.asarray(intensity, float)
    usable = np.isfinite(values) & (values > 0)
    x, sd = values[usable], np.broadcast_to(np.asarray(noise, float), values.shape)[usable]
    if x.size < LEAST_NUCLEI:
        raise NoFitError(f"{x.size} nuclei are too few for a cell-cycle fit, which takes at least {LEAST_NUCLEI}")
    data = _grouped(x, sd)
    cost, fit = _best_fit(data)
    _refuse_one_peak(data, cost)
    _refuse_bounds(fit)
    phases = float(fit.weights[:3].sum())
    if phases < _LEAST_IN_PHASES:
        raise NoFitError(f"{1 - phases:.0%} of the values are debris or polyploid: too many for a cell-cycle fit")
    joint = _densities(x, sd, fit) * fit.weights
    of_phases = joint[:, :3] * (1 - _BACKGROUND_SHARE) / _with_background(x, joint.sum(1))[:, None]
    posterior = np.full((values.size, len(_CLASSES)), np.nan)
    posterior[usable] = np.column_stack([of_phases, 1 - of_phases.sum(1)])
    fractions = dict(zip(_PHASES, (fit.weights[:3] / phases).tolist(), strict=True))
    return CellCycle(fit.g1, fit.ratio, fit.cv, fractions, 1 - phases, posterior, int(x.size))


class _Fit(NamedTuple):
    """Parameters of the model."""

    g1: float
    ratio: float
    cv: float
    decay: float
    edge: float
    """Intensity of the largest debris, relative to G1."""
    weights: NDArray[np.float64]
    """Of G1, S, G2, polyploid and debris."""


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


def _best_fit(data: _Data) -> tuple[float, _Fit]:
    starts = sorted(_starts(data), key=lambda start: _cost(data, _natural(start)))[:_STARTS_FOLLOWED]
    fits = [_maximum(data, start) for start in starts]
    return min(fits, key=lambda fit: fit[0] - _PREFER_G1 * float(np.log(fit[1].weights[0])))


def _starts(data: _Data) -> list[NDArray[np.float64]]:
    """Return starting points: each of the highest peaks of the logarithms as G1, and as G2."""
    logs = np.log2(data.x)
    counts, edges = np.histogram(logs, bins=max(20, int(np.ptp(logs) / 0.08)), weights=data.count)
    smooth = np.convolve(counts, [1, 2, 3, 2, 1], "same")
    peaks = find_peaks(np.concatenate([[0], smooth, [0]]))[0] - 1
    highest = peaks[np.argsort(smooth[peaks])[::-1][:_PEAKS_TRIED]]
    modes = np.exp2(edges[highest] + (edges[1] - edges[0]) / 2)
    middle = logit((2 - _LEAST_RATIO) / (_MOST_RATIO - _LEAST_RATIO))
    return [
        np.array([np.log(g1), middle, spread, 0.0, 0.0, -1.0, s, -3.0, -2.0])
        for mode in modes
        for g1 in (mode, mode / 2)
        for s in (-2.0, 0.0)
        for spread in (-1.3, 0.5)
    ]


def _natural(p: NDArray[np.float64]) -> _Fit:
    ratio, cv, decay, edge = (
        float(low + (high - low) * expit(value))
        for value, low, high in zip(
            p[1:5],
            (_LEAST_RATIO, _LEAST_CV, _LEAST_DECAY, _LEAST_EDGE),
            (_MOST_RATIO, _MOST_CV, _MOST_DECAY, _MOST_EDGE),
            strict=True,
        )
    )
    weights = np.exp(log_softmax([0.0, *p[5:]]))
    return _Fit(float(np.exp(p[0])), ratio, cv, decay, edge, weights)


def _normal(x: NDArray[np.float64], centre: NDArray[np.float64], width: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the normal density (`scipy.stats.norm` takes ten times as long)."""
    density: NDArray[np.float64] = np.exp(-0.5 * ((x - centre) / width) ** 2) / (np.sqrt(2 * np.pi) * width)
    return density


def _densities(x: NDArray[np.float64], sd: NDArray[np.float64], fit: _Fit) -> NDArray[np.float64]:
    """Return the densities of G1, S, G2, polyploid nuclei and debris at each value, shape (n, 5)."""
    steps = 1 + (fit.ratio - 1) * (np.arange(_S_STEPS) + 0.5) / _S_STEPS
    centre = fit.g1 * np.concatenate([[1.0], steps, [fit.ratio, 2 * fit.ratio]])
    density = _normal(x[:, None], centre, np.hypot(fit.cv * centre, sd[:, None]))
    largest = fit.edge * fit.g1
    end = ndtr((largest - x) / np.hypot(fit.cv * largest, sd))
    debris = fit.decay / largest * (x / largest) ** (fit.decay - 1) * end
    return np.stack([density[:, 0], density[:, 1:-2].mean(1), density[:, -2], density[:, -1], debris], axis=1)


def _with_background(x: NDArray[np.float64], density: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add a small share of values that belong to no peak; so no value is impossible."""
    flat = _BACKGROUND_SHARE / (x * max(float(np.log(x.max() / x.min())), 1e-6))
    return (1 - _BACKGROUND_SHARE) * density + flat


def _cost(data: _Data, fit: _Fit) -> float:
    """Return the negative log-likelihood."""
    density = _with_background(data.x, _densities(data.x, data.sd, fit) @ fit.weights)
    return -float(data.count @ np.log(density))


def _maximum(data: _Data, start: NDArray[np.float64]) -> tuple[float, _Fit]:
    bounds = [_log_range(data), *[(-6, 6)] * 4, *[(-8, 6)] * 4]

    def cost(p: NDArray[np.float64]) -> float:
        fit = _natural(p)
        return _cost(data, fit) + 0.5 * ((fit.ratio - 2) / _RATIO_SD) ** 2

    found = minimize(cost, start, method="L-BFGS-B", bounds=bounds)
    return float(found.fun), _natural(found.x)


def _log_range(data: _Data) -> tuple[float, float]:
    return float(np.log(data.x.min())), float(np.log(data.x.max()))


def _refuse_one_peak(data: _Data, two_peaks: float) -> None:
    """Compare with a single peak and debris below it by the Bayesian information criterion."""

    def cost(p: NDArray[np.float64]) -> float:
        fit = _natural(np.array([p[0], 0.0, p[1], 0.0, p[2], 0.0, 0.0, 0.0, 0.0]))
        share = float(expit(p[3]))
        return _cost(data, fit._replace(weights=np.array([1 - share, 0.0, 0.0, 0.0, share])))

    centres = np.log(np.average(data.x, weights=data.count)), np.log(data.x[data.count.argmax()])
    starts = [np.array([centre, spread, 0.0, -2.0]) for centre in centres for spread in (0.0, 3.0)]
    bounds = [_log_range(data), (-6, 6), (-6, 6), (-8, 6)]
    one_peak = min(minimize(cost, start, method="L-BFGS-B", bounds=bounds).fun for start in starts)
    if 2 * (one_peak - two_peaks) < 4 * np.log(data.count.sum()):
        raise NoFitError("the intensities show one peak only: there is no split into G1 and G2")


def _refuse_bounds(fit: _Fit) -> None:
    ratio = (fit.ratio - _LEAST_RATIO) / (_MOST_RATIO - _LEAST_RATIO)
    if not _AT_BOUND < ratio < 1 - _AT_BOUND:
        allowed = f"allowed: {_LEAST_RATIO:g} to {_MOST_RATIO:g}"
        raise NoFitError(f"the second peak would lie at {fit.ratio:.2f} times the first ({allowed}): no G1 and G2")
    if fit.cv > _MOST_CV - _AT_BOUND * (_MOST_CV - _LEAST_CV):
        raise NoFitError(f"the peaks are wider than {_MOST_CV:.0%}: there is no split into G1 and G2")
