"""ForecastPredictor: a state -> the states that follow it, step by step.

Letters: T steps, M ensemble members, C channels, of which P are predicted, H rows, W columns.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from cupola.errors import InputError
from cupola.runtime.devices import CPU, moved
from cupola.runtime.predictor import Arrays, Predictor, StreamEngine, TensorSpec
from cupola.runtime.predictors.forecast_examples import EXAMPLES, chosen_example, example_of
from cupola.runtime.predictors.forecast_parameters import ForecastOptions
from cupola.runtime.predictors.forecast_stream import ForecastEngine, ForecastSample
from cupola.structures.grids import Grid, name_bad_values
from cupola.structures.solar import forcing

SECONDS = {"seconds": 1.0, "minutes": 60.0, "hours": 3600.0, "days": 86400.0}
Forcings = Callable[[int], Tensor | None]  # step -> the forcings [F, H, W] in physical units


@dataclass(frozen=True)
class Forecast:
    """States [T, P, H, W] in physical units: the ensemble's mean, and its spread when M > 1."""

    fields: Tensor
    spread: Tensor | None = None


@dataclass
class ForecastPredictor(Predictor):
    """A field operator with its channels, units, statistics and coordinates.

    `predictor(field, steps=28)` -> Forecast; a field is [C, H, W] in physical units. Channels after
    the first `predicted` are forcings: given, or computed from the date (cos_zenith).

    grid: None for a model that takes any. diagnostics: channels that the model derives from a
    state and that do not enter the next one (precipitation). nan: "mask" fills NaN of the start
    with the mean and repeats it in the forecast; "refuse" raises InputError.
    """

    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    mean: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1))
    std: Tensor = field(default_factory=lambda: torch.ones(1, 1, 1))
    grid: Grid | None = field(default_factory=lambda: Grid.globe(720, 1440))
    interval: float = 6.0
    interval_unit: str = "hours"
    folder: Path | None = None
    predicted: int = 0  # 0: all channels
    diagnostics: tuple[str, ...] = ()
    diagnostic_units: tuple[str, ...] = ()
    calendar: str | None = None
    nan: str = "refuse"
    device: torch.device = CPU

    task: ClassVar[str] = "forecast"
    max_steps: ClassVar[int] = 400
    max_members: ClassVar[int] = 64

    @property
    def prognostic(self) -> tuple[str, ...]:
        """The channels that a step changes."""
        return self.channels[: self.predicted or None]

    @property
    def forcings(self) -> tuple[str, ...]:
        """The channels that a step does not change."""
        return self.channels[len(self.prognostic) :]

    @property
    def computed(self) -> tuple[int, ...]:
        """The channels that follow from the date."""
        empty = Grid((), ())
        names = enumerate(self.channels)
        return tuple(i for i, name in names if forcing(name, 0.0, 0.0, empty) is not None)

    @property
    def given(self) -> tuple[str, ...]:
        """The channels of a start: all but the computed ones."""
        computed = self.computed
        return tuple(name for i, name in enumerate(self.channels) if i not in computed)

    @property
    def shown(self) -> tuple[str, ...]:
        """The channels of a forecast: the predicted ones, and the diagnostics."""
        return (*self.prognostic, *self.diagnostics)

    @property
    def shown_units(self) -> tuple[str, ...]:
        """The units of `shown`, as far as they are known."""
        count = len(self.prognostic)
        units = (*self.units, *("",) * (len(self.channels) - len(self.units)))
        return (*units[:count], *self.diagnostic_units)

    @property
    def step_seconds(self) -> float | None:
        """One step in seconds; None for a model without a calendar."""
        factor = SECONDS.get(self.interval_unit)
        return None if factor is None else factor * self.interval

    @property
    def _size(self) -> tuple[int, int]:
        return (-1, -1) if self.grid is None else self.grid.shape

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        shape = (-1, len(self.given), *self._size)
        return (TensorSpec("fields", "FP32", shape, optional=True),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        shape = (-1, -1, len(self.shown), *self._size)
        return (TensorSpec("fields", "FP32", shape), TensorSpec("spread", "FP32", shape, True))

    def __call__(
        self,
        start: Any,
        steps: int = 1,
        members: int = 1,
        amplitude: float = 0.3,
        seed: int = 0,
        time: float | None = None,
    ) -> Forecast:
        """All states at once; `stream` needs the memory of one only."""
        return self.run([self.sample(start, steps, members, amplitude, seed, time)])[0]

    def stream(
        self,
        start: Any,
        steps: int,
        members: int = 1,
        amplitude: float = 0.3,
        seed: int = 0,
        time: float | None = None,
        forcings: Forcings | None = None,
    ) -> Iterator[Tensor]:
        """Yields the states one by one, [M, P, H, W] in physical units.

        time: of the start, in seconds since 1970. forcings: their values [F, H, W] at a step, or
        None to keep the last ones; computed ones are not asked for.
        """
        sample = self.sample(start, steps, members, amplitude, seed, time)
        state = sample.state
        for number in range(1, steps + 1):
            state = self.advance(state)
            self._check(state, f"the forecast diverged at step {number}")
            state = self.force(state, time, number)
            given = None if forcings is None else forcings(number)
            if given is not None:
                self._take_forcings(state, given)
            if sample.mask is not None:
                state = torch.where(sample.mask, state, 0.0)
            yield self.physical(state, sample.mask)

    def sample(
        self,
        start: Any,
        steps: int,
        members: int = 1,
        amplitude: float = 0.3,
        seed: int = 0,
        time: float | None = None,
    ) -> ForecastSample:
        """A checked, normalized initial state; all members but the first get Gaussian noise.

        start: [C, H, W], without or with the computed channels, or [M, C, H, W] for members that
        differ already and get no noise. amplitude: of the noise, in standard deviations of the
        channel (FourCastNet: 0.3). Forcings get none.
        """
        field = self._with_computed(torch.as_tensor(np.asarray(start), dtype=torch.float32), time)
        mask = self._mask(field)
        if mask is None:
            self._check(field, "fields")
        state = (field - self.mean) / self.std
        if mask is not None:
            state = torch.where(mask, state, 0.0)
        if field.ndim == 3:
            state = state.expand(members, *field.shape).clone()
            noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(seed))
            count = len(self.prognostic)
            state[1:, :count] += amplitude * noise[1:, :count]
            if mask is not None:
                state = torch.where(mask, state, 0.0)
        mask = None if mask is None else moved(mask, self.device)
        return ForecastSample(moved(state, self.device), steps, time=time, mask=mask)

    def _with_computed(self, field: Tensor, time: float | None) -> Tensor:
        """Checks the shape, and adds the channels that follow from the date."""
        size = (-1, -1) if self.grid is None else self.grid.shape
        computed = self.computed
        count = field.shape[-3] if field.ndim in (3, 4) else -1
        fits = size == (-1, -1) or tuple(field.shape[-2:]) == size
        if not fits or count not in (len(self.given), len(self.channels)):
            raise InputError(
                f"fields: expected {[len(self.given), *size]} (channels {', '.join(self.given)}),"
                f" got {list(field.shape)}"
            )
        if count == len(self.channels) and not computed:
            return field
        out = field.new_empty(*field.shape[:-3], len(self.channels), *field.shape[-2:])
        places = range(len(self.channels))
        kept = (
            list(places)
            if count == len(self.channels)
            else [i for i in places if i not in computed]
        )
        out[..., kept, :, :] = field
        if count < len(self.channels):
            if time is None:
                raise InputError(
                    f"{self.name}: {self.channels[computed[0]]} follows from the date; give the"
                    " date of the start (init)"
                )
            for index in computed:
                out[..., index, :, :] = self._computed_at(index, time)
        return out

    def _computed_at(self, index: int, time: float) -> Tensor:
        assert self.grid is not None
        found = forcing(self.channels[index], time, self.step_seconds or 0.0, self.grid)
        assert found is not None
        return torch.from_numpy(found)

    @torch.inference_mode()
    def force(self, state: Tensor, time: float | None, step: int) -> Tensor:
        """Sets the computed channels of a state [B, C, H, W] after `step` steps, in place."""
        if time is not None:
            for index in self.computed:
                values = self._computed_at(index, time + step * (self.step_seconds or 0.0))
                state[:, index] = (values - self.mean[index]) / self.std[index]
        return state

    @torch.inference_mode()
    def _take_forcings(self, state: Tensor, given: Tensor) -> None:
        computed, first = self.computed, len(self.prognostic)
        for number, index in enumerate(range(first, len(self.channels))):
            if index not in computed:
                state[:, index] = (given[number] - self.mean[index]) / self.std[index]

    def _mask(self, field: Tensor) -> Tensor | None:
        """Where a start has values, [C, H, W], if NaN is allowed and there is some."""
        if self.nan != "mask" or not bool(torch.isnan(field).any()):
            return None
        known = ~torch.isnan(field)
        return known if known.ndim == 3 else known.all(dim=0)

    def _check(self, state: Tensor, what: str) -> None:
        for member in state if state.ndim == 4 else state[None]:
            if bad := name_bad_values(member, self.channels):
                raise InputError(f"{what}: not finite: {bad}")

    @torch.inference_mode()
    def physical(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """States in the model's units [B, C, H, W] -> [B, P, H, W], physical, with diagnostics.

        On the CPU, wherever the model computes.
        """
        count = len(self.prognostic)
        std, mean = (self._first(each).to(state.device) for each in (self.std, self.mean))
        shown = state[:, :count] * std + mean
        if mask is not None:
            shown = torch.where(mask[:count].to(state.device), shown, torch.nan)
        shown = moved(shown, CPU)
        if not self.diagnostics:
            return shown
        derived = [self.model.diagnose(part).cpu() for part in torch.split(state, self.max_batch)]
        return torch.cat([shown, torch.cat(derived)], dim=1)

    def _first(self, statistic: Tensor) -> Tensor:
        return statistic[: len(self.prognostic)] if len(statistic) > 1 else statistic

    @torch.inference_mode()
    def advance(self, state: Tensor) -> Tensor:
        """One step of a batch, [B, C, H, W], in the model's units; `max_batch` of it at a time."""
        step = getattr(self.model, "advance", self.model)
        following = torch.cat([step(part) for part in torch.split(state, self.max_batch)])
        return torch.cat([following, state[:, following.shape[1] :]], dim=1)

    def decode(
        self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> list[ForecastSample]:
        """One sample per element of `fields` [N, C, H, W], or the example number `example`.

        Parameters: steps (default: as many as the example has recorded; 1 for `fields`), members,
        amplitude, seed, encoding ("list" or "base64"), init (the date of the start, which also
        chooses an example), convention ("cf", "wb" or "e2s").
        """
        options = ForecastOptions.read(parameters, self.max_steps, self.max_members)
        time, truths = options.time, None
        if "fields" in tensors:
            array = np.asarray(tensors["fields"])
            starts = array if array.ndim == 4 else array[None]
        else:
            number, time = chosen_example(self.config, parameters, time)
            example = self.example(number)
            starts, truths = example[:1].numpy(), example[1:, : len(self.prognostic)]
        recorded = 1 if truths is None else len(truths)
        steps = options.steps or min(max(1, recorded), self.max_steps)
        members, amplitude, seed = options.members, options.amplitude, options.seed
        samples = [self.sample(s, steps, members, amplitude, seed, time) for s in starts]
        encoding, convention = options.encoding, options.convention
        return [
            ForecastSample(s.state, steps, encoding, truths, time, s.mask, convention)
            for s in samples
        ]

    @property
    def has_example(self) -> bool:
        """Whether the bundle has a recorded run."""
        return self.folder is not None and (self.folder / EXAMPLES).is_file()

    def example(self, number: int) -> Tensor:
        """A recorded run [1 + T, C, H, W] in physical units; InputError if there is none."""
        return example_of(self.name, self.folder, number)

    def bucket(self, sample: ForecastSample) -> Hashable:
        return tuple(sample.state.shape), sample.steps, sample.mask is None

    def run(self, samples: Sequence[ForecastSample]) -> list[Forecast]:
        """Rolls samples of one bucket forward together."""
        count = len(samples[0].state)
        state = torch.cat([sample.state for sample in samples])
        means: list[Tensor] = []
        spreads: list[Tensor] = []
        for number in range(1, samples[0].steps + 1):
            state = self.advance(state)
            self._check(state, f"the forecast diverged at step {number}")
            parts = [
                self._settled(part, sample, number)
                for part, sample in zip(torch.split(state, count), samples, strict=True)
            ]
            state = torch.cat(parts)
            members = torch.stack(
                [self.physical(p, s.mask) for p, s in zip(parts, samples, strict=True)]
            )  # [N, M, P, H, W]
            means.append(members.mean(dim=1))
            spreads.append(members.std(dim=1, correction=0))
        fields, spread = torch.stack(means, dim=1), torch.stack(spreads, dim=1)
        alone = len(samples[0].state) == 1
        return [Forecast(fields[i], None if alone else spread[i]) for i in range(len(samples))]

    def _settled(self, state: Tensor, sample: ForecastSample, step: int) -> Tensor:
        """A sample's state after a step: its computed forcings set, masked points at the mean."""
        state = self.force(state, sample.time, step)
        return state if sample.mask is None else torch.where(sample.mask, state, 0.0)

    def encode(self, predictions: Sequence[Forecast], parameters: Mapping[str, Any]) -> Arrays:
        """`fields` [N, T, C, H, W], and `spread` of the same shape for ensembles."""
        arrays = {"fields": torch.stack([each.fields for each in predictions]).numpy()}
        spreads = [each.spread for each in predictions if each.spread is not None]
        return arrays | ({"spread": torch.stack(spreads).numpy()} if spreads else {})

    def open_stream(self) -> StreamEngine:
        return ForecastEngine(self)
