"""Starts on a clock that people, and summer time, change."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
import tzlocal
from hypothesis import given
from hypothesis import strategies as st

from scotopic.overnight import times
from scotopic.overnight.times import DAYS, latest_start, next_start, now, parse_clock, parse_days, parse_start
from scotopic.protocol import ProblemsError

BERLIN = ZoneInfo("Europe/Berlin")
FRIDAY = datetime(2026, 11, 27, 21, 0, tzinfo=BERLIN)


def starts(clock: str, days: str, after: datetime, count: int) -> list[datetime]:
    found = []
    for _ in range(count):
        after = next_start(time.fromisoformat(clock), parse_days(days), after)
        found.append(after)
    return found


def test_a_time_of_day_is_today_or_tomorrow():
    assert parse_start("22:00", (), FRIDAY) == datetime(2026, 11, 27, 22, 0, tzinfo=BERLIN)
    assert parse_start("20:00", (), FRIDAY) == datetime(2026, 11, 28, 20, 0, tzinfo=BERLIN)
    assert parse_start("21:00", (), FRIDAY) == datetime(2026, 11, 28, 21, 0, tzinfo=BERLIN), "now is over"


def test_weekdays_leave_the_weekend_out():
    assert [s.day for s in starts("20:00", "weekday", FRIDAY, 3)] == [30, 1, 2]
    assert [s.day for s in starts("20:00", "weekend", FRIDAY, 3)] == [28, 29, 5]
    assert [s.day for s in starts("22:00", "fri,Mon", FRIDAY, 3)] == [27, 30, 4]


def test_a_night_in_which_clocks_go_back_has_one_start():
    found = starts("02:30", "day", datetime(2026, 10, 24, 12, tzinfo=BERLIN), 3)
    assert [s.isoformat() for s in found] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
        "2026-10-27T02:30:00+01:00",
    ]


def test_a_time_that_a_night_leaves_out_is_later():
    found = starts("02:30", "day", datetime(2026, 3, 28, 12, tzinfo=BERLIN), 2)
    assert [s.isoformat() for s in found] == ["2026-03-29T03:30:00+02:00", "2026-03-30T02:30:00+02:00"]


def test_it_is_too_late_the_next_morning():
    start = datetime(2026, 11, 27, 22, tzinfo=BERLIN)
    assert latest_start(start, time(7)) == datetime(2026, 11, 28, 7, tzinfo=BERLIN)


@given(
    st.times(timezones=st.none()).map(lambda t: t.replace(second=0, microsecond=0)),
    st.sets(st.sampled_from(DAYS), min_size=1),
    st.datetimes(datetime(2025, 1, 1), datetime(2028, 1, 1)),
)
def test_a_start_is_within_a_week_later_and_one_a_day(clock, days, moment):
    after = moment.replace(tzinfo=UTC).astimezone(BERLIN)
    start = next_start(clock, tuple(days), after)
    assert timedelta(0) < start.astimezone(UTC) - after.astimezone(UTC) <= timedelta(days=8)
    assert DAYS[start.weekday()] in days
    assert next_start(clock, tuple(days), start).date() > start.date()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("2026-11-27 20:00", "is over, it is 2026-11-27 21:00 now"),
        ("tonight", "allowed: 22:00, or 2026-11-28 22:00"),
        ("25:00", "allowed: 22:00, or 2026-11-28 22:00"),
        ("tomorrow evening", "allowed: 22:00, or 2026-11-28 22:00"),
        ("22:00+02", "allowed: 22:00, or 2026-11-28 22:00"),
        ("0001-01-01 00:00", "is over"),
        ("0001-01-01T00:00-14:00", "is over"),
        ("9999-12-31 23:59", "allowed: until 2199"),
        ("9999-12-31T23:59+14:00", "allowed: until 2199"),
    ],
)
def test_times_that_are_none_or_over_are_told(text, told):
    with pytest.raises(ProblemsError, match=told):
        parse_start(text, (), FRIDAY)


def test_days_that_are_none_are_told():
    with pytest.raises(ProblemsError, match="allowed: day, weekday, weekend"):
        parse_days("sometimes")
    for text in ("7 am", "07:00+02:00"):
        with pytest.raises(ProblemsError, match=re.escape(f"--not-after = {text!r}")):
            parse_clock(text, "--not-after")


def test_a_time_zone_that_does_not_exist_is_told(monkeypatch):
    monkeypatch.setenv("TZ", "Middle/Earth")
    monkeypatch.setattr(times, "get_localzone", tzlocal.reload_localzone)  # which has not been read yet
    with pytest.raises(ProblemsError, match=r"the time zone \(TZ\): names none that exists"):
        now()
