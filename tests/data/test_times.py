"""Dates, ranges, calendars, and stretches of equal steps."""

import cftime
import numpy as np
import pytest

from cupola.data.times import (
    Calendar,
    check_step,
    parse_duration,
    parse_inits,
    seconds_of,
    stretches,
)
from cupola.errors import DataError, InputError

STANDARD = Calendar("standard")
HOUR = 3600.0


def test_dates_and_ranges() -> None:
    first = STANDARD.parse("2018-01-01T00")
    assert STANDARD.label(first) == np.datetime64("2018-01-01T00:00:00")
    assert STANDARD.parse("20180101T06") == first + 6 * HOUR
    assert STANDARD.parse("2018-01-01 06:30:00Z") == first + 6.5 * HOUR
    found = parse_inits(["2018-01-02,2018-01-01", "2018-01-01/2018-01-02/12h"], STANDARD)
    assert found == [first, first + 12 * HOUR, first + 24 * HOUR]
    assert parse_inits(["0.5/1.5/0.5"], Calendar(None)) == [0.5, 1.0, 1.5]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("yesterday", "is not a date; write it as"),
        ("2018-02-30", "not a date of the calendar standard"),
        ("2018-01-01/2018-01-02", "START/END/STEP"),
        ("2018-01-02/2018-01-01/6h", "the end is before the start"),
        ("1900-01-01/2100-01-01/1s", "starts; at most"),
        ("2018-01-01/2018-01-02/6x", "is not a duration"),
        (" , ", "no date to start from"),
    ],
)
def test_bad_dates(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_inits([text], STANDARD)


def test_calendars() -> None:
    calendar = Calendar("360_day")
    number = calendar.parse("2018-02-30")
    assert calendar.label(number) == cftime.datetime(2018, 2, 30, calendar="360_day")
    assert calendar.numbers(np.array([calendar.label(number)])).tolist() == [number]
    assert not calendar.same(STANDARD)
    assert Calendar("proleptic_gregorian").same(STANDARD)
    with pytest.raises(InputError, match="is not a number, and the data has no dates"):
        Calendar(None).parse("2018-01-01")


@pytest.mark.parametrize(
    ("hours", "parts"),
    [
        ([0, 6, 12, 18], [(0, 4)]),
        ([0, 6, 12, 24, 30], [(0, 3), (3, 5)]),  # a gap
        ([0, 6, 6, 12], [(0, 2), (2, 4)]),  # a time twice
        ([0, 6, 12, 3, 9], [(0, 3), (3, 5)]),  # not in order
        ([7], [(0, 1)]),
        ([], []),
    ],
)
def test_stretches_of_equal_steps(hours: list[float], parts: list[tuple[int, int]]) -> None:
    assert stretches(np.array(hours, float) * HOUR, STANDARD) == parts


def test_months_and_years_are_equal_steps() -> None:
    months = np.arange("2019-01", "2021-01", dtype="datetime64[M]").astype("datetime64[s]")
    assert stretches(STANDARD.numbers(months), STANDARD) == [(0, 24)]
    years = np.arange("1990", "2000", dtype="datetime64[Y]").astype("datetime64[s]")
    assert stretches(STANDARD.numbers(years), STANDARD) == [(0, 10)]


def test_steps() -> None:
    assert check_step(HOUR, 6 * HOUR, "x") == 6
    assert parse_duration("1 day") == seconds_of(24, "hours") == parse_duration("PT24H")
    assert seconds_of(1, "turns") is None
    with pytest.raises(DataError, match=r"x: its snapshots are 12 hours apart.* is 6 hours"):
        check_step(12 * HOUR, 6 * HOUR, "x")
