"""ForecastPredictor: a state -> the states that follow it, step by step.

Letters: T steps, M ensemble members, C channels, H rows, W columns.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cupola import nn
from cupola.bundles import Bundle
from cupola.errors import InputError
from cupola.runtime.export import Program
from cupola.runtime.parameters import whole_number
from cupola.runtime.predictor import Arrays, Predictor, StreamEngine, TensorSpec
from cupola.runtime.predictors.forecast_stream import ForecastEngine, ForecastSample
from cupola.structures.grids import Grid, name_bad_values

EXAMPLES = "example/flows.safetensors"  # "fields" [N, T, C, H, W]; each run begins with its start


@dataclass(frozen=True)
class Forecast:
    """States [T, C, H, W] in physical units: the ensemble's mean, and its spread when M > 1."""

    fields: Tensor
    spread: Tensor | None = None


@dataclass
class ForecastPredictor(Predictor):
    """A field operator with its channels, units and statistics.

    `predictor(field, steps=28)` -> Forecast; a field is [C, H, W] in physical units.
    """

    channels: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    mean: Tensor = field(default_factory=lambda: torch.zeros(1, 1, 1))
    std: Tensor = field(default_factory=lambda: torch.ones(1, 1, 1))
    grid: Grid = field(default_factory=lambda: Grid.globe(720, 1440))
    interval: float = 6.0
    interval_unit: str = "hours"
    folder: Path | None = None

    task: ClassVar[str] = "forecast"
    max_steps: ClassVar[int] = 400
    max_members: ClassVar[int] = 64

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        shape = (-1, len(self.channels), *self.grid.shape)
        return (TensorSpec("fields", "FP32", shape, optional=True),)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        shape = (-1, -1, len(self.channels), *self.grid.shape)
        return (TensorSpec("fields", "FP32", shape), TensorSpec("spread", "FP32", shape, True))

    def __call__(
        self, start: Any, steps: int = 1, members: int = 1, amplitude: float = 0.3, seed: int = 0
    ) -> Forecast:
        """All states at once; `stream` needs the memory of one only."""
        return self.run([self.sample(start, steps, members, amplitude, seed)])[0]

    def stream(
        self, start: Any, steps: int, members: int = 1, amplitude: float = 0.3, seed: int = 0
    ) -> Iterator[Tensor]:
        """Yields the states one by one, [M, C, H, W] in physical units."""
        state = self.sample(start, steps, members, amplitude, seed).state
        for number in range(1, steps + 1):
            state = self.advance(state)
            self._check(state, f"the forecast diverged at step {number}")
            yield self.physical(state)

    def sample(
        self,
        start: Any,
        steps: int,
        members: int = 1,
        amplitude: float = 0.3,
        seed: int = 0,
    ) -> ForecastSample:
        """A checked, normalized initial state; all members but the first get Gaussian noise.

        amplitude: of the noise, in standard deviations of the channel (FourCastNet: 0.3).
        """
        field = torch.as_tensor(np.asarray(start), dtype=torch.float32)
        expected = (len(self.channels), *self.grid.shape)
        if tuple(field.shape) != expected:
            raise InputError(
                f"fields: expected {list(expected)} (channels {', '.join(self.channels)}),"
                f" got {list(field.shape)}"
            )
        self._check(field, "fields")
        state = ((field - self.mean) / self.std).expand(members, *expected).clone()
        noise = torch.randn(state.shape, generator=torch.Generator().manual_seed(seed))
        state[1:] += amplitude * noise[1:]
        return ForecastSample(state, steps)

    def _check(self, state: Tensor, what: str) -> None:
        for member in state if state.ndim == 4 else state[None]:
            if bad := name_bad_values(member, self.channels):
                raise InputError(f"{what}: not finite: {bad}")

    def physical(self, state: Tensor) -> Tensor:
        """From the model's units to physical ones, [..., C, H, W]."""
        return state * self.std + self.mean

    @torch.inference_mode()
    def advance(self, state: Tensor) -> Tensor:
        """One step of a batch, [B, C, H, W], in the model's units; `max_batch` of it at a time."""
        following = torch.cat([self.model(part) for part in torch.split(state, self.max_batch)])
        return torch.cat([following, state[:, following.shape[1] :]], dim=1)

    def decode(
        self, tensors: Mapping[str, Any], parameters: Mapping[str, Any]
    ) -> list[ForecastSample]:
        """One sample per element of `fields` [N, C, H, W], or the example number `example`.

        Parameters: steps, members, amplitude, seed, encoding ("list" or "base64").
        """
        steps = whole_number(parameters, "steps", 1, 1, self.max_steps)
        members = whole_number(parameters, "members", 1, 1, self.max_members)
        seed = whole_number(parameters, "seed", 0, 0, 2**31)
        amplitude = parameters.get("amplitude", 0.3)
        if not isinstance(amplitude, int | float) or not 0 <= amplitude <= 10:
            raise InputError(f"amplitude: expected a number in 0..10, got {amplitude!r}")
        encoding = str(parameters.get("encoding", "list"))
        if encoding not in ("list", "base64"):
            raise InputError(f"encoding: expected 'list' or 'base64', got {encoding!r}")
        if "fields" in tensors:
            array = np.asarray(tensors["fields"])
            starts, truths = (array if array.ndim == 4 else array[None]), None
        else:
            example = self.example(whole_number(parameters, "example", 0, 0, 2**31))
            starts, truths = example[:1].numpy(), example[1:]
        return [
            ForecastSample(
                self.sample(start, steps, members, amplitude, seed).state, steps, encoding, truths
            )
            for start in starts
        ]

    def example(self, number: int) -> Tensor:
        """A recorded run [1 + T, C, H, W] in physical units; InputError if there is none."""
        path = None if self.folder is None else self.folder / EXAMPLES
        if path is None or not path.is_file():
            raise InputError(f"send `fields`: {self.name} has no examples")
        with safe_open(path, framework="pt") as file:
            runs = file.get_slice("fields")
            count = runs.get_shape()[0]
            if number >= count:
                raise InputError(f"example: expected 0..{count - 1}, got {number}")
            chosen: Tensor = runs[number].float()
        return chosen

    def bucket(self, sample: ForecastSample) -> Hashable:
        return tuple(sample.state.shape), sample.steps

    def run(self, samples: Sequence[ForecastSample]) -> list[Forecast]:
        """Rolls samples of one bucket forward together."""
        state = torch.cat([sample.state for sample in samples])
        means: list[Tensor] = []
        spreads: list[Tensor] = []
        for number in range(1, samples[0].steps + 1):
            state = self.advance(state)
            self._check(state, f"the forecast diverged at step {number}")
            members = torch.unflatten(
                self.physical(state), 0, (len(samples), -1)
            )  # [N, M, C, H, W]
            means.append(members.mean(dim=1))
            spreads.append(members.std(dim=1, correction=0))
        fields, spread = torch.stack(means, dim=1), torch.stack(spreads, dim=1)
        alone = len(samples[0].state) == 1
        return [Forecast(fields[i], None if alone else spread[i]) for i in range(len(samples))]

    def encode(self, predictions: Sequence[Forecast], parameters: Mapping[str, Any]) -> Arrays:
        """`fields` [N, T, C, H, W], and `spread` of the same shape for ensembles."""
        arrays = {"fields": torch.stack([each.fields for each in predictions]).numpy()}
        spreads = [each.spread for each in predictions if each.spread is not None]
        return arrays | ({"spread": torch.stack(spreads).numpy()} if spreads else {})

    def open_stream(self) -> StreamEngine:
        return ForecastEngine(self)


