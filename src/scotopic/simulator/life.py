"""How nuclei of the synthetic specimen move, grow and divide: from the random numbers of a moment to those of a later one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scotopic.protocol import SyntheticSpecimenSettings

X, Y, PHASE, PROGRESS = 0, 1, 4, 5
"""Columns of the random numbers: place (um), phase, and progress of S."""
_SHAPE = slice(6, None)
"""Columns that say what a nucleus looks like."""
_PERIODS_H = (7.0, 13.0, 31.0)
"""Wandering is a sum of oscillations: where a nucleus is at any time follows from its random numbers alone."""
_APART, _APART_H = 0.55, 1.0
"""Daughters part to this share of a G1 diameter each way, within about an hour."""
REACH_UM = 70.0
"""No nucleus is farther from where its first ancestor was."""


def later(draws: NDArray[np.float64], hours: float, settings: SyntheticSpecimenSettings) -> NDArray[np.float64]:
    """Return the random numbers of the nuclei that these have become.

    The phase of a nucleus is the share of its cycle that is over, read backwards from 1 (early G1) to the share of dim nuclei
    (end of mitosis): phases last in proportion to their share of cells. Dim nuclei are dead, and stay as they are. At 0 hours
    nothing changes.

    Parameters
    ----------
    draws : NDArray, shape (n, columns)
        Random numbers of nuclei, x and y in micrometres first.
    hours : float
        Time that has gone by.
    settings : SyntheticSpecimenSettings
        Shares of phases, and life.

    Returns
    -------
    NDArray, shape (m, columns)
        m is larger than n by the divisions that there were.
    """
    life = settings.life
    if life is None or hours == 0 or not len(draws):
        return draws
    dead = draws[:, PHASE] < settings.dim_fraction
    living = draws[~dead].copy()
    first = living.copy()
    cycle_h = life.cycle_h * (0.9 + 0.2 * _another(living, 0))
    age = (1 - living[:, PHASE]) / (1 - settings.dim_fraction) + hours / cycle_h
    _wander(living, hours, life.wander_um)
    while (divides := age >= 1).any():
        living, age, cycle_h, first = _divided(living, age, cycle_h, first, divides, settings)
    living[:, PHASE] = 1 - age * (1 - settings.dim_fraction)
    _replicate(living, first, settings)
    return np.concatenate([draws[dead], living])


def _divided(
    living: NDArray[Any],
    age: NDArray[Any],
    cycle_h: NDArray[Any],
    first: NDArray[Any],
    divides: NDArray[np.bool_],
    settings: SyntheticSpecimenSettings,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Replace the cells that divide by their daughters, which lie on both sides of them and look like themselves only."""
    mothers, since_h = living[divides], (age[divides] - 1) * cycle_h[divides]
    angle = 2 * np.pi * _another(mothers, 1)
    apart = _APART * settings.g1_diameter_um * (1 - np.exp(-since_h / _APART_H)) + 0.2 * settings.g1_diameter_um
    parts = [(living[~divides], age[~divides], cycle_h[~divides], first[~divides])]
    for side in (1, -1):
        daughters = mothers.copy()
        daughters[:, X] += side * apart * np.cos(angle)
        daughters[:, Y] += side * apart * np.sin(angle)
        daughters[:, _SHAPE] = (mothers[:, _SHAPE] * 9973.7 + side * 0.371 + 1) % 1
        born = daughters.copy()
        born[:, PHASE] = 1
        parts.append((daughters, age[divides] - 1, cycle_h[divides], born))
    together = [np.concatenate(each) for each in zip(*parts, strict=True)]
    return together[0], together[1], together[2], together[3]


def _replicate(living: NDArray[Any], first: NDArray[Any], settings: SyntheticSpecimenSettings) -> None:
    """Let DNA grow through S; those that were in S in the beginning go on from what they had."""
    end = settings.dim_fraction + settings.mitotic_fraction + settings.g2_fraction
    share = max(settings.s_fraction, 1e-9)
    progress, before = ((end + share - each[:, PHASE]) / share for each in (living, first))
    in_s, was_in_s = ((each > 0) & (each < 1) for each in (progress, before))
    rest = (1 - progress) / np.maximum(1 - before, 1e-9)
    grown = np.where(was_in_s & (before <= progress), 1 - (1 - first[:, PROGRESS]) * rest, progress)
    living[in_s, PROGRESS] = np.clip(grown[in_s], 0, 1)


def _wander(living: NDArray[Any], hours: float, wander_um: float) -> None:
    for axis in (X, Y):
        for number, period_h in enumerate(_PERIODS_H):
            start = 2 * np.pi * _another(living, 2 + 3 * axis + number)
            # Twice the variance of one sine: it starts at the nucleus' place, not at its middle.
            amplitude = wander_um / np.sqrt(len(_PERIODS_H))
            living[:, axis] += amplitude * (np.sin(2 * np.pi * hours / period_h + start) - np.sin(start))


def _another(draws: NDArray[Any], number: int) -> NDArray[np.float64]:
    """Return a further random number of each nucleus, uniform from 0 to 1: digits of the others that nothing else uses."""
    columns = draws.shape[1] - 6
    mixed: NDArray[np.float64] = (
        draws[:, 6 + number % columns] * 8191.31 + draws[:, 6 + (number + 5) % columns] * 127.1
    ) % 1
    return mixed
