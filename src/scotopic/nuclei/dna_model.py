"""Models of a DNA histogram, and their maximum-likelihood fit to grouped intensities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.signal import find_peaks
from scipy.special import expit, log_softmax, logit, ndtr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]

_S_STEPS = 12
"""Peaks that stand in for the S cells: so close that their sum is smooth at a CV of 3 % or more. A multiple of 3."""
S_BANDS = 3
"""Early, middle and late S. Two cannot show cells held in the middle; more cannot be told apart at a CV of 8 %."""
_GROUP_WIDTH = 0.02
"""Width of a group of values in the logarithm: a quarter of a peak's width, or less."""
_PEAKS_TRIED, _STARTS_FOLLOWED = 4, 3
_TOLERANCE = 3e-8
"""Relative gain of the log-likelihood at which the climb ends: less than 0.001 for 5000 nuclei."""
_SAME_G1 = 0.1
"""Starts whose G1 is as near as this, in the logarithm, lead to the same fit: only the better one is followed."""
LEAST_RATIO, MOST_RATIO = 1.8, 2.2
_RATIO_SD = 0.06
"""G2 has twice the DNA of G1, and microscopes measure nearly that: where few nuclei leave S and G2 undecided, it decides."""
LEAST_CV, MOST_CV = 0.01, 0.35
_LEAST_DECAY, _MOST_DECAY = 0.3, 1.0
"""Bounds of the exponent of debris: 1 is spread evenly in intensity, 0 would be evenly in its logarithm. More than that
would be a peak's flank."""
_LEAST_EDGE, _MOST_EDGE = 0.3, 1.0
"""Bounds of the largest debris, relative to G1."""
_LEAST_INDEX, _MOST_INDEX = 1.15, 1.85
"""Bounds of the DNA index of a second clone. Nearer to 1 or 2 its peaks hide in those of the first."""
_MOST_WIDER = float(np.log(2))
"""Bound of the logarithm of the CV of G2 relative to that of G1, both ways."""
_BACKGROUND_SHARE = 0.01
"""Clumps and torn nuclei, spread evenly over the logarithm of intensity, that no peak has to explain."""
_PREFER_G1 = 10
"""What is the same to the likelihood is decided as if so many more nuclei were in G1: else a G1 peak could be called the
G2 peak of a G1 that nobody sees, and its G2 peak polyploid."""
_LEAST = np.array([LEAST_RATIO, LEAST_CV, _LEAST_DECAY, _LEAST_EDGE, _LEAST_INDEX, -_MOST_WIDER])
_MOST = np.array([MOST_RATIO, MOST_CV, _MOST_DECAY, _MOST_EDGE, _MOST_INDEX, _MOST_WIDER])
_SHAPES = 1 + _LEAST.size
_INDEX, _WIDER = _SHAPES - 2, _SHAPES - 1
"""Parameters that are not weights: the logarithm of the G1 intensity, and those that have bounds."""


@dataclass(frozen=True)
class Data:
    """Values that are nearly the same, taken together: a fit of many nuclei takes no longer than one of few."""

    x: Array
    sd: Array
    count: Array

    @classmethod
    def grouped(cls, x: Array, sd: Array) -> Data:
        """Take values together that differ by no more than `_GROUP_WIDTH` in the logarithm."""
        group = np.unique(np.rint(np.log(x) / _GROUP_WIDTH), return_inverse=True)[1]
        count = np.bincount(group).astype(float)
        return cls(np.bincount(group, x) / count, np.sqrt(np.bincount(group, sd**2) / count), count)

    @property
    def log_range(self) -> tuple[float, float]:
        """Logarithms of the least and the greatest value."""
        return float(np.log(self.x.min())), float(np.log(self.x.max()))


