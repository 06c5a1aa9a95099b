"""What the images of a site say of its light: a LED that only echoes what it is asked is found out here."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import numpy as np

from scotopic.photons import DoseRatio, FrozenModel, Verdict, dose_ratio, image_shift, is_dark, pooled

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from scotopic.photons import CameraNoise
    from scotopic.store.ledger import FrameRecord

FrameKey = tuple[str, int, int, str]
"""Well, site, time point and light level."""


class LightCheck(FrozenModel):
    """What the images of a site say of one dim level, beside the reference level; or of that one, where it has no light."""

    well: str
    """Well."""
    site: int
    """Number of the site in its well."""
    t: int
    """Time point."""
    attempt: int
    """Visit."""
    level: str
    """Light level."""
    expected: float | None
    """Light relative to the reference's by exposure and LED power, as read back; nothing without a reference image that has light."""
    ratio: float | None
    """Light relative to the reference's in the images; nothing where there is nothing to see."""
    error: float | None
    """Standard error of the ratio."""
    verdict: Verdict
    """Of this site alone. `wrong` sites are never trained on; `undetermined` ones are judged by their well."""
    shift_px: tuple[float, float] | None = None
    """How far the dim image lies from the reference image (y, x); nothing where there is too little to see."""

    def told(self) -> str:
        """Return in words what the images show."""
        if self.ratio is None or self.expected is None:
            return "the image is dark: does the lamp live, and does its light reach the sample?"
        return f"the images show {self.ratio:.2g} of the reference's light, {self.expected:.2g} was asked for"


def check_light(
    records: Iterable[FrameRecord], images: Mapping[str, NDArray[Any]], reference: str, noise: CameraNoise
) -> list[LightCheck]:
    """Compare the dim images of one site with its reference image; say so if that is as dark as they are, for then nothing is proved.

    Parameters
    ----------
    records : iterable of FrameRecord
        Ledger lines of the images, with the doses that were asked for and read back.
    images : mapping of light level to NDArray, shape (Y, X), uint16
        Counts, of the first plane.
    reference : str
        Name of the reference level. Without its image all others are undetermined, whatever their well shows.
    noise : CameraNoise
        The camera.
    """
    by_level = {r.level: r for r in records if r.level in images}
    dim = sorted((level for level in by_level if level != reference), key=lambda level: by_level[level].signal_dose_ms)
    is_lit = reference in by_level and not (
        dim and all(is_dark(images[reference], images[level], noise) for level in dim)
    )
    checks = []
    for level, record in by_level.items():
        if level == reference and is_lit:
            continue
        check = LightCheck(
            well=record.well,
            site=record.site,
            t=record.t,
            attempt=record.attempt,
            level=level,
            expected=None,
            ratio=None,
            error=None,
            verdict="wrong" if level == reference else "undetermined",
        )
        if is_lit:
            expected = record.relative_to(by_level[reference])
            found = dose_ratio(images[level], images[reference], noise)
            seen: dict[str, Any] = {"expected": expected, "verdict": found.verdict(expected)}
            if np.isfinite(found.error):
                seen |= {"ratio": found.ratio, "error": found.error}
            if found.ratio > 10 * found.error:
                seen["shift_px"] = image_shift(images[level], images[reference])
            check = check.model_copy(update=seen)
        checks.append(check)
    return checks


def light_verdicts(
    checks: Iterable[LightCheck], finished: Mapping[tuple[str, int, int], int]
) -> dict[FrameKey, Verdict]:
    """Return the verdict on each dim frame; those that a site cannot give are taken from its whole well.

    Parameters
    ----------
    checks : iterable of LightCheck
        All lines of `light.jsonl`.
    finished : mapping of (well, site, t) to attempt
        The visits that count (`finished_sites`).
    """
    current = [c for c in checks if finished.get((c.well, c.site, c.t)) == c.attempt]
    wells: dict[tuple[str, int, str], list[LightCheck]] = defaultdict(list)
    for check in current:
        wells[check.well, check.t, check.level].append(check)
    verdicts: dict[FrameKey, Verdict] = {}
    for check in current:
        verdict = check.verdict
        if verdict == "undetermined" and check.expected is not None:
            together = wells[check.well, check.t, check.level]
            ratios = (DoseRatio(c.ratio, c.error) for c in together if c.ratio is not None and c.error is not None)
            verdict = pooled(ratios).verdict(check.expected)
        verdicts[check.well, check.site, check.t, check.level] = verdict
    return verdicts
