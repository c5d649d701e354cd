"""Records shapes, FLOPs, activation memory and time of every module in a forward pass."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from cupola.errors import InputError
from cupola.inspect.trace import Flow, Tracer, tensors

REPEAT_BELOW = 1.0  # seconds


@dataclass
class Visit:
    """What one module did in the pass: sums over its calls, its children included."""

    calls: int = 0
    first: int = 0  # its place in the order of first calls
    seconds: float = 0.0
    flops: int = 0  # as torch's FlopCounterMode counts: two per multiply-add
    activation_bytes: int = 0  # of its outputs
    shape_in: str = ""
    shape_out: str = ""


@dataclass
class Pass:
    """A recorded forward pass: visits by the id of the module, and totals."""

    visits: dict[int, Visit] = field(default_factory=dict)
    flops: int = 0
    seconds: float = 0.0
    output: Any = None
    flow: Flow = field(default_factory=Flow)
    inputs: dict[str, str] = field(default_factory=dict)  # shapes by name


def probe(model: Any, inputs: Mapping[str, Any]) -> Pass:
    """Runs `model` without gradients, in evaluation mode, and records the pass.

    A pass of under a second is repeated, since the first one includes start-up costs.
    Works for cupola and torch modules. InputError if the model does not take the inputs.
    """
    seen = _one_pass(model, inputs)
    return seen if seen.seconds > REPEAT_BELOW else _one_pass(model, inputs)


def _one_pass(model: Any, inputs: Mapping[str, Any]) -> Pass:
    seen = Pass(inputs={name: shape_text(value) for name, value in inputs.items()})
    tracer = Tracer(model, inputs)
    training = [(module, module.training) for module in model.modules()]
    fused = torch.backends.mha.get_fastpath_enabled()
    model.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # its fused call would count as no FLOPs
    try:
        with torch.no_grad(), tracer, _watch(model, seen, tracer):
            began = time.perf_counter()
            seen.output = model(**inputs)
            seen.seconds = time.perf_counter() - began
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        shapes = ", ".join(f"{name} {shape}" for name, shape in seen.inputs.items())
        raise InputError(f"{type(model).__name__} does not take {shapes}: {error}") from error
    finally:
        for module, mode in training:
            module.training = mode
        torch.backends.mha.set_fastpath_enabled(fused)
    seen.flops, seen.flow = tracer.flops, tracer.flow
    return seen


@contextmanager
def _watch(model: Any, seen: Pass, tracer: Tracer) -> Iterator[None]:
    """Hooks on every module during the pass."""
    open_calls: list[tuple[float, int]] = []

    def before(module: Any, args: Any, kwargs: Any) -> None:
        visit = seen.visits.get(id(module))
        if visit is None:
            visit = seen.visits[id(module)] = Visit(first=len(seen.visits))
            visit.shape_in = shape_text([*args, *kwargs.values()])
        tracer.enter(module, (args, kwargs))
        open_calls.append((time.perf_counter(), tracer.flops))

    def after(module: Any, args: Any, output: Any) -> None:
        began, flops = open_calls.pop()
        visit = seen.visits[id(module)]
        visit.calls += 1
        visit.seconds += time.perf_counter() - began
        visit.flops += tracer.flops - flops
        visit.shape_out = shape_text(output)
        visit.activation_bytes += sum(t.numel() * t.element_size() for t in tensors(output))
        tracer.leave(module, output)

    with ExitStack() as stack:
        for module in model.modules():
            for handle in (
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(after),
            ):
                stack.callback(handle.remove)
        yield


def shape_text(value: Any) -> str:
    """Shapes of the tensors in a value: `1x3x800x1066`, several with commas, equal ones counted."""
    shapes = ["x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors(value)]
    counted = {shape: shapes.count(shape) for shape in shapes}
    return ", ".join(shape if n == 1 else f"{n} of {shape}" for shape, n in counted.items())
