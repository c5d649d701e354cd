"""Where each tensor of a forward pass came from: the edges of the data flow, and the FLOPs.

A tensor carries the paths of what made it. The outputs of a module carry that module's path, a
parameter its own name, and the result of an operation between modules what its inputs carry. So a
sum of two branches has two sources, and a table that is read without a call is a source too.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

Sources = frozenset[str]
NOTHING: Sources = frozenset()


@dataclass
class Flow:
    """What was traced.

    edges: (source, path of the module that took it). The source is the path of a module, the name
    of a parameter, or `>name` for an input of the pass.
    outputs: by called module the sources of its outputs, before they became its own.
    own_flops: by module those of operations in its own forward, outside of its children.
    own_weights: by module the parameters that these operations read.
    order: when each source was first taken, and each module first called.
    """

    edges: set[tuple[str, str]] = field(default_factory=set)
    outputs: dict[str, set[str]] = field(default_factory=dict)
    own_flops: dict[str, int] = field(default_factory=dict)
    own_weights: dict[str, set[str]] = field(default_factory=dict)
    order: dict[str, int] = field(default_factory=dict)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Follows tensors through a pass, and counts FLOPs by the table of torch's FlopCounterMode.

    That class also follows modules through autograd, which fails on parameters that reach a
    module as views.
    """

    def __init__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0
        self.flow = Flow()
        self._paths = {id(module): path for path, module in reversed([*model.named_modules()])}
        self._open: list[str] = []
        self._sources: Any = WeakIdKeyDictionary()
        self._parameters = frozenset(name for name, _ in model.named_parameters())
        for name, parameter in model.named_parameters():
            self._sources[parameter] = frozenset((name,))
        for name, value in inputs.items():
            for tensor in tensors(value):
                self._sources[tensor] = frozenset((f">{name}",))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: nothing is compiled here, and True would import the compiler."""
        return False

    def enter(self, module: Any, inputs: Any) -> None:
        """A module is called."""
        path = self._paths[id(module)]
        self.flow.order.setdefault(path, len(self.flow.order))
        self.flow.edges |= {(source, path) for source in self.sources(tensors(inputs))}
        self._open.append(path)

    def leave(self, module: Any, output: Any) -> None:
        """It returns: from now on its outputs come from it."""
        path = self._open.pop()
        made = list(tensors(output))
        self.flow.outputs.setdefault(path, set()).update(self.sources(made))
        for tensor in made:
            self._sources[tensor] = frozenset((path,))

    def sources(self, values: Iterable[Tensor]) -> Sources:
        """What made these tensors, all together."""
        return NOTHING.union(*(self._sources.get(value, NOTHING) for value in values))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        taken = self.sources(tensors((args, kwargs)))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self._count(count(*args, **kwargs, out_val=output), taken & self._parameters)
        for source in taken:
            self.flow.order.setdefault(source, len(self.flow.order))
        if taken:
            for made in tensors(output):
                self._sources[made] = taken
                base = made._base if func._schema.is_mutable else None
                if base is not None:  # a write into a view is one into the whole
                    self._sources[base] = taken | self._sources.get(base, NOTHING)
        return output

    def _count(self, flops: int, weights: Sources) -> None:
        path, flow = self._open[-1] if self._open else "", self.flow
        self.flops += flops
        flow.own_flops[path] = flow.own_flops.get(path, 0) + flops
        flow.own_weights.setdefault(path, set()).update(weights)


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in nested tuples, lists, mappings and dataclasses."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors(getattr(value, name, None))
