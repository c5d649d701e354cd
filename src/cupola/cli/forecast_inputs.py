"""Where `cupola forecast` starts from, and the truth that it is compared with."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from cupola.data.matching import MatchedFields
    from cupola.data.times import Calendar
    from cupola.runtime.predictors.forecast import ForecastPredictor
    from cupola.structures.alignment import Alignment

    Array = NDArray[np.float32]


@dataclass(frozen=True)
class Start:
    """An initial state [C, H, W], or [M, C, H, W] of an ensemble, and its time.

    number: of the calendar, None without times. label: as written, datetime64 or a cftime date.
    place: (segment, time) in the file, or the number of an example.
    """

    state: "Array"
    number: float | None = None
    label: Any = None
    place: tuple[int, int] = (0, 0)


class ExampleInputs:
    """A recorded example of the bundle, which holds its own truth."""

    alignment: "Alignment | None" = None
    members = 1

    def __init__(self, predictor: "ForecastPredictor", number: int, dates: Sequence[str]) -> None:
        from cupola.data.times import Calendar, parse_inits
        from cupola.errors import InputError
        from cupola.runtime.predictors.forecast_examples import example_starts

        known = example_starts(predictor.config)
        self.calendar = Calendar("standard" if known else None)
        self._predictor = predictor
        self._numbers = [self.calendar.parse(text) for text in known]
        self._chosen = [number]
        if dates:
            wanted = parse_inits(dates, self.calendar)
            missing = [each for each in wanted if each not in self._numbers]
            if missing:
                raise InputError(
                    f"{predictor.name}: no example starts at {self.calendar.text(missing[0])};"
                    f" its examples start at {', '.join(known) or 'no date'}"
                )
            self._chosen = [self._numbers.index(each) for each in wanted]

    def starts(self) -> Iterator[Start]:
        """The chosen examples."""
        for index in self._chosen:
            state = self._predictor.example(index)[0].numpy()
            number = self._numbers[index] if index < len(self._numbers) else None
            label = None if number is None else self.calendar.label(number)
            yield Start(state, number, label, (index, 0))

    def labels(self) -> list[Any]:
        """The times of the starts."""
        known = self._numbers
        return [self.calendar.label(known[i]) if i < len(known) else None for i in self._chosen]

    def truth(self, start: Start, step: int) -> "Array | None":
        """The recorded state, if the recording is that long."""
        run = self._predictor.example(start.place[0])
        count = len(self._predictor.prognostic)
        return run[step, :count].numpy() if step < len(run) else None

    def no_truth(self) -> str:
        """For errors; an example has its truth."""
        return f"{self._predictor.name}: the examples have no truth for these steps"

    def forcings(self, start: Start, step: int) -> "Array | None":
        """None: the forcings of an example keep their values."""
        return None


class FileInputs:
    """Starts from a file, by date or number, with the truth of the same or another file."""

    def __init__(
        self,
        predictor: "ForecastPredictor",
        path: Path,
        dates: Sequence[str],
        number: int,
        truth: Path | None,
    ) -> None:
        from cupola.data.fields import open_fields

        source = open_fields(path)
        if predictor.grid is None:
            predictor.grid = source.grid
        self._predictor, self._step = predictor, predictor.step_seconds
        self.fields = self._matched(source, predictor.channels, predictor.units)
        self._check_step(source)
        self.alignment = self.fields.alignment
        self.calendar: Calendar = source.calendar
        self.members = source.members
        self._places = self._find_starts(dates, number)
        self._truth = self._open_truth(path, truth)

    def _matched(self, source: Any, channels: Sequence[str], units: Sequence[str]) -> Any:
        from cupola.data.matching import Expected, MatchedFields

        predictor = self._predictor
        expected = Expected(channels, units, predictor.grid, self._step, predictor.calendar)
        return MatchedFields(source, expected)

    def _check_step(self, source: Any) -> None:
        """Dates for a model whose step is a time, plain numbers for one whose step is not."""
        from cupola.errors import DataError

        if source.calendar.name is not None and self._step is None:
            raise DataError(
                f"{source.name} has dates, and one step of {self._predictor.name} is"
                f" {self._predictor.interval:g} {self._predictor.interval_unit}"
            )

    def _open_truth(self, start: Path, truth: Path | None) -> "MatchedFields | None":
        from cupola.data.fields import open_fields
        from cupola.errors import DataError

        if truth is None:
            return None
        source = self.fields.source if truth == start else open_fields(truth)
        if not source.calendar.same(self.calendar):
            raise DataError(
                f"{source.name} has the calendar {source.calendar.name}, {start} has"
                f" {self.calendar.name}"
            )
        shown, units = self._predictor.shown, self._predictor.shown_units
        diagnostics = [n for n in self._predictor.diagnostics if n not in source.channels]
        self.scored = [i for i, name in enumerate(shown) if name not in diagnostics]
        matched: MatchedFields = self._matched(
            source, [shown[i] for i in self.scored], [units[i] for i in self.scored]
        )
        return matched

    def _find_starts(self, dates: Sequence[str], number: int) -> list[list[tuple[int, int]]]:
        """For each start the places of its members in the file."""
        from cupola.data.times import parse_inits
        from cupola.errors import DataError

        source = self.fields.source
        if not dates:
            return [self._numbered(number)]
        if all(source.times(segment) is None for segment in range(len(source.segments))):
            raise DataError(f"{source.name} has no times; choose a snapshot by --time NUMBER")
        found = []
        for wanted in parse_inits(dates, self.calendar):
            places = self.fields.find(wanted)
            if not places:
                text = self.calendar.text(wanted)
                raise DataError(
                    f"{source.name}: no snapshot at {text}; {self.fields.nearest(wanted)}"
                )
            found.append(places)
        return found

    def _numbered(self, number: int) -> list[tuple[int, int]]:
        from cupola.errors import DataError

        source = self.fields.source
        left = number
        for segment, length in enumerate(source.segments):
            if left < length:
                times = source.times(segment)
                if source.members > 1 and times is not None:
                    return self.fields.find(float(times[left]))
                return [(segment, left)]
            left -= length
        total = sum(source.segments)
        raise DataError(f"{source.name}: {total} snapshots, so there is no number {number}")

    def start_everywhere(self) -> None:
        """Starts from every snapshot of the file."""
        lengths = self.fields.source.segments
        self._places = [[(s, time)] for s, length in enumerate(lengths) for time in range(length)]

    def starts(self) -> Iterator[Start]:
        """Reads one start at a time."""
        import numpy as np

        for places in self._places:
            states = [self.fields.read(*place) for place in places]
            state = np.stack(states) if len(states) > 1 else states[0]
            self._settle_nan(state, places[0])
            number = self._number(places[0])
            label = None if number is None else self.calendar.label(number)
            yield Start(state, number, label, places[0])

    def labels(self) -> list[Any]:
        """The times of the starts."""
        numbers = [self._number(places[0]) for places in self._places]
        return [None if number is None else self.calendar.label(number) for number in numbers]

    def _number(self, place: tuple[int, int]) -> float | None:
        times = self.fields.source.times(place[0])
        return None if times is None else float(times[place[1]])

    def _settle_nan(self, state: "Array", place: tuple[int, int]) -> None:
        """NaN that is the same at another time is a mask (land, sea); else it stays an error."""
        import numpy as np

        missing = np.isnan(state)
        if self._predictor.nan == "mask" or not missing.any() or missing.all():
            return
        segment, time = place
        length = self.fields.source.segments[segment]
        if length > 1 and state.ndim == 3:
            other = np.isnan(self.fields.read(segment, time + 1 if time + 1 < length else time - 1))
            if (other == missing).all():
                self._predictor.nan = "mask"
                share = 100 * missing.mean()
                print(f"{share:.1f} % of the start is NaN at all times: a mask, left out as such")

    def truth(self, start: Start, step: int) -> "Array | None":
        """The true state at the valid time of a step; None if the file has none."""
        import numpy as np

        if self._truth is None:
            return None
        place = self._place_of(self._truth, start, step)
        if place is None:
            return None
        found = self._truth.read(*place)
        if len(self.scored) == len(self._predictor.shown):
            return found
        out = np.full((len(self._predictor.shown), *found.shape[1:]), np.nan, np.float32)
        out[self.scored] = found
        return out

    def no_truth(self) -> str:
        """For errors: why none of the forecast's valid times is in the truth."""
        assert self._truth is not None
        source, predictor = self._truth.source, self._predictor
        step = f"{predictor.interval:g} {predictor.interval_unit}"
        number = self._number(self._places[0][0])
        if number is None:
            return f"{source.name} has no truth: too few snapshots, one step of the model is {step}"
        away = predictor.interval if self._step is None else self._step
        first = source.calendar.text(number + away)
        return (
            f"{source.name} has no truth: the first valid time is {first}, one step of the model"
            f" ({step}) after the start; {self._truth.nearest(number + away)}"
        )

    def forcings(self, start: Start, step: int) -> "Array | None":
        """The forcings at the valid time of a step, from the file of the start, if it has them."""
        if len(self._predictor.computed) == len(self._predictor.forcings):
            return None
        place = self._place_of(self.fields, start, step)
        if place is None:
            return None
        return self.fields.read(*place)[len(self._predictor.prognostic) :]

    def _place_of(self, fields: "MatchedFields", start: Start, step: int) -> tuple[int, int] | None:
        """Where a file has the valid time of a step; by number if it has no times at all."""
        if start.number is not None:
            away = step * (self._predictor.interval if self._step is None else self._step)
            found = fields.find(start.number + away)
            return found[0] if found else None
        segment, time = start.place
        segments = fields.source.segments
        known = segment < len(segments) and time + step < segments[segment]
        return (segment, time + step) if known and fields.source.times(segment) is None else None