def grid_of(about: Mapping[str, Any]) -> Grid:
    """The grid that a bundle's config describes: {"kind": "globe" | "torus", "size": [H, W]}."""
    height, width = about["size"]
    if about.get("kind", "globe") == "torus":
        return Grid.torus(height, width, about.get("length", 1.0))
    return Grid.globe(height, width)


def from_bundle(bundle: Bundle, model: Any) -> ForecastPredictor:
    """The predictor of a forecast bundle, from the `preprocess` part of its config."""
    about = bundle.config["preprocess"]
    return ForecastPredictor(
        bundle.name,
        bundle.version,
        model,
        bundle.config,
        channels=tuple(about["channels"]),
        units=tuple(about.get("units", ())),
        mean=torch.tensor(about["mean"], dtype=torch.float32)[:, None, None],
        std=torch.tensor(about["std"], dtype=torch.float32)[:, None, None],
        grid=grid_of(about["grid"]),
        interval=float(about.get("interval", 6.0)),
        interval_unit=str(about.get("interval_unit", "hours")),
        folder=bundle.path,
    )


class Step(torch.nn.Module):
    """x [1, C, H, W] -> y [1, C_out, H, W]."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.model(x)
        return y


def program(predictor: Any, size: tuple[int, int] | None) -> Program:
    """What an export writes: one step of the model."""
    height, width = size or predictor.grid.shape
    example = (torch.zeros(1, len(predictor.channels), height, width),)
    return Program(Step(nn.to_torch(predictor.model)), example, ("x",), ("y",))
