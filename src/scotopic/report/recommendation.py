"""How low the light may go: the lowest level whose errors lie within the protocol's tolerances, sure of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from scotopic.protocol import full_light_ms, rounded, setting_for
from scotopic.report.schema import Judgement, Level, Recommendation

if TYPE_CHECKING:
    from collections.abc import Callable

    from scotopic.protocol import ImagingProtocol, ValidationSettings
    from scotopic.protocol.profile import MicroscopeProfile
    from scotopic.report.findings import Findings, HeldOutSites
    from scotopic.report.intervals import Estimate
    from scotopic.report.rows import Comparisons

_BETWEEN = 2
"""Doses that are tried between the lowest level within and the next one, each halfway on the logarithm."""
_NAMES = {
    "count_percent": ("count_deviation_percent", "count", "%"),
    "g2_points": ("g2_deviation_points", "G2", "points"),
    "area_percent": ("median_area_deviation_percent", "median area", "%"),
    "intensity_percent": ("mean_intensity_deviation_percent", "mean intensity", "%"),
}
"""Tolerance -> figure, its name for people, and its unit."""


def judge(errors: dict[str, Estimate], settings: ValidationSettings) -> tuple[str, tuple[str, ...]]:
    """Return whether errors lie within tolerances, `within`, `beyond` or `undecided`, and what does not.

    An error is beyond its tolerance when its value is, and undecided when its interval alone is, or there is none.
    """
    beyond, undecided = [], []
    for name, tolerance in settings.tolerances.model_dump().items():
        key, what, unit = _NAMES[name]
        error = errors[key]
        interval = error.interval(settings.confidence)
        if error.value is None:
            undecided.append(f"{what}: not known")
        elif abs(error.value) > tolerance:
            beyond.append(f"{what} {error.value:+.2g} {unit}, beyond {tolerance:g}")
        elif interval is None:
            undecided.append(f"{what} {error.value:+.2g} {unit}, with no interval: one well is not enough")
        elif max(map(abs, interval)) > tolerance:
            undecided.append(f"{what} {interval[0]:+.2g} to {interval[1]:+.2g} {unit}, allowed {tolerance:g}")
    if beyond:
        return "beyond", tuple(beyond + undecided)
    return ("undecided", tuple(undecided)) if undecided else ("within", ())


def recommend(
    sites: HeldOutSites,
    findings: Findings,
    comparisons: Comparisons,
    measured: list[Level],
    find_thinned: Callable[[str, float], None],
) -> tuple[Recommendation, list[Level]]:
    """Go down with the light until a level is not within tolerance, then look between the last two.

    Parameters
    ----------
    measured : list of Level
        The network's rows, by falling light, the reference first.
    find_thinned : callable
        Adds to the findings what the network sees at a dose, under a name: in bright images with their photons thinned.

    Returns
    -------
    (Recommendation, list of Level)
        The second: rows of the doses between.
    """
    settings = sites.protocol.validation
    judgements: list[Judgement] = []
    lowest: Level | None = None
    darker: Level | None = None
    for level in measured[1:]:
        judgements.append(_judged(level, comparisons, settings))
        if judgements[-1].verdict != "within":
            darker = level
            break
        lowest = level
    thinned: list[Level] = []
    if lowest is not None and darker is not None:
        high, low = lowest.relative_dose, darker.relative_dose
        for _ in range(_BETWEEN):
            dose = math.sqrt(high * low)
            name = f"{rounded(100 * dose)}%"
            find_thinned(name, dose)
            comparisons.add(findings, [("network", name)])
            between = comparisons.level(
                ("network", name), relative_dose=dose, sample_dose=_between(dose, lowest, darker), measured=False
            )
            thinned.append(between)
            judgements.append(_judged(between, comparisons, settings))
            high, low = (dose, low) if judgements[-1].verdict == "within" else (high, dose)
    within = [each for each in judgements if each.verdict == "within"]
    recommendation = Recommendation(
        outcome="level"
        if within
        else "none"
        if judgements and judgements[0].verdict == "beyond"
        else "not enough nuclei to tell",
        judgements=tuple(sorted(judgements, key=lambda each: -each.relative_dose)),
        tolerances=settings.tolerances.model_dump(),
        confidence=settings.confidence,
        **(
            _setting(min(within, key=lambda each: each.relative_dose), measured, sites.protocol, sites.profile)
            if within
            else {}
        ),
    )
    return recommendation, thinned


def savings(
    recommendation: Recommendation, levels: list[Level], protocol: ImagingProtocol, profile: MicroscopeProfile
) -> tuple[str | None, float | None, float | None]:
    """Return the recommended level, and light and time saved there, as factors."""
    within = [each for each in recommendation.judgements if each.verdict == "within"]
    if not within or recommendation.exposure_ms is None:
        return None, None, None
    best = min(within, key=lambda each: each.relative_dose)
    rows = {level.name: level for level in levels if level.source == "network"}
    reference = protocol.reference
    readout = profile.camera.readout_ms + profile.gating.overhead_ms
    light = rows[reference.name].sample_dose / rows[best.name].sample_dose if rows[best.name].sample_dose else None
    time = (reference.exposure_ms + readout) / (recommendation.exposure_ms + readout)
    return best.name, light, time


def _judged(level: Level, comparisons: Comparisons, settings: ValidationSettings) -> Judgement:
    verdict, reasons = judge(comparisons.errors(("network", level.name)), settings)
    return Judgement.model_validate(
        {"name": level.name, "relative_dose": level.relative_dose, "measured": level.measured}
        | {"verdict": verdict, "reasons": reasons}
    )


def _between(dose: float, brighter: Level, darker: Level) -> float:
    """Return the light on the sample at a dose between two levels."""
    doses = [math.log(darker.relative_dose), math.log(brighter.relative_dose)]
    light = [math.log(max(level.sample_dose, 1e-12)) for level in (darker, brighter)]
    return float(math.exp(np.interp(math.log(dose), doses, light)))


def _setting(
    best: Judgement, measured: list[Level], protocol: ImagingProtocol, profile: MicroscopeProfile
) -> dict[str, float]:
    """Return exposure and LED power of a level; of one between, near the exposure of the next darker one, by the measured light."""
    levels = {level.name: level for level in protocol.light_levels}
    if best.measured:
        return {"exposure_ms": levels[best.name].exposure_ms, "led_percent": levels[best.name].led_percent}
    darker = next(row.name for row in measured if row.relative_dose < best.relative_dose)
    wanted_ms = best.relative_dose * full_light_ms(protocol, profile, protocol.reference)
    setting = setting_for(profile, protocol.channel, wanted_ms, levels[darker].exposure_ms)
    return {} if setting is None else {"exposure_ms": setting.exposure_ms, "led_percent": setting.led_percent}
