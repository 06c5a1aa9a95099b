"""How low the light may go, for each purpose: the lowest level whose errors lie within the purpose's tolerances, for sure.

Called by `validation`. Says no more than the evidence bears: a network that has not learned, wells without nuclei, too few
wells or too few sites are outcomes of their own, and none of them is a finding about the sample.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from scotopic.protocol import LEAST_WELLS, full_light_ms, rounded, setting_for
from scotopic.report.schema import Doubt, Judgement, Learned, Purpose, Recommendation

if TYPE_CHECKING:
    from collections.abc import Callable

    from scotopic.protocol import LightSetting, Tolerances
    from scotopic.report.findings import Findings, HeldOutSites
    from scotopic.report.intervals import Estimate
    from scotopic.report.rows import Comparisons
    from scotopic.report.schema import Judged, Level, Outcome

_BETWEEN = 2
"""Doses that are tried between the lowest level within and the next one, each halfway on the logarithm."""
_LEAST_SHARE_OF_SITES = 0.5
"""Sites that are left out may be the ones that fail: what is said of fewer than half of them says nothing of all."""


def judge(errors: dict[Judged, Estimate], tolerances: Tolerances, confidence: float) -> tuple[Any, tuple[Doubt, ...]]:
    """Return whether errors lie within tolerances, `within`, `beyond` or `undecided`, and what does not.

    An error is beyond its tolerance when its value is, and undecided when its interval alone is, or there is none.
    """
    doubts = [
        doubt
        for figure, error in errors.items()
        if (tolerance := getattr(tolerances, figure)) is not None
        and (doubt := _doubt(figure, error, tolerance, confidence)) is not None
    ]
    beyond = [doubt for doubt in doubts if doubt.kind == "beyond"]
    verdict = "beyond" if beyond else "undecided" if doubts else "within"
    return verdict, tuple(sorted(doubts, key=lambda doubt: doubt.kind != "beyond"))


def _doubt(figure: Judged, error: Estimate, tolerance: float, confidence: float) -> Doubt | None:
    interval = error.interval(confidence)
    about: dict[str, Any] = {"figure": figure, "tolerance": tolerance, "value": error.value, "interval": interval}
    if error.value is None:
        return Doubt(kind="unknown", **about)
    if abs(error.value) > tolerance:
        return Doubt(kind="beyond", **about)
    if interval is not None and max(map(abs, interval)) <= tolerance:
        return None
    about["enough_wells"] = error.enough_wells(tolerance, confidence)
    return Doubt(kind="interval" if interval is not None else "no interval", **about)


def has_learned(comparisons: Comparisons, own: list[Level], least_f1: float, card: dict[str, Any]) -> Learned:
    """Return whether the network has learned, by its agreement with the reference masks of the held-out wells.

    Parameters
    ----------
    own : list of Level
        The network's rows, by falling light.
    card : dict
        The model's card.
    """
    there = own[1].name if len(own) > 1 else own[0].name
    has_classical = ("classical", there) in comparisons.rows and len(own) > 1
    return Learned(
        f1=comparisons.f1(("network", own[0].name), "reference"),
        least_f1=least_f1,
        wells="held-out",
        classical_f1=comparisons.f1(("classical", there), "reference") if has_classical else None,
        f1_there=comparisons.f1(("network", there), "reference") if has_classical else None,
        steps=card.get("steps"),
    )


class Recommender:
    """Judges levels for every purpose; doses between two levels are looked at once, whichever purpose asks."""

    def __init__(
        self,
        sites: HeldOutSites,
        findings: Findings,
        comparisons: Comparisons,
        measured: list[Level],
        find_thinned: Callable[[str, float], None],
    ) -> None:
        """Take in what is known.

        Parameters
        ----------
        measured : list of Level
            The network's rows, by falling light, the reference first.
        find_thinned : callable
            Adds to the findings what the network sees at a dose, under a name: in bright images with their photons thinned.
        """
        self._sites, self._findings, self._comparisons = sites, findings, comparisons
        self._find_thinned = find_thinned
        enough = _LEAST_SHARE_OF_SITES * len(sites.frames)
        self._measured = [
            level for level in measured if level is measured[0] or comparisons.sites(("network", level.name)) >= enough
        ]
        """Levels that are judged: those of half of the sites at least."""
        self._settings: dict[str, LightSetting] = {}
        self.thinned: dict[str, Level] = {}
        """Rows of the doses between, by name."""

    def recommend(self, learned: Learned) -> Recommendation:
        """Return the verdict for every purpose."""
        validation = self._sites.protocol.validation
        nothing = self._nothing_to_say(learned)
        return Recommendation(
            purpose=validation.purpose,
            confidence=validation.confidence,
            learned=learned,
            purposes={
                name: Purpose(outcome=nothing, tolerances=tolerances.model_dump())
                if nothing
                else self._for(tolerances, validation.confidence)
                for name, tolerances in validation.by_purpose.items()
            },
        )

    def _nothing_to_say(self, learned: Learned) -> Outcome | None:
        if learned.f1 is None:
            return "no nuclei"
        if not learned.is_enough:
            return "not learned"
        if len(self._measured) < 2:
            return "no reduced level"
        if len(self._sites.frames) < _LEAST_SHARE_OF_SITES * self._sites.planned:
            return "too few sites"
        return None

    def _for(self, tolerances: Tolerances, confidence: float) -> Purpose:
        """Go down with the light until a level is not within tolerance, then look between the last two."""
        judgements: list[Judgement] = []
        lowest: Level | None = None
        darker: Level | None = None
        for level in self._measured[1:]:
            judgements.append(self._judged(level, tolerances, confidence))
            if judgements[-1].verdict != "within":
                darker = level
                break
            lowest = level
        if lowest is not None and darker is not None:
            high, low = lowest, darker
            for _ in range(_BETWEEN):
                between = self._between(high, low, darker)
                if between is None:
                    break
                judgements.append(self._judged(between, tolerances, confidence))
                high, low = (between, low) if judgements[-1].verdict == "within" else (high, between)
            lowest = high
        judgements.sort(key=lambda each: -each.relative_dose)
        enough = self._enough(judgements)
        return Purpose(
            outcome=self._outcome(judgements, lowest),
            tolerances=tolerances.model_dump(),
            judgements=tuple(judgements),
            **(self._recommended(lowest) if lowest else {}),
            enough_wells=enough,
            enough_nuclei=enough and round(enough * self._comparisons.count(self._full) / max(self._wells, 1)),
        )

    @property
    def _full(self) -> tuple[Any, str]:
        return "network", self._measured[0].name

    def _outcome(self, judgements: list[Judgement], lowest: Level | None) -> Outcome:
        if lowest is not None:
            return "level"
        if judgements and judgements[0].verdict == "beyond":
            return "none"
        return "too few wells" if self._wells < LEAST_WELLS else "too few nuclei"

    @property
    def _wells(self) -> int:
        """Number of wells with nuclei."""
        return self._comparisons.wells_with_nuclei(self._full)

    def _enough(self, judgements: list[Judgement]) -> int | None:
        """Return how many wells would probably decide the first level that is undecided; nothing where that is not known."""
        undecided = next((each for each in judgements if each.verdict == "undecided"), None)
        if undecided is None:
            return None
        wells = [doubt.enough_wells for doubt in undecided.doubts]
        return max(each for each in wells if each is not None) if wells and None not in wells else None

    def _judged(self, level: Level, tolerances: Tolerances, confidence: float) -> Judgement:
        errors = self._comparisons.errors(("network", level.name))
        verdict, doubts = judge(errors, tolerances, confidence)
        about = {"name": level.name, "relative_dose": level.relative_dose, "measured": level.measured}
        return Judgement(**about, verdict=verdict, doubts=doubts)

    def _between(self, high: Level, low: Level, darker: Level) -> Level | None:
        """Return the row of the dose between two; nothing where the microscope has no setting for it."""
        protocol, profile = self._sites.protocol, self._sites.profile
        dose = math.sqrt(high.relative_dose * low.relative_dose)
        name = f"{rounded(100 * dose)}%"
        if name in {level.name for level in protocol.light_levels}:
            name = f"{100 * dose:.6g}% between"
        if name not in self.thinned:
            wanted_ms = dose * full_light_ms(protocol, profile, protocol.reference)
            setting = setting_for(profile, protocol.channel, wanted_ms, protocol.level(darker.name).exposure_ms)
            if setting is None:
                return None
            self._settings[name] = setting
            self._find_thinned(name, dose)
            self._comparisons.add(self._findings, [("network", name)])
            self.thinned[name] = self._comparisons.level(
                ("network", name),
                relative_dose=dose,
                sample_dose=profile.sample_ms(protocol.channel, setting.exposure_ms, setting.led_percent),
                measured=False,
            )
        return self.thinned[name]

    def _recommended(self, best: Level) -> dict[str, Any]:
        """Return a level's setting, and the light and time that it saves, as factors."""
        profile, reference = self._sites.profile, self._sites.protocol.reference
        setting = self._sites.protocol.level(best.name) if best.measured else self._settings[best.name]
        readout = profile.camera.readout_ms + profile.gating.overhead_ms
        return {
            "level": best.name,
            "relative_dose": best.relative_dose,
            "exposure_ms": setting.exposure_ms,
            "led_percent": setting.led_percent,
            "light_saving_factor": self._measured[0].sample_dose / best.sample_dose if best.sample_dose else None,
            "time_saving_factor": (reference.exposure_ms + readout) / (setting.exposure_ms + readout),
        }
