"""G1, S and G2 from DNA content: a fit to the integrated intensities of many nuclei."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scotopic.nuclei.dna_model import (
    LEAST_CV,
    LEAST_RATIO,
    MOST_CV,
    MOST_RATIO,
    Data,
    Fit,
    even_s,
    in_phases,
    misfit,
    one_peak,
    own_g2_cv,
    two_clones,
    uneven_s,
    with_weights_of,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

SPLIT_DNA_CONTENT = 1.5
"""Where the two-class split lies, in DNA content (G1 is 1, G2 is 2): below it a nucleus counts as G1, above it as G2,
in the truth of the simulator as in the fit."""
LEAST_NUCLEI = 100
"""Fewer nuclei than this are not fitted."""
_AT_BOUND = 0.05
"""A parameter that has come so near to a bound, relative to the bounds' distance, was stopped by it."""
_LEAST_IN_PHASES = 0.55
"""Least share of the values that must be in a phase of the cell cycle."""
_JUDGED_FROM, _JUDGED_TO = 0.7, 1.3
"""The misfit is judged from the first times the G1 peak to the second times the G2 peak. Debris and polyploid nuclei
beyond have shapes of their own, which do not matter to the phases."""
_MISFIT, _MISFIT_BY_CHANCE = 0.08, 1.8
"""A fit is refused where Kuiper's distance between the values and the model is more than the first, and more than the second
by the square root of the number of values. Of real nuclei (U2OS, Hoechst, 5000 of them) 7 % lie elsewhere than in the model,
without harm. Fewer than 1 % of populations that follow the model, with a noise of up to 25 % of G1, exceed the second."""
_CLOSE = 0.9
"""Kuiper's distance times the square root of the number of values, up to which no second population is looked for: with one
it is at least 1.3."""
_CLEARLY = 10.0
"""Difference of the Bayesian information criterion that decides between two models (Kass and Raftery 1995)."""
_GAIN_OF_G2_CV, _GAIN_OF_BANDS, _GAIN_OF_CLONE = 5.0, 7.0, 20.0
"""A richer model whose doubled log-likelihood is greater by so much may be true, though the simpler one is chosen: fewer
than 3 % of populations that follow the simpler one reach it."""
_SAME_SHARE, _SAME_G1 = 0.15, 0.04
"""Fits whose shares and whose relative G1 intensity differ by no more than this say the same."""
_SAME_SHARE_OF_TWO = 0.1
"""The same for the shares, where a second clone is clearly there."""
_CLONE_SEEN = 0.07
"""Share of a second clone's G1, among all cells in a phase, from which it is called a second population."""
_GAIN_PER_NUCLEUS = 0.035
"""Least gain of the doubled log-likelihood by a second clone, divided by the number of nuclei. One population of 5000 real
nuclei (U2OS, Hoechst) reaches 0.030, because no real population follows the model closely; 20 % of a clone with 1.3 times
the DNA reach 0.07."""
_MOST_NOISE = 0.2
"""Largest noise of a nucleus (median), relative to G1: with more, S cells spread in any way look like G1 and G2 (late S at 25 %
is returned as G2 in four of four trials)."""
_LEAST_PEAK = 0.04
"""Where S is uneven, G1 and G2 must each have this share: without both peaks nothing says where S begins and ends."""
_PHASES = ("G1", "S", "G2")
_CLASSES = (*_PHASES, "other")


