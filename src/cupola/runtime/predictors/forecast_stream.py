"""ForecastEngine: streamed forecasts, all advanced together, each sent state by state."""

import base64
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cupola.runtime.predictor import Chunk
from cupola.runtime.predictors.forecast import ForecastPredictor, ForecastSample
from cupola.structures.grids import name_bad_values


@dataclass
class Rollout:
    """A streamed forecast under way."""

    sample: ForecastSample
    state: Tensor
    step: int = 0


class ForecastEngine:
    """Many roll-outs, each one state further at every `step`; memory does not grow with time."""

    def __init__(self, predictor: ForecastPredictor) -> None:
        self.predictor = predictor
        self._runs: dict[str, Rollout] = {}

    @property
    def active(self) -> int:
        """How many forecasts are under way."""
        return len(self._runs)

    def add(self, request_id: str, sample: ForecastSample) -> None:
        """Takes a forecast in."""
        self._runs[request_id] = Rollout(sample, sample.state)

    def cancel(self, request_id: str) -> None:
        """Forgets a forecast."""
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
                text = f"the forecast broke down at step {run.step}: not finite: {bad}"
                return Chunk(request_id, {"error": text}, final=True)
        members = predictor.physical(state)
        data = {
            "step": run.step,
            "lead": run.step * predictor.interval,
            "unit": predictor.interval_unit,
            "channels": list(predictor.channels),
            "shape": list(members.shape[1:]),
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


def encoded(state: Tensor, encoding: str) -> Any:
    """A field as nested lists, or as the base64 text of its little-endian float32 numbers."""
    if encoding == "list":
        return state.tolist()
    return base64.b64encode(state.numpy().astype("<f4").tobytes()).decode("ascii")
