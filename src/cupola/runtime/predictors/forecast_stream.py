"""ForecastEngine: streamed forecasts, advanced together and sent state by state."""

import base64
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from cupola.runtime.predictor import Chunk
from cupola.structures.grids import Grid, name_bad_values
from cupola.structures.variables import channel_names


@dataclass(frozen=True)
class ForecastSample:
    """An initial state [M, C, H, W] in the model's units, and how to continue it.

    encoding: of streamed fields, "list" (nested numbers) or "base64" (little-endian float32).
    truth: [T, P, H, W] in physical units, if known. time: of the start, in seconds since 1970.
    mask: [C, H, W], where the start has values, if it lacks some. convention: of the names.
    """

    state: Tensor
    steps: int
    encoding: str = "list"
    truth: Tensor | None = None
    time: float | None = None
    mask: Tensor | None = None
    convention: str = "cf"


class FieldModel(Protocol):
    """What a rollout needs of a predictor."""

    channels: tuple[str, ...]
    grid: Grid | None
    interval: float
    interval_unit: str

    @property
    def shown(self) -> tuple[str, ...]:
        """The channels of a forecast."""

    @property
    def shown_units(self) -> tuple[str, ...]:
        """Their units."""

    @property
    def step_seconds(self) -> float | None:
        """One step in seconds; None for a model without a calendar."""

    def advance(self, state: Tensor) -> Tensor:
        """One step of a batch, [B, C, H, W], in the model's units."""

    def force(self, state: Tensor, time: float | None, step: int) -> Tensor:
        """Sets the channels that follow from the date."""

    def physical(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """From the model's units to physical ones."""


@dataclass
class Rollout:
    """A streamed forecast in progress."""

    sample: ForecastSample
    state: Tensor
    step: int = 0


class ForecastEngine:
    """Many rollouts, each advanced by one state per `step`; memory does not grow with time."""

    def __init__(self, predictor: FieldModel) -> None:
        self.predictor = predictor
        self._runs: dict[str, Rollout] = {}

    @property
    def active(self) -> int:
        """The number of forecasts in progress."""
        return len(self._runs)

    def add(self, request_id: str, sample: ForecastSample) -> None:
        """Adds a forecast."""
        self._runs[request_id] = Rollout(sample, sample.state)

    def cancel(self, request_id: str) -> None:
        """Removes a forecast."""
        self._runs.pop(request_id, None)

    def step(self) -> list[Chunk]:
        """Advances all forecasts by one state, together."""
        runs = list(self._runs.items())
        if not runs:
            return []
        following = self.predictor.advance(torch.cat([run.state for _, run in runs]))
        states = torch.split(following, [len(run.state) for _, run in runs])
        return [
            self._chunk(request_id, run, state)
            for (request_id, run), state in zip(runs, states, strict=True)
        ]

    def _chunk(self, request_id: str, run: Rollout, state: Tensor) -> Chunk:
        run.state, run.step = state, run.step + 1
        predictor, sample = self.predictor, run.sample
        for member in state:
            if bad := name_bad_values(member, predictor.channels):
                self.cancel(request_id)
                text = f"the forecast diverged at step {run.step}: not finite: {bad}"
                return Chunk(request_id, {"error": text}, final=True)
        run.state = state = predictor.force(state, sample.time, run.step)
        if sample.mask is not None:
            run.state = state = torch.where(sample.mask, state, 0.0)
        members = predictor.physical(state, sample.mask)
        data = {
            "step": run.step,
            "lead": run.step * predictor.interval,
            "unit": predictor.interval_unit,
            "channels": list(channel_names(predictor.shown, sample.convention)),
            "units": list(predictor.shown_units),
            "shape": list(members.shape[1:]),
            **times_of(predictor, sample, run.step),
            **grid_of(predictor, run.step),
            "field": encoded(members.mean(dim=0), sample.encoding),
        }
        if len(members) > 1:
            data["spread"] = encoded(members.std(dim=0, correction=0), sample.encoding)
        if sample.truth is not None and run.step <= len(sample.truth):
            data["truth"] = encoded(sample.truth[run.step - 1], sample.encoding)
        final = run.step >= sample.steps
        if final:
            self.cancel(request_id)
        return Chunk(request_id, data, final)


def grid_of(predictor: FieldModel, step: int) -> dict[str, Any]:
    """The latitudes and longitudes, in the first state of a stream."""
    grid = predictor.grid
    known = step == 1 and grid is not None and grid.spherical
    return {"grid": grid.to_config()} if known and grid is not None else {}


def times_of(predictor: FieldModel, sample: ForecastSample, step: int) -> dict[str, str]:
    """The dates of a state, where the start has one, under the names of the convention."""
    if sample.time is None or predictor.step_seconds is None:
        return {}
    names = {
        "cf": ("forecast_reference_time", "time"),
        "wb": ("time", "valid_time"),
        "e2s": ("time", "valid_time"),
    }[sample.convention]
    moments = (sample.time, sample.time + step * predictor.step_seconds)
    texts = (str(np.datetime64(round(moment), "s")) for moment in moments)
    return dict(zip(names, texts, strict=True))


def encoded(state: Tensor, encoding: str) -> Any:
    """A field as nested lists, or as the base64 text of its little-endian float32 numbers."""
    if encoding == "list":
        return state.tolist()
    return base64.b64encode(state.numpy().astype("<f4").tobytes()).decode("ascii")
