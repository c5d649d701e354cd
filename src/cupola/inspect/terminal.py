"""The tree of modules as text."""

from collections.abc import Iterator

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cupola.inspect.node import Node
from cupola.inspect.probe import Pass

UNITS = ("", "K", "M", "G", "T")


def tree_table(root: Node, seen: Pass | None, depth: int | None = None) -> Table:
    """One row per module, `depth` levels at most; costs only if there was a forward pass."""
    watched = seen is not None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("module", no_wrap=True)
    table.add_column("class", no_wrap=True, style="cyan")
    if watched:
        table.add_column("out", no_wrap=True)
    table.add_column("parameters", justify="right", no_wrap=True)
    if watched:
        table.add_column("FLOPs", justify="right", no_wrap=True)
        table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("source", no_wrap=True, style="dim")
    for branch, node in branches(root, depth):
        visit = node.visit
        name = Text(branch, style="dim") + Text(node.path.rpartition(".")[2] or "model")
        cells: list[str | Text] = [name, node.class_name]
        if watched:
            cells.append(visit.shape_out if visit else "")
        cells.append(count(node.parameters) if node.parameters else "")
        if watched:
            cells += [count(visit.flops) if visit and visit.flops else ""]
            cells += [f"{visit.seconds * 1000:.1f}" if visit else ""]
        table.add_row(*cells, node.source if node.shared_with is None else f"= {node.shared_with}")
    return table


def branches(node: Node, depth: int | None, prefix: str = "") -> Iterator[tuple[str, Node]]:
    """Every node, with the lines of the tree before its name."""
    yield prefix, node
    if depth == 0:
        return
    stem = prefix.replace("├─ ", "│  ").replace("└─ ", "   ")
    for child in node.children:
        joint = "└─ " if child is node.children[-1] else "├─ "
        yield from branches(child, None if depth is None else depth - 1, stem + joint)


def summary(root: Node, seen: Pass | None) -> str:
    """The totals in one line."""
    text = f"{sum(1 for _ in root.walk())} modules, {count(root.parameters)} parameters"
    if root.trainable != root.parameters:
        text += f" ({count(root.trainable)} trainable)"
    if seen is not None:
        text += f", {count(seen.flops)}FLOPs, {duration(seen.seconds)}"
    return text


def tree_text(root: Node, seen: Pass | None, depth: int | None = None) -> str:
    """The tree and its totals as plain text."""
    console = Console(width=1000, no_color=True, markup=False)
    with console.capture() as capture:
        console.print(tree_table(root, seen, depth))
    lines = [line.rstrip() for line in capture.get().splitlines()]
    return "\n".join([*lines, "", summary(root, seen)])


def count(number: float) -> str:
    """A number with a unit: 41.6 M."""
    unit = 0
    while abs(number) >= 1000 and unit < len(UNITS) - 1:
        number /= 1000
        unit += 1
    return f"{number:.0f}" if unit == 0 else f"{number:.3g} {UNITS[unit]}"


def duration(seconds: float) -> str:
    """A time with its unit: 12.3 ms, 1.37 s."""
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"
