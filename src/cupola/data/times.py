"""Times of snapshots as numbers: seconds on a calendar, or plain numbers without one."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError, InputError

Numbers = NDArray[np.float64]

EPOCH = "seconds since 1970-01-01"
STANDARD = ("standard", "gregorian", "proleptic_gregorian")  # the same since 1582
SECONDS = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1.0),
    **dict.fromkeys(("min", "minute", "minutes"), 60.0),
    **dict.fromkeys(("h", "hr", "hour", "hours"), 3600.0),
    **dict.fromkeys(("d", "day", "days"), 86400.0),
    "weeks": 7 * 86400.0,
    "milliseconds": 1e-3,
    "microseconds": 1e-6,
    "nanoseconds": 1e-9,
}
_DATE = re.compile(
    r"(\d{1,4})-?(\d\d)-?(\d\d)(?:[T _]?(\d\d)(?::?(\d\d)(?::?(\d\d)(?:\.\d+)?)?)?)?Z?"
)
_DURATION = re.compile(r"(?:P?T?)?\s*(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
MOST_INITS = 100_000


@dataclass(frozen=True)
class Calendar:
    """Converts between times as xarray gives them and numbers.

    name: CF's name of the calendar; None for a model without dates, whose times are plain numbers.
    """

    name: str | None = "standard"

    @property
    def is_standard(self) -> bool:
        """Whether numpy's datetime64 has this calendar."""
        return self.name in STANDARD

    def same(self, other: "Calendar") -> bool:
        """Whether two calendars agree on all dates since 1582."""
        return self.name == other.name or (self.is_standard and other.is_standard)

    def numbers(self, values: Any) -> Numbers:
        """Seconds since 1970, of datetime64 or cftime values; plain numbers as they are."""
        array = np.atleast_1d(np.asarray(values))
        if array.dtype.kind == "M":
            return array.astype("datetime64[ms]").astype(np.int64) / 1e3
        if array.dtype == object:
            import cftime

            flat = cftime.date2num(array.ravel(), EPOCH, calendar=self.name)
            return np.asarray(flat, np.float64).reshape(array.shape)
        return array.astype(np.float64)

    def label(self, number: float) -> Any:
        """The time of a number: datetime64 in seconds, a cftime date, or the number itself."""
        if self.name is None:
            return number
        if self.is_standard:
            return np.datetime64(round(number), "s")
        import cftime

        return cftime.num2date(round(number), EPOCH, calendar=self.name)

    def text(self, number: float) -> str:
        """A time for people and for CF units: 2018-01-01 06:00:00."""
        if self.name is None:
            return f"{number:g}"
        return str(self.label(number)).replace("T", " ")

    def parse(self, text: str) -> float:
        """The number of a date such as 2018-01-01T06 or 20180101; InputError for others."""
        text = text.strip()
        if self.name is None:
            try:
                return float(text)
            except ValueError:
                raise InputError(f"{text!r} is not a number, and the data has no dates") from None
        match = _DATE.fullmatch(text)
        if not match:
            raise InputError(f"{text!r} is not a date; write it as 2018-01-01T06")
        parts: Any = [int(part or 0) for part in match.groups()]
        try:
            if self.is_standard:
                return self.numbers(np.datetime64(datetime(*parts), "s")).item()
            import cftime

            date = cftime.datetime(*parts, calendar=self.name)
            return float(cftime.date2num(date, EPOCH, calendar=self.name))
        except ValueError as error:
            raise InputError(
                f"{text!r} is not a date of the calendar {self.name}: {error}"
            ) from None


def calendar_of(values: Any) -> Calendar:
    """The calendar of times as xarray decodes them."""
    array = np.atleast_1d(np.asarray(values))
    if array.dtype.kind == "M":
        return Calendar("standard")
    if array.dtype == object and len(array):
        return Calendar(getattr(array.flat[0], "calendar", "standard"))
    return Calendar(None)


