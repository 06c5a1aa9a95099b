"""What is decided on what was seen. Pure functions: what is known goes in, a decision comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scotopic.microscope.director import Decision

if TYPE_CHECKING:
    from scotopic.protocol import LightLevel, Rules
    from scotopic.store import LiveRecord


def decide(
    rules: Rules, level: LightLevel, planned: Decision, seen: LiveRecord, *, is_sentinel: bool, retaken: int
) -> Decision:
    """Decide on an image of a site, by what the network saw in the one before.

    Parameters
    ----------
    rules : Rules
        Of the protocol.
    level : LightLevel
        Level that is due.
    planned : Decision
        What happens if no rule says anything.
    seen : LiveRecord
        What was found in the last dark image of this visit.
    is_sentinel : bool
        The site is a sentinel: its reference image is always taken, or a network that sees nothing would never be found out.
    retaken : int
        How often the site was taken anew already.
    """
    if seen.reason and retaken < rules.retakes:
        return Decision(False, f"{seen.level} is not plausible: {seen.reason}", anew=True)
    if is_sentinel and level.role == "reference":
        return planned
    if rules.least_nuclei is not None and seen.nuclei is not None and seen.nuclei < rules.least_nuclei:
        return Decision(False, f"{seen.nuclei} nuclei at {seen.level}, fewer than {rules.least_nuclei}")
    unsure = rules.least_confidence is not None and (seen.confidence or 1) < rules.least_confidence
    if level.taken == "when_unsure" and unsure:
        return Decision(True, f"confidence {seen.confidence:.2f} at {seen.level}, less than {rules.least_confidence:g}")
    return planned


def enough(rules: Rules, well: str, found: int) -> str:
    """Return why a well gets no further site; empty if it does."""
    if rules.enough_nuclei is None or found < rules.enough_nuclei:
        return ""
    return f"{well} has {found} nuclei, {rules.enough_nuclei} are enough"
