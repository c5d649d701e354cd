"""Graphs: the network executed by a compiled graph where it fits the arguments, else as it is.

A graph of fixed sizes serves calls of exactly its shapes, one of dynamic sizes any batch, height
and width. No graph is built while a request waits: other sizes are answered by the model itself.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cupola.runtime.optimize import structure
from cupola.runtime.optimize.building import ADVICE, UnfinishedError, build
from cupola.runtime.optimize.engines import Situation
from cupola.runtime.optimize.network import (
    Call,
    EngineUnavailableError,
    Network,
    Traced,
    with_shared_weights,
)
from cupola.runtime.optimize.tracing import Axes

BUILDING = 0.75  # of the time that is left; the rest is for taking up the engines of a graph


class Graph(Protocol):
    """A network that some library executes."""

    def __call__(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The results, new tensors on the device of the inputs."""


class Replacement:
    """What replaces the method of a network: a graph for one kind of call."""

    def __init__(self, network: Network, call: Call, graph: Graph, nesting: Any, dynamic: bool):
        self.original, self.model = network.original, network.model
        self.graph, self.nesting, self.dynamic = graph, nesting, dynamic
        self.fits = call.kind if dynamic else call.signature

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs and not torch.is_grad_enabled() and not self.model.training:
            call = Call.of(args)
            if self.fits == (call.kind if self.dynamic else call.signature):
                found = self.graph(call.tensors)
                return structure.assembled(self.nesting, iter(found))
        return self.original(*args, **kwargs)


def with_graph(
    situation: Situation, kind: str, path: Path, axes: Axes, open_graph: Callable[[], Graph]
) -> Any:
    """A copy of the folded model whose network is executed by a graph of a kind, built if missing.

    axes: the dynamic axes of the inputs; none: the sizes are those of the recorded call.
    """
    call = situation.call()
    model = with_shared_weights(situation.folded)
    network = Network(model)
    about = path.with_suffix(".json")
    if not (path.exists() and about.exists()):
        if not situation.build:
            raise EngineUnavailableError("not built yet")
        _describe(situation, about)
        if not path.exists():
            _build(situation, kind, path, axes, Traced(network, call, structure.tensors_of))
    try:
        nesting = structure.read(about)
    except EngineUnavailableError:
        about.unlink(missing_ok=True)
        raise
    network.replace(Replacement(network, call, open_graph(), nesting, bool(axes)))
    return model


def _describe(situation: Situation, about: Path) -> None:
    try:
        structure.write(about, structure.described(situation.answer))
    except OSError as error:
        raise EngineUnavailableError(f"not built: {error}") from None


def _build(situation: Situation, kind: str, path: Path, axes: Axes, traced: Traced) -> None:
    _wait_for_others(situation, path)
    seconds = situation.seconds_left() * BUILDING
    try:
        build(kind, traced, situation.call(), axes, path, seconds, situation.nice)
    except UnfinishedError as error:
        situation.awaited[path.name] = str(error)
        raise


def _wait_for_others(situation: Situation, path: Path) -> None:
    """UnfinishedError if another engine has begun this graph, or any that is not finished yet."""
    awaited = situation.awaited
    if awaited and path.name not in awaited:  # one at a time: they would share the cores
        awaited[path.name] = f"not built: another graph has taken all the time; {ADVICE}"
    if awaited:
        raise UnfinishedError(awaited[path.name])
