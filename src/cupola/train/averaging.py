"""Exponential moving average of the weights, swapped in for evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from cupola import nn


class MovingAverage:
    """average <- decay * average + (1 - decay) * weight, in float32.

    After n updates the decay is at most (1 + n) / (10 + n), so that the average forgets the random
    initial weights (as in TensorFlow's ExponentialMovingAverage).
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.decay, self.updates = decay, 0
        self._live = [value for _, value in model.named_parameters()]
        self._average = [value.detach().clone().float() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Adds the current weights to the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        live = [value.detach().float() for value in self._live]
        torch._foreach_lerp_(self._average, live, 1 - decay)

    @torch.no_grad()
    def _exchange(self) -> None:
        for value, average in zip(self._live, self._average, strict=True):
            kept = value.detach().clone()
            value.copy_(average)
            average.copy_(kept)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the model's weights are the average."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def state_dict(self) -> dict[str, int | list[Tensor]]:
        """Number of updates and the averaged tensors, in the model's parameter order."""
        return {"updates": self.updates, "average": self._average}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Restores what `state_dict` returned."""
        updates, average = state["updates"], state["average"]
        assert isinstance(updates, int) and isinstance(average, list)
        self.updates = updates
        for mine, theirs in zip(self._average, average, strict=True):
            mine.copy_(theirs)
