"""What light a source really gives: against its power, against exposure, and over time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scotopic.photons.photon_transfer import CannotTellError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_DARK = 0.002
"""Relative power that is none."""
_RELIABLE = 0.05
"""Largest spread of repeats, relative, at which a power is of use."""
_MOST_BLEACHED = 0.2
_SETTLED = 0.01
_FLICKER, _DARK_COUNTS = 0.003, 0.1
"""Error of the mean signal of an image: a share of it, and that of darkness in counts."""


@dataclass(frozen=True)
class Shot:
    """One measured exposure, in the order of time."""

    led_percent: float
    exposure_ms: float
    signal: float
    """Mean counts above darkness."""


@dataclass(frozen=True)
class LightFigures:
    """What was found of a light source; `error` has the standard error of each by its name."""

    response: tuple[tuple[float, float, float], ...]
    """(LED percent, light relative to that at 100 %, standard error), by rising power, the last at 100 %."""
    dead_percent: float
    """Largest power measured that gives no light; 0 where each gives some."""
    least_percent: float
    """Least power measured from which on repeats agree within 5 %."""
    lag_ms: float
    """Time at the beginning of an exposure without light."""
    settle_ms: float | None
    """Least wait measured after a new power from which on the light is within 1 % of that after the longest; nothing where it was not measured."""
    drift_percent: float
    """Change of the light from the first to the last exposure: bleaching and warming up, taken out of all figures."""
    stability_percent: float
    """Spread of the repeats of full power, without the drift."""
    linearity_percent: float
    """Largest deviation of the signal over exposure from a straight line."""
    error: dict[str, float] = field(default_factory=dict)


def light_figures(
    by_power: Sequence[Shot], by_exposure: Sequence[Shot], settling: Sequence[tuple[float, float]] = ()
) -> LightFigures:
    """Find the response of a light from exposures in random order, with full power again and again between them.

    Parameters
    ----------
    by_power : sequence of Shot
        At one exposure, several powers with repeats, in the order of time; full power (100 %) at the beginning, at the end and between.
    by_exposure : sequence of Shot
        At one power, several exposures with repeats.
    settling : sequence of (float, float)
        Time waited after a new power in milliseconds, and the signal of a short exposure then; with repeats.

    Raises
    ------
    CannotTellError
        If full power gives no light or fades too much.
    """
    signal = np.array([shot.signal for shot in by_power])
    percent = np.array([shot.led_percent for shot in by_power])
    when = np.arange(len(signal), dtype=float)
    full = percent == 100
    if full.sum() < 3 or not (signal[full] > 0).all():
        raise CannotTellError(
            "full power gives no light: is the light path open, and something fluorescent under the objective?"
        )
    fading = np.polynomial.Polynomial.fit(when[full], np.log(signal[full]), 2 if full.sum() > 5 else 1)
    at_full = np.exp(fading(when))
    drift = float(at_full[-1] / at_full[0] - 1)
    if abs(drift) > _MOST_BLEACHED:
        raise CannotTellError(
            f"the light changed by {drift:+.0%} meanwhile (allowed: {_MOST_BLEACHED:.0%}): a slide that bleaches less, or less light, is needed"
        )
    relative = signal / at_full
    response = []
    for each in np.unique(percent):
        some = relative[percent == each]
        response.append((float(each), float(some.mean()), _standard_error(some)))
    top = response[-1][1]
    response = [(each, value / top, error / top) for each, value, error in response]
    dead = max((each for each, value, _ in response if value < _DARK), default=0.0)
    reliable = [each for each, value, error in response if value >= _DARK and error * np.sqrt(3) <= _RELIABLE * value]
    lag, lag_error, off_line = _lag(by_exposure)
    return LightFigures(
        response=tuple(response),
        dead_percent=dead,
        least_percent=min(reliable, default=100.0),
        lag_ms=lag,
        settle_ms=_settled(settling),
        drift_percent=100 * drift,
        stability_percent=100 * float(np.std(relative[full], ddof=1)),
        linearity_percent=off_line,
        error={"lag_ms": lag_error},
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / np.sqrt(values.size)) if values.size > 1 else float("nan")


def _settled(settling: Sequence[tuple[float, float]]) -> float | None:
    if not settling:
        return None
    waits = sorted({wait for wait, _ in settling})
    means = [float(np.mean([signal for each, signal in settling if each == wait])) for wait in waits]
    late = [abs(mean / means[-1] - 1) > _SETTLED for mean in means]
    return waits[max((n for n, is_late in enumerate(late) if is_late), default=-1) + 1]


def _lag(shots: Sequence[Shot]) -> tuple[float, float, float]:
    """Return where the line of signal over exposure meets zero, its standard error, and the largest deviation from it in percent."""
    exposure = np.array([shot.exposure_ms for shot in shots])
    signal = np.array([shot.signal for shot in shots])
    error = np.hypot(_FLICKER * signal, _DARK_COUNTS)
    lit = signal > 5 * _DARK_COUNTS
    if np.unique(exposure[lit]).size < 3:
        return 0.0, float("nan"), float("nan")
    exposure, signal, error = exposure[lit], signal[lit], error[lit]
    # Errors are in proportion to the signal (the light's), so that short exposures say where zero is. What bleaches meanwhile
    # lowers the slope, in proportion to what was taken before.
    before = np.arange(shots_taken := len(shots), dtype=float)[lit] / shots_taken
    terms = np.column_stack([exposure, np.ones_like(exposure), exposure * before]) / error[:, None]
    (slope, start, fading), *_ = np.linalg.lstsq(terms, signal / error, rcond=None)
    residual = terms @ np.array([slope, start, fading]) - signal / error
    off = residual * error / signal
    covariance = np.linalg.inv(terms.T @ terms) * max(float((residual**2).sum()) / max(off.size - 3, 1), 1.0)
    lag = -start / slope
    gradient = np.array([start / slope**2, -1 / slope, 0.0])
    return float(max(lag, 0.0)), float(np.sqrt(gradient @ covariance @ gradient)), float(100 * np.abs(off).max())
