"""Charging what a build makes, before it takes memory, and trying a build without memory first."""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from itertools import zip_longest
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from cupola import nn
from cupola.nn.meta import parameter_device
from cupola.nn.store import creation_watcher
from cupola.registry.budget import MAX_TABLES, BudgetError, BuildBudget, Limits, in_force

# Operations that make a tensor from sizes alone, and what gives the number of its elements.
COUNTED: dict[str, Callable[..., tuple[Any, ...]]] = {
    "aten::eye": lambda n, m=None, *_: (n, n if m is None else m),
    "aten::linspace": lambda start, end, steps, *_: (steps,),
    "aten::logspace": lambda start, end, steps, *_: (steps,),
    "aten::randperm": lambda n, *_: (n,),
    "aten::tril_indices": lambda rows, columns, *_: (2, rows, columns),
    "aten::triu_indices": lambda rows, columns, *_: (2, rows, columns),
}
BY_SHAPE = {
    "aten::empty", "aten::empty_strided", "aten::empty_permuted", "aten::zeros", "aten::ones",
    "aten::full", "aten::rand", "aten::randn", "aten::randint", "aten::normal", "aten::resize_",
    "aten::new_empty", "aten::new_empty_strided", "aten::new_zeros", "aten::new_ones",
    "aten::new_full",
}  # fmt: skip

JOINING = {"aten::cat", "aten::stack"}
ONE_NUMBER = {"aten.all.default", "aten.any.default", "aten.max.default", "aten.min.default"}


def build_within(
    make: Callable[[], Any], limits: Limits, device: Any = None, explicit: bool = False
) -> Any:
    """The result of `make`, which constructs a model, if it stays within the limits.

    A model that is to have memory is first made without: its parameters are counted on the meta
    device. Where that fails, for a class that reads its parameters' values, the model may have no
    more numbers than constructors' tables [any that the caller allows by `explicit`].
    """
    if _is_without_memory(device):
        with charging(replace(limits, allocated=MAX_TABLES)):
            return make()
    tables = limits.allocated if explicit else MAX_TABLES
    states = torch.get_rng_state(), random.getstate()
    try:
        with nn.on_meta(), charging(Limits(limits.modules, limits.allocated, tables)):
            make()
    except Exception as error:
        if not _needs_values(error):
            raise
        limits = replace(limits, allocated=tables)
    finally:
        torch.set_rng_state(states[0])
        random.setstate(states[1])
    with charging(limits):
        return make()


def _needs_values(error: BaseException | None) -> bool:
    """Whether a constructor failed because a tensor on the meta device has no values."""
    while error is not None:
        if not isinstance(error, BudgetError) and "meta" in str(error):
            return True
        error = error.__cause__
    return False


def _is_without_memory(device: Any) -> bool:
    if device is not None and torch.device(device).type == "meta":
        return True
    return torch.empty(0, device=parameter_device(None)).is_meta


@contextmanager
def charging(limits: Limits) -> Iterator[BuildBudget]:
    """Charges every module and tensor that is made meanwhile to a new budget."""
    budget = BuildBudget(limits)
    token = creation_watcher.set(budget.charge_module)
    try:
        with in_force(budget), _ChargedTensors(budget):
            yield budget
    finally:
        creation_watcher.reset(token)


class _ChargedTensors(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Every operation of torch pays for its result first."""

    def __init__(self, budget: BuildBudget) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._budget = budget

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing compiles a build, and the wrapper doubles its time

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        kind = _kind(func)
        if kind == "planned":
            name = func._schema.name
            shape = tuple(args[0].shape) if name.endswith("_like") else _planned(name, args)
            device = kwargs.get("device") or getattr(args[0], "device", None)
            self._pay(shape, device is not None and torch.device(device).type == "meta")
        elif kind == "pointwise":
            tensors = _tensors((args, kwargs))
            is_meta = any(each.is_meta for each in tensors)
            self._pay(_broadcast(tensors), is_meta)
        elif kind == "joined":
            tensors = _tensors(args)
            numbers = sum(each.numel() for each in tensors)
            self._pay((numbers,), any(each.is_meta for each in tensors))
        elif kind == "computed":
            self._pay_like(func, args, kwargs)
        return func(*args, **kwargs)

    def _pay_like(self, func: Any, args: Any, kwargs: Any) -> None:
        """Pays for what an operation on tensors will return, found on the meta device."""
        device = kwargs.get("device")
        is_meta = any(each.is_meta for each in _tensors(args))
        if device is not None:
            is_meta, kwargs = torch.device(device).type == "meta", kwargs | {"device": "meta"}
        try:
            twins, named = torch.utils._pytree.tree_map(_on_meta, (args, kwargs))
            made = func(*twins, **named)
        except Exception:
            return  # its size depends on values: no larger than its inputs
        for each in _tensors(made):
            self._pay(tuple(each.shape), is_meta)

    def _pay(self, shape: tuple[int, ...], is_meta: bool) -> None:
        self._budget.charge_numbers(shape, math.prod(shape), is_meta)


@cache
def _kind(func: Any) -> str:
    """Whether a result is "planned" from sizes alone, "computed" from tensors, or takes nothing.

    Of the computed ones those that are "pointwise" have the shape that their inputs are broadcast
    to, and those that are "joined" the numbers of their inputs. The meta device could tell too, but
    would import TorchDynamo for them, which takes seconds and 60 MB.
    """
    name = func._schema.name
    if name.endswith("_like") or name in BY_SHAPE or name in COUNTED or name == "aten::arange":
        return "planned"
    if func._schema.is_mutable or func.is_view or str(func) in ONE_NUMBER:
        return "free"
    if name in JOINING:
        return "joined"
    return "pointwise" if torch.Tag.pointwise in func.tags else "computed"


def _planned(name: str, args: tuple[Any, ...]) -> tuple[int, ...]:
    if name in COUNTED:
        return tuple(int(each) for each in COUNTED[name](*args))
    if name == "aten::arange":
        start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        return (max(math.ceil((end - start) / step), 0) if step else 0,)
    return next((tuple(each) for each in args if isinstance(each, list | tuple)), ())


def _broadcast(tensors: Sequence[torch.Tensor]) -> tuple[int, ...]:
    """Their common shape; torch.broadcast_shapes would import SymPy."""
    columns = zip_longest(*(reversed(each.shape) for each in tensors), fillvalue=1)
    return tuple(reversed([max(sizes) for sizes in columns]))


def _tensors(values: Any) -> list[torch.Tensor]:
    leaves = torch.utils._pytree.tree_leaves(values)
    return [each for each in leaves if isinstance(each, torch.Tensor)]


def _on_meta(value: Any) -> Any:
    return torch.empty_like(value, device="meta") if isinstance(value, torch.Tensor) else value
