"""The report in sentences: the only place that turns outcomes, reasons and counts into English."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.protocol import rounded
from scotopic.report.figures import SIGNLESS, is_stained, network_rows, partner_of

if TYPE_CHECKING:
    from scotopic.report.schema import Doubt, Judgement, LeftOut, Purpose, Report

PURPOSES = {
    "count": "counting nuclei",
    "cell_cycle": "cell-cycle shares",
    "each_nucleus": "single nuclei (tracking, intensity of each)",
}
"""What the built-in purposes are for; one of a protocol's own goes by its name."""
FIGURES = {
    "count_percent": ("count", "%"),
    "missed_percent": ("missed nuclei", "%"),
    "false_percent": ("false nuclei", "%"),
    "g2_points": ("G2", "points"),
    "area_percent": ("median area", "%"),
    "intensity_percent": ("mean intensity", "%"),
    "dna_percent": ("DNA of the same nuclei", "%"),
    "dna_spread_percent": ("spread of DNA of each nucleus", "%"),
}
"""Tolerance -> its name and its unit."""
_LEFT_OUT: dict[LeftOut, str] = {
    "learned from": "in wells that the network has learned from",
    "not acquired": "not acquired",
    "wrong light": "with wrong light",
    "skipped image": "with a skipped image",
    "no full-light image": "without a full-light image",
    "no masks": "without reference masks",
}
_LEAST_MINUTES = 12.0
"""Training that is suggested at least."""


def purpose_name(purpose: str) -> str:
    """Return what a purpose is for, in words."""
    return PURPOSES.get(purpose, purpose)


def verdict(report: Report, run: str = "RUN") -> str:
    """Return the report in two or three sentences, the answer first.

    Parameters
    ----------
    run : str
        The run's folder, for a command to copy.
    """
    rows = [row for row in network_rows(report) if row.measured]
    answer = _answer(report, run)
    if not rows:
        return answer or "No verdict: " + ("; ".join(report.missing) or "nothing was found") + "."
    partner = partner_of(report)
    scores = [
        f"{value:.3f} at {row.name}"
        for row in rows
        if partner in row.against and (value := row.against[partner].f1_at_0_5.value) is not None
    ]
    if not scores:
        return answer
    against = "the truth" if partner == "truth" else "the reference masks"
    found = f"On {_wells(report)} the network finds nuclei with an F1 against {against} of {', '.join(scores)}"
    if not is_stained(report, rows[0]):
        return f"{answer} {found}, in images of {rows[0].channel}, without any stain.".strip()
    return f"{answer} {found} of the light."


def judged_sites(report: Report) -> str:
    """Return how many of the held-out sites were judged and why the others were not; empty if all were."""
    if not report.left_out:
        return ""
    why = ", ".join(f"{count} {_LEFT_OUT[reason]}" for reason, count in report.left_out.items())
    return f"Judged on {report.sites} of {report.planned_sites} sites of the held-out wells; left out: {why}."


def doubt_words(doubt: Doubt) -> str:
    """Return why a figure is not within its tolerance."""
    name, unit = FIGURES[doubt.figure]
    form = ".2g" if doubt.figure in SIGNLESS else "+.2g"
    if doubt.kind == "unknown":
        return f"{name}: not known"
    if doubt.kind == "beyond":
        return f"{name} {doubt.value:{form}} {unit}, beyond {doubt.tolerance:g}"
    if doubt.interval is None:
        return f"{name} {doubt.value:{form}} {unit}, without an interval: too few wells"
    low, high = doubt.interval
    return f"{name} {low:{form}} to {high:{form}} {unit}, allowed {doubt.tolerance:g}"


def judgement_words(judgement: Judgement) -> str:
    """Return why a level was judged as it was."""
    return "; ".join(map(doubt_words, judgement.doubts)) or "all figures"


def purpose_words(purpose: Purpose) -> str:
    """Return in a few words what came out for a purpose, where no level did."""
    first = purpose.judgements[0] if purpose.judgements else None
    why = f" ({first.name}: {judgement_words(first)})" if first and first.doubts else ""
    enough = (
        f"; by their spread, about {purpose.enough_wells} wells with {purpose.enough_nuclei:,} nuclei would be enough"
        if purpose.enough_wells and purpose.enough_nuclei
        else ""
    )
    words = {
        "level": "",
        "none": f"No lower light can be recommended{why}.",
        "too few nuclei": f"There are too few nuclei or wells to tell{why}{enough}.",
        "too few wells": f"There are too few held-out wells to tell: at least three are needed, for one or two show no spread{enough}.",
        "too few sites": "Fewer than half of the held-out sites could be judged, so no light is recommended.",
        "no nuclei": "There are no nuclei in the held-out wells, so nothing was judged: hold out wells with cells.",
        "no reduced level": "No reduced light level could be judged: there are too few of its images, or their light is wrong.",
        "not learned": "The network has not learned yet, so nothing can be said of low light.",
    }
    return words[purpose.outcome]


def _answer(report: Report, run: str) -> str:
    """Return how low the light may go, in a sentence."""
    recommendation = report.recommendation
    if recommendation is None:
        return "" if not report.levels or not network_rows(report) else _without_a_judgement(report)
    purpose = recommendation.headline
    if purpose.outcome == "not learned":
        run = f'"{run}"' if " " in run else run
        return f"{_not_learned(report)} Train longer: `scotopic train {run} --minutes {_minutes(report):.0f} --again`, then `scotopic validate {run}`."
    if purpose.outcome != "level":
        return purpose_words(purpose)
    best = next(each for each in purpose.judgements if each.name == purpose.level)
    between = "" if best.measured else ", a level between those measured (its images were made of the bright ones)"
    saved = f": {rounded(purpose.light_saving_factor)} times less light" if purpose.light_saving_factor else ""
    time = f", {rounded(purpose.time_saving_factor)} times faster" if purpose.time_saving_factor else ""
    return f"For {purpose_name(recommendation.purpose)} the light may go down to {purpose.level}{between}{saved}{time}."


def _without_a_judgement(report: Report) -> str:
    is_label_free = not is_stained(report, network_rows(report)[0])
    return "" if is_label_free else "How low the light may go is not known."


def _not_learned(report: Report) -> str:
    if report.recommendation is None:
        return ""
    learned = report.recommendation.learned
    if learned.f1 is None:
        return f"The network has not learned yet: the {learned.wells} wells have no nuclei to check it on."
    steps = f" after {learned.steps:,} steps" if learned.steps else ""
    where = f"the reference masks of the {learned.wells} wells"
    if learned.classical_f1 is None or learned.f1 < learned.least_f1:
        why = f"at full light its F1 against {where} is {learned.f1:.2f} (at least {learned.least_f1:g} is needed)"
    else:
        why = f"its F1 against {where} is {learned.f1_there or 0:.2f} where the classical method has {learned.classical_f1 or 0:.2f}"
    return f"The network has not learned yet{steps}: {why}. Nothing can be said of low light."


def _minutes(report: Report) -> float:
    seconds = report.timing.get("training") or 0.0
    return max(_LEAST_MINUTES, 2 * seconds / 60)


def _wells(report: Report) -> str:
    """Return what the wells are to the network, no more than is known."""
    count = len(report.held_out_wells)
    wells = f"{count} well{'' if count == 1 else 's'}"
    if report.seen == "same_plate":
        return f"{wells} that it never trained on"
    if report.seen == "other_plate":
        return f"{wells} of another plate than it learned from"
    return f"{wells} (it is not known whether it has learned from this plate)"
