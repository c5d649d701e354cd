"""Moving average of the weights, swapped in for evaluation."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError, did_you_mean

Decay = Callable[[int], float]  # steps since the average began -> the part of it that stays


def warmed_up(decay: float = 0.999) -> Decay:
    """At most (1 + n) / (10 + n) after n updates, so that random initial weights are forgotten.

    Source: TensorFlow's ExponentialMovingAverage.
    """
    return lambda n: min(decay, (2 + n) / (11 + n))


def exponential(momentum: float = 0.0002) -> Decay:
    """The same momentum, 1 - decay, at every update."""
    return lambda n: 1 - momentum if n else 0.0


def annealed(momentum: float = 0.0002, gamma: float = 100) -> Decay:
    """A momentum of gamma / (gamma + n), at least `momentum`."""
    return lambda n: 1 - max(momentum, gamma / (gamma + n)) if n else 0.0


def exponential_momentum(momentum: float = 0.0002, gamma: float = 2000) -> Decay:
    """A momentum that falls to `momentum` as exp(-(1 + n) / gamma) does, as YOLOX has it."""

    def decay(n: int) -> float:
        return (1 - momentum) * (1 - math.exp(-(1 + n) / gamma)) if n else 0.0

    return decay


def mean() -> Decay:
    """The plain mean of the weights of all updates."""
    return lambda n: n / (n + 1)


def by_updates(decay: Decay, interval: int) -> Decay:
    """A decay of the number of updates as one of the number of steps."""
    return lambda n: decay(n // interval)


# MMEngine's names; the first update of those copies the weights.
KINDS: dict[str, Callable[..., Decay]] = {
    "MovingAverage": warmed_up,
    "ExponentialMovingAverage": exponential,
    "ExpMomentumEMA": exponential_momentum,
    "MomentumAnnealingEMA": annealed,
    "StochasticWeightAverage": mean,
}
BY_UPDATES = ("MovingAverage", "StochasticWeightAverage")  # the others go by steps


class MovingAverage:
    """average <- decay * average + (1 - decay) * weight, in float32.

    With `update_buffers` the running statistics of batch norms are averaged, too. Until step
    `begin` the average is equal to the weights; from then on it is updated every `interval` steps.
    A number as `decay` is warmed up by the number of updates.
    """

    def __init__(
        self,
        model: nn.Module,
        decay: float | Decay = 0.999,
        update_buffers: bool = False,
        interval: int = 1,
        begin: int = 0,
    ) -> None:
        self._decay = decay if callable(decay) else by_updates(warmed_up(decay), interval)
        self._seen, self._interval, self._begin = 0, interval, begin
        self._live: list[Tensor] = [value for _, value in model.named_parameters()]
        if update_buffers:
            self._live += [each for _, each in model.named_buffers() if each.is_floating_point()]
        self.restart()

    @torch.no_grad()
    def restart(self) -> None:
        """Begins again with the current weights."""
        self._seen = 0
        self.tensors = [value.detach().clone().float() for value in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Adds the current weights to the average."""
        steps = self._seen - self._begin
        self._seen += 1
        if steps > 0 and steps % self._interval:
            return
        decay = self._decay(steps) if steps >= 0 else 0.0
        live = [value.detach().float() for value in self._live]
        torch._foreach_lerp_(self.tensors, live, 1 - decay)

    @torch.no_grad()
    def _exchange(self) -> None:
        for value, average in zip(self._live, self.tensors, strict=True):
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
        """Number of steps and the averaged tensors, in the model's parameter order."""
        return {"seen": self._seen, "average": self.tensors}

    def load_state_dict(self, state: dict[str, int | list[Tensor]]) -> None:
        """Restores what `state_dict` returned."""
        average, seen = state["average"], state.get("seen", state.get("updates"))
        assert isinstance(average, list) and isinstance(seen, int)
        self._seen = seen
        for mine, theirs in zip(self.tensors, average, strict=True):
            mine.copy_(theirs)


def build_average(model: nn.Module, cfg: Mapping[str, Any]) -> MovingAverage:
    """The moving average that an `ema` section describes.

    `type` is one of MMEngine's averaged models with its arguments; by default `decay` is warmed up.
    Raises BuildError for an unknown type or argument.
    """
    arguments = dict(cfg)
    own = {k: arguments.pop(k) for k in ("update_buffers", "interval", "begin") if k in arguments}
    kind = str(arguments.pop("type", "MovingAverage")).rpartition(".")[2]
    if kind not in KINDS:
        raise BuildError(f"ema: unknown type {kind!r}{did_you_mean(kind, KINDS)}")
    try:
        decay = KINDS[kind](**arguments)
        if kind in BY_UPDATES:
            decay = by_updates(decay, own.get("interval", 1))
        return MovingAverage(model, decay, **own)
    except TypeError as error:
        raise BuildError(f"ema {kind}: {error}") from None
