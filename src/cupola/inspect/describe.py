"""describe: the module tree of a model, with shapes, parameters, cost, source and origin."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from cupola.inspect.example_inputs import example_inputs
from cupola.inspect.inner_flow import inner_flow
from cupola.inspect.node import Node
from cupola.inspect.probe import Pass, Visit, probe
from cupola.inspect.state_view import hooks, states
from cupola.inspect.terminal import summary, tree_table, tree_text
from cupola.inspect.trace import Flow
from cupola.registry.build_record import BuildRecord, BuiltPart
from cupola.registry.source import source_location


@dataclass
class ModelDescription:
    """A described model; printing it shows the tree as text."""

    root: Node
    build_record: BuildRecord | None
    seen: Pass | None

    def __str__(self) -> str:
        return self.text()

    def text(self, depth: int | None = None) -> str:
        """The tree, `depth` levels at most, and its totals."""
        return tree_text(self.root, self.seen, depth)

    def table(self, depth: int | None = None) -> Table:
        """The tree as a rich table."""
        return tree_table(self.root, self.seen, depth)

    def summary(self) -> str:
        """The totals in one line."""
        return summary(self.root, self.seen)

    def node(self, path: str) -> Node:
        """The node at a path; KeyError if there is none."""
        for node in self.root.walk():
            if node.path == path:
                return node
        raise KeyError(path)


def describe(
    model: Any,
    inputs: Mapping[str, Any] | Sequence[int] | None = None,
    *,
    run: bool | None = None,
    origins: Mapping[str, str] | None = None,
) -> ModelDescription:
    """Describes a model made of cupola modules, or any torch.nn.Module.

    `inputs` are the forward's keyword arguments, or the shape of one sample (``(3, 800, 1066)``).
    With them, or with `run=True`, a forward pass is run to record shapes, FLOPs, activation
    memory and time. `origins`, of a LoadReport, tell which key of a checkpoint went where.
    InputError if the model does not take the inputs.
    """
    seen = None
    if inputs is not None or run:
        ready = inputs if isinstance(inputs, Mapping) else example_inputs(model, inputs)
        seen = probe(model, ready)
    build_record = getattr(model, "build_record", None)
    parts = {part.path: part for part in build_record.parts} if build_record else {}
    root = _node("", model, seen.visits if seen else {}, parts, {})
    tensors = states(model, origins)
    for node in root.walk():
        node.state = tensors.get(node.path, [])
    if seen is not None:
        _add_flow(root, seen.flow)
    return ModelDescription(root, build_record, seen)


def _add_flow(root: Node, flow: Flow) -> None:
    """Adds to every node with called children how data goes between them."""
    for node in root.walk():
        node.own_flops = flow.own_flops.get(node.path, 0)
        node.own_weights = tuple(sorted(flow.own_weights.get(node.path, ())))
        if node.visit is not None and any(child.is_called for child in node.children):
            node.flow = inner_flow(flow, node.path)


def _node(
    path: str,
    module: Any,
    visits: Mapping[int, Visit],
    parts: Mapping[str, BuiltPart],
    met: dict[int, str],
) -> Node:
    own = list(module.parameters(recurse=False))
    kind: Any = type(module)
    node = Node(
        path=path,
        cls=f"{kind.__module__}.{kind.__qualname__}",
        source=source_location(kind),
        parameters=sum(p.numel() for p in module.parameters()),
        own_parameters=sum(p.numel() for p in own),
        trainable=sum(p.numel() for p in module.parameters() if p.requires_grad),
        visit=visits.get(id(module)),
        part=parts.get(path),
        python_class=kind,
        hooks=hooks(module),
        shared_with=met.get(id(module)),
    )
    if node.shared_with is None:
        met[id(module)] = path
        node.children = [
            _node(f"{path}.{name}" if path else name, child, visits, parts, met)
            for name, child in _children(module)
        ]
    return node


def _children(module: Any) -> Iterator[tuple[str, Any]]:
    """The children by name; a module with two names comes twice."""
    names = {name for name, _ in module.named_children()}
    for name, child in vars(module).get("_modules", {}).items():
        if child is not None:
            names.discard(name)
            yield name, child
    for name, child in module.named_children():
        if name in names:
            yield name, child
