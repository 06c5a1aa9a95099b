"""What was measured of a microscope, and when."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from scotopic.photons import FrozenModel


class Calibration(FrozenModel):
    """What was measured of a microscope, when, and how sure it is."""

    date: str
    """When it was measured, ISO 8601."""
    values: dict[str, float] = Field(default={})
    """What was found, by the names that the values have in this profile or in the record."""
    spread: dict[str, float] = Field(default={})
    """Standard error of each."""
    before: dict[str, float] = Field(default={})
    """What stood in the profile before."""
    record: str
    """Folder of the record, with all figures and a plot, relative to this file."""


class Calibrations(FrozenModel):
    """What `scotopic calibrate` has measured."""

    camera: Calibration | None = None
    """Offset, gain, read noise and saturation of the camera."""
    light: dict[str, Calibration] = Field(default={})
    """Channel -> response of its light to power and exposure."""
    plate: Calibration | None = None
    """Place of a plate on the stage, and its focus plane."""
    illumination: dict[str, Calibration] = Field(default={})
    """Channel -> evenness of its light over the field."""


def when(calibration: Calibration, now: datetime | None) -> str:
    """Return the day on which something was measured, and how long ago that is, if somebody wants to know it now."""
    then = datetime.fromisoformat(calibration.date)
    if now is None:
        return f"{then:%Y-%m-%d}"
    days = (now - then).days
    return f"{then:%Y-%m-%d}, {'today' if days < 1 else 'yesterday' if days < 2 else f'{days} days ago'}"