@dataclass(frozen=True)
class Model:
    """Which components there are: G1, S in one or more bands, G2, polyploid, more peaks, debris (always the last)."""

    s_bands: int = 1
    clone: bool = False
    """Whether there is a second clone, with its own G1, S and G2."""
    own_g2_cv: bool = False
    """Whether the G2 peak, and that of polyploid nuclei, has another CV than G1 and S."""

    @property
    def components(self) -> int:
        """Number of components."""
        return self.s_bands + 4 + (3 if self.clone else 0)

    def contents(self, ratio: float, index: float) -> tuple[Array, Array, Array, NDArray[np.int_]]:
        """Return DNA content of each peak, its derivatives by ratio and index, and the component it belongs to."""
        t = (np.arange(_S_STEPS) + 0.5) / _S_STEPS
        slope = np.concatenate([[0.0], t, [1.0]])
        content = 1 + (ratio - 1) * slope
        band = np.repeat(np.arange(self.s_bands), _S_STEPS // self.s_bands) + 1
        of = np.concatenate([[0], band, [self.s_bands + 1, self.s_bands + 2]])
        parts = [content, np.array([2 * ratio])]
        by_ratio = [slope, np.array([2.0])]
        by_index = [np.zeros(content.size + 1)]
        if self.clone:
            parts.append(index * content)
            by_ratio.append(index * slope)
            by_index.append(content)
            third = self.s_bands + 3
            of = np.concatenate([of, [third], np.full(_S_STEPS, third + 1), [third + 2]])
        return np.concatenate(parts), np.concatenate(by_ratio), np.concatenate(by_index), of


class Fit(NamedTuple):
    """Parameters of a model."""

    model: Model
    g1: float
    ratio: float
    cv: float
    decay: float
    edge: float
    """Intensity of the largest debris, relative to G1."""
    dna_index: float
    """DNA content of the second clone's G1, relative to G1; without meaning where there is none."""
    wider: float
    """Logarithm of the CV of G2 relative to that of G1."""
    weights: Array
    """Of the components of the model, in its order."""
    cost: float = np.inf
    """Negative log-likelihood, with what is known of the ratio."""
    free: int = 0
    """Number of parameters that were fitted."""

    @property
    def phases(self) -> Array:
        """Weights of G1, S and G2."""
        s = self.model.s_bands
        return np.array([self.weights[0], self.weights[1 : s + 1].sum(), self.weights[s + 1]])

    @property
    def clone(self) -> Array:
        """Weights of the second clone's G1, S and G2."""
        return self.weights[-4:-1] if self.model.clone else np.zeros(3)

    @property
    def s_above(self) -> float:
        """Share of the S cells with a DNA content above the middle."""
        bands = self.weights[1 : self.model.s_bands + 1]
        centre = (np.arange(bands.size) + 0.5) / bands.size
        return float(bands @ np.clip(0.5 + bands.size * (centre - 0.5), 0, 1) / max(bands.sum(), 1e-12))

    def bic(self, n: float) -> float:
        """Bayesian information criterion: lower is better."""
        return float(2 * self.cost + self.free * np.log(n))


def natural(model: Model, p: Array) -> Fit:
    """Return the model with these parameters, which have no bounds but are the logarithms or logits of what has."""
    ratio, cv, decay, edge, dna_index, wider = (_LEAST + (_MOST - _LEAST) * expit(p[1:_SHAPES])).tolist()
    weights = np.exp(log_softmax(np.concatenate([[0.0], p[_SHAPES:]])))
    return Fit(model, float(np.exp(p[0])), ratio, cv, decay, edge, dna_index, wider, weights)


def _parameters(fit: Fit) -> Array:
    """Return the parameters to start from at a fit."""
    bounded = (np.array(fit[2:8]) - _LEAST) / (_MOST - _LEAST)
    logs = np.log(np.maximum(fit.weights, 1e-4))
    return np.concatenate(
        [[np.log(fit.g1)], np.clip(logit(np.clip(bounded, 1e-3, 1 - 1e-3)), -6, 6), logs[1:] - logs[0]]
    )


_ROOT = np.sqrt(2 * np.pi)


def _cvs(fit: Fit, of: NDArray[np.int_]) -> Array:
    """Return the CV of each peak."""
    first = fit.model.s_bands + 1
    wide = (of == first) | (of == first + 1)
    return fit.cv * np.where(wide, np.exp(fit.wider), 1.0)


def _peaks(x: Array, sd: Array, fit: Fit) -> tuple[Array, Array, Array, Array, NDArray[np.int_]]:
    content, *_, of = fit.model.contents(fit.ratio, fit.dna_index)
    centre = fit.g1 * content
    width = np.hypot(_cvs(fit, of) * centre, sd[:, None])
    z = (x[:, None] - centre) / width
    return centre, width, z, np.exp(-0.5 * z * z) / (_ROOT * width), of


def _debris(x: Array, sd: Array, fit: Fit) -> tuple[Array, Array, Array]:
    """Return the density of debris, its blurred end, and where each value is in it."""
    largest = fit.edge * fit.g1
    end = (largest - x) / np.hypot(fit.cv * largest, sd)
    return fit.decay / largest * (x / largest) ** (fit.decay - 1) * ndtr(end), end, np.hypot(fit.cv * largest, sd)


def _of_components(peaks: Array, of: NDArray[np.int_], last: Array) -> Array:
    """Average the peaks that belong to the same component."""
    return np.column_stack([peaks @ ((of[:, None] == np.unique(of)) / np.bincount(of)), last])


def densities(x: Array, sd: Array, fit: Fit) -> Array:
    """Return the density of each component at each value, shape (n, components)."""
    *_, density, of = _peaks(x, sd, fit)
    return _of_components(density, of, _debris(x, sd, fit)[0])


def with_background(x: Array, density: Array) -> Array:
    """Add a small share of values that belong to no peak; so no value is impossible."""
    flat = _BACKGROUND_SHARE / (x * max(float(np.log(x.max() / x.min())), 1e-6))
    return (1 - _BACKGROUND_SHARE) * density + flat


def in_phases(x: Array, sd: Array, fit: Fit) -> Array:
    """Return the probability of G1, S and G2 for each value, shape (n, 3)."""
    joint = densities(x, sd, fit) * fit.weights
    s = fit.model.s_bands
    phases = np.column_stack([joint[:, 0], joint[:, 1 : s + 1].sum(1), joint[:, s + 1]])
    return phases * (1 - _BACKGROUND_SHARE) / with_background(x, joint.sum(1))[:, None]


_EM_STEPS = 200


def with_weights_of(x: Array, sd: Array, fit: Fit) -> Fit:
    """Return a fit with the weights that other values have, its peaks and how S is spread left as they are."""
    parts = densities(x, sd, fit)
    s = fit.model.s_bands
    bands = fit.weights[1 : s + 1] / max(float(fit.weights[1 : s + 1].sum()), 1e-12)
    weights = fit.weights
    for _ in range(_EM_STEPS):
        joint = parts * weights * (1 - _BACKGROUND_SHARE)
        found = (joint / with_background(x, parts @ weights)[:, None]).mean(0)
        found[1 : s + 1] = bands * found[1 : s + 1].sum()
        weights = found / max(float(found.sum()), 1e-12)
    return fit._replace(weights=weights)


def _cumulative(x: Array, sd: Array, fit: Fit, reach: tuple[float, float]) -> Array:
    """Return the model's share of values below each value; `reach` are the logarithms the background lies between."""
    _, _, z, _, of = _peaks(x, sd, fit)
    grid = np.linspace(0, 2 * fit.g1, 400)[1:]
    debris = np.cumsum(_debris(grid, np.full(grid.size, np.median(sd)), fit)[0])
    below = _of_components(ndtr(z), of, np.interp(x, grid, debris / debris[-1])) @ fit.weights
    flat = (np.log(x) - reach[0]) / max(reach[1] - reach[0], 1e-6)
    return np.asarray((1 - _BACKGROUND_SHARE) * below + _BACKGROUND_SHARE * flat)


def misfit(x: Array, sd: Array, fit: Fit, low: float, high: float) -> tuple[float, int]:
    """Return Kuiper's distance between the values from `low` to `high` and the model, and how many they are."""
    inside = (x > low) & (x < high)
    x_in, sd_in = x[inside], sd[inside]
    reach = float(np.log(x.min())), float(np.log(x.max()))
    from_low, to_high = (_cumulative(np.full(x_in.size, end), sd_in, fit, reach) for end in (low, high))
    share = np.sort((_cumulative(x_in, sd_in, fit, reach) - from_low) / (to_high - from_low))
    steps = np.arange(share.size) / max(share.size, 1)
    return float((steps + 1 / share.size - share).max() + (share - steps).max()), share.size


def cost(data: Data, fit: Fit) -> float:
    """Return the negative log-likelihood."""
    density = with_background(data.x, densities(data.x, data.sd, fit) @ fit.weights)
    return -float(data.count @ np.log(density))


def _cost_and_slope(p: Array, data: Data, model: Model) -> tuple[float, Array]:
    """Return the negative log-likelihood with what is known of the ratio, and its derivative by each parameter."""
    fit = natural(model, p)
    _, by_ratio, by_index, of = model.contents(fit.ratio, fit.dna_index)
    centre, width, z, peaks, _ = _peaks(data.x, data.sd, fit)
    debris, end, blur = _debris(data.x, data.sd, fit)
    parts = _of_components(peaks, of, debris)
    density = with_background(data.x, parts @ fit.weights)
    pull = -(1 - _BACKGROUND_SHARE) * data.count / density
    by_weight = pull @ parts
    share = (fit.weights[:-1] / np.bincount(of))[of]
    each = pull[:, None] * peaks * share / width
    cvs = _cvs(fit, of)
    by_log_cv = (each * (z * z - 1) / width).sum(0) * (cvs * centre) ** 2
    by_centre = (each * z).sum(0) + by_log_cv / centre
    by_cv = float(by_log_cv.sum()) / fit.cv
    heap = pull * debris * fit.weights[-1]
    largest = fit.edge * fit.g1
    hazard = np.exp(-0.5 * end * end) / (_ROOT * np.maximum(ndtr(end), 1e-300))
    by_largest = float(heap @ (-fit.decay / largest + hazard * (1 - end * fit.cv**2 * largest / blur) / blur))
    by_cv -= float(heap @ (hazard * end * fit.cv * largest**2 / blur**2))
    slopes = np.array(
        [
            fit.g1 * float(by_centre @ by_ratio) + (fit.ratio - 2) / _RATIO_SD**2,
            by_cv,
            float(heap @ (1 / fit.decay + np.log(data.x / largest))),
            fit.g1 * by_largest,
            fit.g1 * float(by_centre @ by_index),
            float(by_log_cv[(of == model.s_bands + 1) | (of == model.s_bands + 2)].sum()) if model.own_g2_cv else 0.0,
        ]
    )
    e = expit(p[1:_SHAPES])
    by_log_g1 = float(by_centre @ centre) + largest * by_largest
    by_logit = fit.weights * (by_weight - by_weight @ fit.weights)
    found = -float(data.count @ np.log(density)) + 0.5 * ((fit.ratio - 2) / _RATIO_SD) ** 2
    return found, np.concatenate([[by_log_g1], slopes * (_MOST - _LEAST) * e * (1 - e), by_logit[1:]])


def maximum(data: Data, model: Model, start: Array, fixed: Sequence[int] = ()) -> Fit:
    """Climb from a start to the most likely parameters; those at the places in `fixed` stay as they are."""
    bounds = [data.log_range, *[(-6.0, 6.0)] * (_SHAPES - 1), *[(-8.0, 6.0)] * (model.components - 1)]
    unused = [place for place, used in ((_INDEX, model.clone), (_WIDER, model.own_g2_cv)) if not used]
    held = sorted({*fixed, *unused})
    for place in held:
        bounds[place] = (float(start[place]), float(start[place]))
    found = minimize(
        _cost_and_slope, start, (data, model), "L-BFGS-B", jac=True, bounds=bounds, options={"ftol": _TOLERANCE}
    )
    return natural(model, found.x)._replace(cost=float(found.fun), free=start.size - len(held))


def even_s(data: Data) -> Fit:
    """Fit the model with S cells spread evenly, from several starts."""
    model = Model()
    starts: list[Array] = []
    for start in sorted(_starts(data), key=lambda start: cost(data, natural(model, start))):
        if len(starts) < _STARTS_FOLLOWED and all(abs(start[0] - other[0]) > _SAME_G1 for other in starts):
            starts.append(start)
    fits = [maximum(data, model, start) for start in starts]
    return min(fits, key=lambda fit: fit.cost - _PREFER_G1 * float(np.log(fit.weights[0])))


def _starts(data: Data) -> list[Array]:
    """Return starting points: each of the highest peaks of the logarithms as G1, and as G2."""
    logs = np.log2(data.x)
    counts, edges = np.histogram(logs, bins=max(20, int(np.ptp(logs) / 0.08)), weights=data.count)
    smooth = np.convolve(counts, [1, 2, 3, 2, 1], "same")
    peaks = find_peaks(np.concatenate([[0], smooth, [0]]))[0] - 1
    highest = peaks[np.argsort(smooth[peaks])[::-1][:_PEAKS_TRIED]]
    modes = np.exp2(edges[highest] + (edges[1] - edges[0]) / 2)
    middle = logit((2 - LEAST_RATIO) / (MOST_RATIO - LEAST_RATIO))
    return [
        np.array([np.log(g1), middle, spread, 0.0, 0.0, 0.0, 0.0, s, -1.0, -3.0, debris])
        for mode in modes
        for g1 in (mode, mode / 2)
        for s in (-2.0, 0.0)
        for spread in (-1.3, 0.5)
        for debris in (-2.0, 1.0)
    ]


def uneven_s(data: Data, even: Fit) -> Fit:
    """Fit S cells in bands of their own, from the fit of even ones."""
    model = Model(s_bands=S_BANDS)
    g1, s, g2 = even.phases
    fits = []
    for cv, mix in ((even.cv, 0.0), (max(0.7 * even.cv, 2 * LEAST_CV), 0.3)):
        bands = np.full(S_BANDS, (1 - mix) * s / S_BANDS)
        weights = np.concatenate([[g1], bands + mix / S_BANDS, [(1 - mix) * g2], even.weights[3:]])
        ratio = even.ratio if mix == 0 else 2.0
        fits.append(maximum(data, model, _parameters(even._replace(model=model, cv=cv, ratio=ratio, weights=weights))))
    return min(fits, key=lambda fit: fit.cost)


def own_g2_cv(data: Data, even: Fit) -> Fit:
    """Fit a CV of its own to G2."""
    model = Model(own_g2_cv=True)
    return maximum(data, model, _parameters(even._replace(model=model)))


def two_clones(data: Data, even: Fit) -> Fit:
    """Fit a second clone with peaks of its own."""
    model = Model(clone=True)
    fits = []
    for index in (1.25, 1.6):
        weights = np.concatenate([0.6 * even.weights[:4], [0.25, 0.05, 0.1], even.weights[4:]])
        start = even._replace(
            model=model, cv=max(0.6 * even.cv, 2 * LEAST_CV), dna_index=index, weights=weights / weights.sum()
        )
        fits.append(maximum(data, model, _parameters(start)))
    return min(fits, key=lambda fit: fit.cost)


def one_peak(data: Data) -> Fit:
    """Fit a single peak, and debris below it."""
    model = Model()
    centres = np.log(np.average(data.x, weights=data.count)), np.log(data.x[data.count.argmax()])
    nothing = -40.0
    starts = [
        np.array([centre, 0.0, spread, 0.0, 0.0, 0.0, 0.0, nothing, nothing, nothing, -2.0])
        for centre, spread in zip(centres, (3.0, 0.0), strict=True)
    ]
    fixed = (1, 4, *range(_SHAPES, _SHAPES + 3))
    return min((maximum(data, model, start, fixed) for start in starts), key=lambda fit: fit.cost)
