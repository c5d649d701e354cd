"""Graphs: the network executed by a compiled graph where it fits the arguments, else as it is.

A graph of fixed sizes serves calls of exactly its shapes, one of dynamic sizes any batch, height
and width. No graph is built while a request waits: other sizes are answered by the model itself.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from cupola.runtime.optimize import structure
from cupola.runtime.optimize.building import ADVICE, UnfinishedError, build
from cupola.runtime.optimize.engines import Situation, folded
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
    """What replaces the method of a model's network: a graph for one kind of call.

    `other` makes the model for other calls: only when one comes, as many processes see none.
    """

    def __init__(
        self,
        model: Any,
        other: Callable[[], Any],
        call: Call,
        graph: Graph,
        nesting: Any,
        dynamic: bool,
    ) -> None:
        self.network, self._other = Network(model), other
        self.graph, self.nesting, self.dynamic = graph, nesting, dynamic
        self.fits = call.kind if dynamic else call.signature
        self.answered = self.passed_on = 0  # calls by the graph, and by the other model

    @cached_property
    def _for_others(self) -> Callable[..., Any]:
        return Network(self._other()).original

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled() or self.network.model.training:
            return self.network.original(*args, **kwargs)
        call = self.network.call(args, kwargs)
        if call is not None and self.fits == (call.kind if self.dynamic else call.signature):
            found = self.graph(call.tensors)
            self.answered += 1
            return structure.assembled(self.nesting, iter(found))
        self.passed_on += 1
        return self._for_others(*args, **kwargs)


def graph_of(model: Any) -> Replacement | None:
    """The graph that executes the network of a predictor's model, if one does."""
    found = getattr(model, "__dict__", {}).get(getattr(model, "engine_method", "forward"))
    return found if isinstance(found, Replacement) else None


def with_graph(
    situation: Situation, kind: str, path: Path, axes: Axes, open_graph: Callable[[], Graph]
) -> Any:
    """A copy of the model whose network is executed by a graph of a kind, built if missing.

    axes: the dynamic axes of the inputs; none: the sizes are those of the recorded call. What
    the model computes beside the network, it computes with its batch norms folded.
    """
    call = situation.call()
    about = path.with_suffix(".json")
    if not (path.exists() and about.exists()):
        if not situation.build:
            raise EngineUnavailableError("not built yet")
        _describe(situation, about)
        if not path.exists():
            traced = Traced(Network(situation.folded), call, structure.tensors_of)
            _build(situation, kind, path, axes, traced)
    try:
        nesting = structure.read(about)
    except EngineUnavailableError:
        about.unlink(missing_ok=True)
        raise
    graph = open_graph()
    model, other = _models(situation)
    Network(model).replace(Replacement(model, other, call, graph, nesting, bool(axes)))
    return model


def _models(situation: Situation) -> tuple[Any, Callable[[], Any]]:
    """The model whose network a graph replaces, and what makes the one for other calls."""
    plain = situation.model
    if Network(plain).method == "forward":  # the graph computes all that has batch norms
        return with_shared_weights(plain), lambda: folded(plain)
    model = with_shared_weights(situation.folded)
    return model, lambda: model


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
