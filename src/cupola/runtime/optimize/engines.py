"""The engines: ways to execute the network of a predictor, each behind the same interface.

An engine says whether it can run here (`missing`), and makes the model that executes with it.
`ENGINES` holds them by name, the simplest first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch

from cupola.bundles.optimizations import ALL_SECONDS
from cupola.runtime.optimize.network import (
    Call,
    EngineUnavailableError,
    Network,
    with_shared_weights,
)


@dataclass
class Situation:
    """What an engine is installed for.

    `model` is that of the predictor as it was loaded, which stays as it is. `sample` is the example
    on which its network is called. `folder` is where graphs are kept, None for nowhere.
    `seconds_left` is the time in which a graph must be built, at the priority `nice`, and `build`
    says whether one may be built at all. `awaited` has the files of graphs that were not built in
    time, by name, with the reason.
    """

    predictor: Any
    model: Any
    sample: Any
    folder: Path | None = None
    build: bool = True
    seconds_left: Callable[[], float] = field(default=lambda: ALL_SECONDS)
    nice: int = 0
    awaited: dict[str, str] = field(default_factory=dict)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        found: torch.device = getattr(self.predictor, "device", torch.device("cpu"))
        return found

    @cached_property
    def folded(self) -> Any:
        """The model for inference with its batch norms folded, if it has any."""
        return folded(self.model)

    def call(self) -> Call:
        """The first call of the network; EngineUnavailableError if the model makes none."""
        if self._call is None:
            method = Network(self.model).method
            raise EngineUnavailableError(
                f"predict of {type(self.model).__name__} does not call {method} with tensors alone"
            )
        return self._call

    @cached_property
    def answer(self) -> Any:
        """What the network of the loaded model answers to it."""
        method = getattr(self.model, Network(self.model).method)
        with torch.inference_mode():
            return method(*self.call().args)

    @cached_property
    def _call(self) -> Call | None:
        run = self.predictor.run
        return Network(self.model).first_call(lambda: run([self.sample]))


def folded(model: Any) -> Any:
    """A model for inference with its batch norms folded; the model itself if it has none."""
    from cupola.runtime.optimize.folding import fold_batch_norms, foldable

    return fold_batch_norms(model, share=True) if foldable(model) else model


class Engine(ABC):
    """One way to execute a network."""

    name: ClassVar[str]
    exact: ClassVar[bool] = True  # the same function but for rounding in the type of the weights
    cost: ClassVar[int] = 0  # of its graph, 0 for none: with little time, cheap ones come first

    def missing(self, device: torch.device) -> str | None:
        """Why this engine cannot run on this machine and device; None if it can."""
        return None

    @abstractmethod
    def model_of(self, situation: Situation) -> Any:
        """The model that the predictor is to use; EngineUnavailableError says why there is none."""


class Eager(Engine):
    """The model as it was loaded."""

    name = "eager"

    def model_of(self, situation: Situation) -> Any:
        return situation.model


class Folded(Engine):
    """Batch norms folded, channels last, and fused and packed for oneDNN where it is there."""

    name = "folded"

    def model_of(self, situation: Situation) -> Any:
        from cupola.runtime.optimize.fusing import fuse
        from cupola.runtime.optimize.packing import pack, packs

        if situation.device.type == "cpu" and packs():
            return pack(fuse(with_shared_weights(situation.folded), pack=True))
        if situation.folded is situation.model:
            raise EngineUnavailableError("no batch norms to fold, and no kernel for packed weights")
        return situation.folded


class Int8(Engine):
    """Linear layers in eight bits, activations rounded to eight bits row by row."""

    name = "int8"
    exact = False

    def missing(self, device: torch.device) -> str | None:
        from cupola.parallel.eight_bits import exact_kernels

        if device.type != "cpu":
            return f"computes on the CPU, and the model is on {device}"
        return None if exact_kernels() else "no exact product of int8 matrices on this processor"

    def model_of(self, situation: Situation) -> Any:
        from cupola.runtime.optimize.eight_bits import in_eight_bits

        return in_eight_bits(situation.folded)
