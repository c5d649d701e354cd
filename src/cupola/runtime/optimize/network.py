"""The network inside a predictor: the one method of its model that an engine replaces.

A model names the method in `engine_method`, by default "forward". It takes tensors and constants
and returns tensors, in any nesting of tuples, lists, dicts and named tuples. What comes before and
after it stays the model's.
"""

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from cupola import nn
from cupola.errors import CupolaError

Signature = tuple[Any, ...]


class EngineUnavailableError(CupolaError, RuntimeError):
    """An engine that cannot execute this model here; the message says why."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of the network, flattened."""

    leaves: tuple[Any, ...]
    spec: Any

    @classmethod
    def of(cls, args: Sequence[Any]) -> "Call":
        """Of positional arguments."""
        leaves, spec = pytree.tree_flatten(tuple(args))
        return cls(tuple(leaves), spec)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The leaves that are tensors: the inputs of a graph."""
        return tuple(each for each in self.leaves if isinstance(each, Tensor))

    @property
    def args(self) -> tuple[Any, ...]:
        """The arguments themselves."""
        found: tuple[Any, ...] = pytree.tree_unflatten(list(self.leaves), self.spec)
        return found

    @property
    def signature(self) -> Signature:
        """What a graph of fixed sizes depends on: nesting, shapes, types, and all constants."""
        return self.spec, tuple(_about(each) for each in self.leaves)

    @property
    def kind(self) -> Signature:
        """The same without sizes: what a graph of dynamic sizes depends on."""
        return self.spec, tuple(
            (each.ndim, each.dtype) if isinstance(each, Tensor) else each for each in self.leaves
        )


def _about(leaf: Any) -> Any:
    if isinstance(leaf, Tensor):
        return tuple(leaf.shape), leaf.dtype, leaf.device.type
    return leaf


class _StopError(Exception):
    """Ends a run at the call of the network."""


class Network:
    """The replaceable method of a predictor's model."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.method: str = getattr(model, "engine_method", "forward")

    @property
    def original(self) -> Callable[..., Any]:
        """The method as the model's class defines it."""
        found: Callable[..., Any] = getattr(type(self.model), self.method).__get__(self.model)
        return found

    @cached_property
    def _parameters(self) -> inspect.Signature:
        return inspect.signature(self.original)

    def call(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call | None:
        """A call of the method, its defaults filled in.

        However an argument is given, by place, by name or by its default, the call is the same.
        None if one can only be given by name, or is not the method's.
        """
        try:
            found = self._parameters.bind(*args, **kwargs)
        except TypeError:
            return None
        if found.kwargs:
            return None
        found.apply_defaults()
        return Call.of(found.args)

    def replace(self, call: Callable[..., Any]) -> None:
        """Lets `call` answer instead, with the same arguments."""
        self.model.__dict__[self.method] = call

    def restore(self) -> None:
        """Undoes `replace`."""
        self.model.__dict__.pop(self.method, None)

    def first_call(self, run: Callable[[], Any]) -> Call | None:
        """The arguments of the first call that `run` makes, without executing the network."""
        found: list[Call | None] = []

        def stop(*args: Any, **kwargs: Any) -> Any:
            found.append(self.call(args, kwargs))
            raise _StopError

        self.replace(stop)
        try:
            with suppress(_StopError):
                run()
        finally:
            self.restore()
        return found[0] if found else None


class Traced(torch.nn.Module):
    """The network as a torch module from tensors to a tuple of tensors, for exporters.

    Its weights are those of the model, which stays as it is.
    """

    def __init__(self, network: Network, call: Call, flat: Callable[[Any], tuple[Tensor, ...]]):
        super().__init__()
        model = with_shared_weights(network.model)
        model.__dict__.pop(network.method, None)
        self.model = nn.to_torch(model).eval().requires_grad_(False)
        self.method, self.call, self.flat = network.method, call, flat

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = iter(tensors)
        leaves = [next(given) if isinstance(each, Tensor) else each for each in self.call.leaves]
        args = pytree.tree_unflatten(leaves, self.call.spec)
        call = self.model if self.method == "forward" else getattr(self.model, self.method)
        return self.flat(call(*args))


def with_shared_weights(model: Any) -> Any:
    """A copy of a model with the same tensors."""
    tensors = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(each): each for each in tensors})
