"""Node: one module of a described model."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cupola.inspect.inner_flow import InnerFlow
from cupola.inspect.probe import Visit
from cupola.registry.build_record import BuiltPart


@dataclass
class Node:
    """One module: what it is, what it holds, and what it did in the forward pass."""

    path: str
    cls: str  # full dotted name
    source: str  # file:line of its class
    parameters: int  # its children's included
    own_parameters: int
    trainable: int
    visit: Visit | None  # None if the pass did not call it, or there was no pass
    part: BuiltPart | None  # its entry in the build record
    python_class: type
    flow: InnerFlow | None = None  # between its children; None if the pass did not call them
    own_flops: int = 0  # in its own forward, outside of its children
    own_weights: tuple[str, ...] = ()  # the parameters that these operations read
    state: list[dict[str, Any]] = field(default_factory=list)  # its own tensors, see state_view.py
    hooks: list[str] = field(default_factory=list)
    shared_with: str | None = None  # the path under which the same module was seen before
    children: list["Node"] = field(default_factory=list)

    @property
    def class_name(self) -> str:
        """The class without its module."""
        return self.cls.rpartition(".")[2]

    @property
    def is_called(self) -> bool:
        """Whether the pass called it, or a module below it."""
        return self.visit is not None or any(child.is_called for child in self.children)

    def walk(self) -> Iterator["Node"]:
        """This node and all nodes below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()
