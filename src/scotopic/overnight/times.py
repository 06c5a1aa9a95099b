"""Times of day on a clock that people set: nights with an hour more or less have their starts once."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, AwareDatetime
from tzlocal import get_localzone

from scotopic.protocol import Problem, ProblemsError

if TYPE_CHECKING:
    from datetime import tzinfo

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
Days = tuple[Day, ...]
"""Days of the week."""
DAYS: Days = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_GROUPS: dict[str, Days] = {"day": DAYS, "weekday": DAYS[:5], "weekend": DAYS[5:]}
_YEARS = range(1970, 2200)
"""Years of all moments of a queue: at the ends of the calendar no time zone can be reckoned with."""


def _within_years(moment: datetime) -> datetime:
    if moment.year not in _YEARS:
        raise ValueError(f"must be from {_YEARS[0]} to {_YEARS[-1]}")
    return moment


def _of_this_clock(clock: time) -> time:
    if clock.tzinfo is not None:
        raise ValueError("must have no time zone: it is a time on this computer's clock")
    return clock


Moment = Annotated[AwareDatetime, AfterValidator(_within_years)]
"""A moment that can be reckoned with in any time zone."""
Clock = Annotated[time, AfterValidator(_of_this_clock)]
"""A time of day on this computer's clock."""


def here() -> tzinfo:
    """Return the time zone of this computer.

    Raises
    ------
    ProblemsError
        If the computer names one that does not exist.
    """
    try:
        return get_localzone()
    except (ValueError, LookupError, OSError) as error:
        raise ProblemsError([Problem(f"names none that exists: {error}", key="the time zone (TZ)")]) from error


def now() -> datetime:
    """Return the time on this computer's clock, with its zone."""
    return datetime.now(here())


def on_the_clock(day: datetime, clock: time) -> datetime:
    """Return the moment at which the clock shows a time on a day, in the zone of `day`.

    A time that a change of the clock leaves out is that many minutes later; one that comes twice is the first of the two.
    """
    wall = datetime.combine(day.date(), clock, tzinfo=day.tzinfo)
    return wall.astimezone(UTC).astimezone(day.tzinfo)


def next_start(clock: time, days: Days, after: datetime) -> datetime:
    """Return the first moment after another at which the clock shows a time on one of the days of the week."""
    for count in range(9):
        day = datetime.combine(after.date() + timedelta(days=count), time(12), tzinfo=after.tzinfo)
        start = on_the_clock(day, clock)
        if DAYS[day.weekday()] in days and start > after:
            return start
    raise ValueError("no day of the week is given")


def latest_start(start: datetime, clock: time) -> datetime:
    """Return the moment until which a job that was due at `start` may begin: the next one at which the clock shows a time."""
    return next_start(clock, DAYS, start)


def told_days(days: Days) -> str:
    """Return days as `parse_days` takes them."""
    return next((name for name, group in _GROUPS.items() if group == days), ",".join(days))


def parse_days(text: str) -> Days:
    """Return the days that a word means: day, weekday, weekend, or days such as mon,thu.

    Raises
    ------
    ProblemsError
        If it means none.
    """
    if text in _GROUPS:
        return _GROUPS[text]
    days = tuple(word.strip().lower()[:3] for word in text.split(","))
    if not set(days) <= set(DAYS):
        told = f"= {text!r}; allowed: day, weekday, weekend, or days such as mon,thu"
        raise ProblemsError([Problem(told, key="--every")])
    return tuple(day for day in DAYS if day in days)


def parse_clock(text: str, key: str) -> time:
    """Return a time of day.

    Raises
    ------
    ProblemsError
        If it is none.
    """
    try:
        return _of_this_clock(time.fromisoformat(text)).replace(microsecond=0)
    except ValueError as error:
        raise ProblemsError([Problem(f"= {text!r}; allowed: a time of day such as 22:00", key=key)]) from error


def parse_start(text: str, days: Days, moment: datetime) -> datetime:
    """Return when a job is to begin first: a time of day, or a date and a time, on this computer's clock.

    Parameters
    ----------
    days : Days
        Days of the week on which it is to begin; none if it is to begin once.
    moment : datetime
        The time now.

    Raises
    ------
    ProblemsError
        If the text is neither, or the time is over.
    """
    try:
        if len(text) <= len("22:00:00"):
            return next_start(_of_this_clock(time.fromisoformat(text)), days or DAYS, moment)
        start = datetime.fromisoformat(text)
    except ValueError as error:
        told = f"= {text!r}; allowed: 22:00, or 2026-11-28 22:00"
        raise ProblemsError([Problem(told, key="--at")]) from error
    if start.year > _YEARS[-1]:
        raise ProblemsError([Problem(f"= {text!r}; allowed: until {_YEARS[-1]}", key="--at")])
    if start.tzinfo is None and start.year in _YEARS:
        start = on_the_clock(start.replace(tzinfo=moment.tzinfo), start.time())
    if start.year not in _YEARS or start <= moment:
        told = f"= {text!r}: is over, it is {moment:%Y-%m-%d %H:%M} now; without --at the job begins as soon as it can"
        raise ProblemsError([Problem(told, key="--at")])
    return start