def seconds_of(interval: float, unit: str) -> float | None:
    """An interval in seconds; None for a unit that is not a time ("turns")."""
    factor = SECONDS.get(unit.strip().lower())
    return None if factor is None else interval * factor


def parse_duration(text: str) -> float:
    """Seconds of `6h`, `12 hours`, `1d`, `PT6H`; InputError for others."""
    match = _DURATION.fullmatch(text.strip())
    factor = SECONDS.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise InputError(f"{text!r} is not a duration; write it as 6h or 1d")
    return float(match[1]) * factor


def parse_inits(texts: Sequence[str], calendar: Calendar) -> list[float]:
    """The times that `--init` names, as numbers in order, each once.

    Each text is a date, several with commas, or a range START/END/STEP whose end is included.
    """
    found: dict[float, None] = {}
    for text in (part for each in texts for part in each.split(",") if part.strip()):
        ends = text.split("/")
        if len(ends) == 1:
            found[calendar.parse(text)] = None
        elif len(ends) == 3:
            found |= dict.fromkeys(_range(text, ends, calendar))
        else:
            raise InputError(f"{text!r}: write a range as START/END/STEP, such as {_EXAMPLE}")
    if not found:
        raise InputError(f"no date to start from; write one as 2018-01-01T00 or {_EXAMPLE}")
    return sorted(found)


_EXAMPLE = "2018-01-01/2018-01-31/12h"


def _range(text: str, ends: Sequence[str], calendar: Calendar) -> Iterator[float]:
    first, last = calendar.parse(ends[0]), calendar.parse(ends[1])
    step = parse_duration(ends[2]) if calendar.name else calendar.parse(ends[2])
    if step <= 0 or last < first:
        raise InputError(f"{text!r}: the end is before the start, or the step is 0")
    count = int((last - first) / step + 1e-9) + 1
    if count > MOST_INITS:
        raise InputError(f"{text!r}: {count} starts; at most {MOST_INITS} are taken")
    return (first + step * number for number in range(count))


def usual_step(times: Numbers) -> float | None:
    """The most frequent positive difference between neighbors; None with fewer than two times."""
    steps = np.diff(times).round(6)
    steps = steps[steps > 0]
    if not len(steps):
        return None
    values, counts = np.unique(steps, return_counts=True)
    return float(values[counts.argmax()])


def stretches(times: Numbers, calendar: Calendar) -> list[tuple[int, int]]:
    """The parts [start, stop) with equal steps: a gap, a repeated or an earlier time ends one.

    Steps of a month or longer are counted in months, whose lengths differ.
    """
    step = usual_step(times)
    if step is None:
        return [(i, i + 1) for i in range(len(times))]
    counted = times
    if calendar.name is not None and step >= 28 * 86400:
        labels = [calendar.label(number) for number in times]
        counted = np.array([_month(label) for label in labels])
        step = usual_step(counted) or 1.0
    broken = np.abs(np.diff(counted) - step) > 1e-6 * max(abs(step), 1.0)
    edges = [0, *(np.flatnonzero(broken) + 1).tolist(), len(times)]
    return list(pairwise(edges))


def _month(label: Any) -> float:
    """Months since year 0, with the day as a fraction."""
    if isinstance(label, np.datetime64):
        label = label.astype("datetime64[s]").item()
    return label.year * 12.0 + label.month + (label.day - 1) / 32.0


def check_step(given: float | None, wanted: float, where: str) -> int:
    """How many of a file's steps make one of the model's; DataError if that is no whole number."""
    ratio = 1.0 if given is None else wanted / given
    if ratio < 1 - 1e-6 or abs(ratio - round(ratio)) > 1e-6 * ratio:
        raise DataError(
            f"{where}: its snapshots are {_hours(given or 0)} apart, one step of the model is"
            f" {_hours(wanted)}; give it data with that time step, or one that divides it"
        )
    return round(ratio)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g} hours"