class NoFitError(ValueError):
    """The intensities do not show the peaks of one cell cycle, or not clearly; the message says why."""


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
    s_above_split: float = 0.5
    """Share of the S cells with a DNA content above `SPLIT_DNA_CONTENT`: half where they are spread evenly."""
    fitted: Fit | None = field(default=None, repr=False, compare=False)
    """Parameters of the model."""

    @property
    def g2_of_two(self) -> float:
        """Share of nuclei with a DNA content above `SPLIT_DNA_CONTENT`: S cells are shared out."""
        return self.fractions["G2"] + self.fractions["S"] * self.s_above_split

    def g2_of_two_in(self, intensity: ArrayLike, noise: ArrayLike) -> float | None:
        """Return the share of other nuclei of the same sample above `SPLIT_DNA_CONTENT`, with the peaks of this fit.

        Only the weights of the peaks are found again (expectation maximisation, Dempster, Laird and Rubin 1977), so that two
        measurements of the same nuclei differ by the nuclei alone.

        Parameters
        ----------
        intensity, noise : array of n numbers
            As for `fit_cell_cycle`, in the unit of this fit.

        Returns
        -------
        float or None
            Nothing where there are no nuclei in a phase.
        """
        values = np.asarray(intensity, float)
        usable = np.isfinite(values) & (values > 0)
        if self.fitted is None or not usable.any():
            return None
        sd = np.broadcast_to(np.asarray(noise, float), values.shape)[usable]
        g1, s, g2 = with_weights_of(values[usable], sd, self.fitted).phases
        total = g1 + s + g2
        return float((g2 + s * self.s_above_split) / total) if total > 0 else None

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

    Where the Bayesian information criterion asks for it, early, middle and late S have weights of their own, or G2 has a
    CV of its own. A fit is returned only if the values follow it, and if no other model that fits as well says otherwise:
    a second clone with other DNA content is such a model.

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
        debris; where the best fit lies at the bounds of what the two peaks of a cell cycle can be; where the values do
        not follow the model; or where S and G2, or a second population, cannot be told apart.
    """
    values = np.asarray(intensity, float)
    usable = np.isfinite(values) & (values > 0)
    x, sd = values[usable], np.broadcast_to(np.asarray(noise, float), values.shape)[usable]
    if x.size < LEAST_NUCLEI:
        raise NoFitError(f"{x.size} nuclei are too few for a cell-cycle fit, which takes at least {LEAST_NUCLEI}")
    data = Data.grouped(x, sd)
    even = even_s(data)
    richer = own_g2_cv(data, even), uneven_s(data, even)
    fit = _chosen(data, even, richer)
    _refuse_one_peak(data, fit)
    _refuse_bounds(fit)
    if (noisy := float(np.median(sd)) / fit.g1) > _MOST_NOISE:
        raise NoFitError(
            f"each nucleus has a noise of {noisy:.0%} of G1 (allowed: {_MOST_NOISE:.0%}): phases cannot be told apart"
        )
    shares = fit.phases
    if shares.sum() < _LEAST_IN_PHASES:
        raise NoFitError(f"{1 - shares.sum():.0%} of the values are debris or polyploid: too many for a cell-cycle fit")
    distance, judged = misfit(x, sd, fit, _JUDGED_FROM * fit.g1, _JUDGED_TO * fit.ratio * fit.g1)
    if fit is not even or distance * np.sqrt(judged) > _CLOSE:
        _refuse_two_populations(data, even, fit, two_clones(data, even))
    _refuse_misfit(distance, judged)
    _refuse_rivals(data, even, fit, richer)
    posterior = np.full((values.size, len(_CLASSES)), np.nan)
    of_phases = in_phases(x, sd, fit)
    posterior[usable] = np.column_stack([of_phases, 1 - of_phases.sum(1)])
    fractions = dict(zip(_PHASES, (shares / shares.sum()).tolist(), strict=True))
    other = 1 - float(shares.sum())
    return CellCycle(fit.g1, fit.ratio, fit.cv, fractions, other, posterior, int(x.size), fit.s_above, fit)


def _chosen(data: Data, even: Fit, richer: tuple[Fit, ...]) -> Fit:
    """Return the fit with even S, unless another is clearly better; one that a bound has stopped only if all are."""
    n = float(data.count.sum())
    free = [fit for fit in (even, *richer) if not _at_bound(fit)] or [even]
    best = min(free, key=lambda fit: fit.bic(n))
    return even if even in free and best.bic(n) > even.bic(n) - _CLEARLY else best


def _refuse_one_peak(data: Data, best: Fit) -> None:
    n = float(data.count.sum())
    if one_peak(data).bic(n) < best.bic(n) - np.log(n):
        raise NoFitError("the intensities show one peak only: there is no split into G1 and G2")
    g1, _, g2 = best.phases / best.phases.sum()
    if best.model.s_bands > 1 and min(g1, g2) < _LEAST_PEAK:
        missing = "G2 peak near 2 times the first" if g2 < g1 else "G1 peak near half of the highest"
        raise NoFitError(f"S cells are not spread evenly, and there is no {missing}: there is no split into G1 and G2")


def _at_bound(fit: Fit) -> bool:
    ratio = (fit.ratio - LEAST_RATIO) / (MOST_RATIO - LEAST_RATIO)
    return not _AT_BOUND < ratio < 1 - _AT_BOUND


def _refuse_bounds(fit: Fit) -> None:
    if _at_bound(fit):
        allowed = f"allowed: {LEAST_RATIO:g} to {MOST_RATIO:g}"
        raise NoFitError(f"the second peak would lie at {fit.ratio:.2f} times the first ({allowed}): no G1 and G2")
    if fit.cv > MOST_CV - _AT_BOUND * (MOST_CV - LEAST_CV):
        raise NoFitError(f"the peaks are wider than {MOST_CV:.0%}: there is no split into G1 and G2")


def _refuse_two_populations(data: Data, even: Fit, fit: Fit, two: Fit) -> None:
    """Refuse a fit where a second clone is clearly there, or may be and would lie elsewhere."""
    n = float(data.count.sum())
    g1, _, g2 = two.clone / (two.phases.sum() + two.clone.sum())
    peaks = f"at {two.dna_index:.1f} and {two.dna_index * two.ratio:.1f} times the DNA of G1"
    clear = two.bic(n) < fit.bic(n) - _CLEARLY and 2 * (fit.cost - two.cost) > _GAIN_PER_NUCLEUS * n
    if clear and (fit is not even or g1 > _CLONE_SEEN or _differ(fit, two, _SAME_SHARE_OF_TWO)):
        what = "doublets, or two populations" if g2 > g1 else "two populations"
        raise NoFitError(f"the intensities show {what}: there are more peaks, {peaks}")
    if fit is even:
        likely = 2 * (even.cost - two.cost) > _GAIN_OF_CLONE and _differ(fit, two, np.inf)
    else:
        likely = two.bic(n) < fit.bic(n) + _CLEARLY and _differ(fit, two)
    if likely:
        uneven = "S cells that are not spread evenly, or " if fit.model.s_bands > 1 else ""
        raise NoFitError(f"the intensities show {uneven}two populations, with more peaks {peaks}: which is not clear")


def _refuse_misfit(distance: float, judged: int) -> None:
    if distance > max(_MISFIT, _MISFIT_BY_CHANCE / np.sqrt(judged)):
        raise NoFitError(
            f"the intensities do not follow a cell cycle: {distance:.0%} of the nuclei near the peaks and between them "
            "are not where the best fit has them"
        )


def _refuse_rivals(data: Data, even: Fit, fit: Fit, richer: tuple[Fit, ...]) -> None:
    """Refuse a fit if another that may be as true has other shares, or another G1."""
    n = float(data.count.sum())
    for rival, gain in zip(richer, (_GAIN_OF_G2_CV, _GAIN_OF_BANDS), strict=True):
        likely = 2 * (even.cost - rival.cost) > gain if fit is even else rival.bic(n) < fit.bic(n) + _CLEARLY
        if likely and _differ(fit, rival):
            raise NoFitError(
                "S and G2 cannot be told apart: S cells may not be spread evenly, or the G2 peak may have another width, "
                "which is not clear from the intensities"
            )


def _differ(one: Fit, other: Fit, same_share: float = _SAME_SHARE) -> bool:
    shares = [fit.phases / fit.phases.sum() for fit in (one, other)]
    return bool(np.abs(shares[0] - shares[1]).max() > same_share or abs(np.log(one.g1 / other.g1)) > _SAME_G1)
