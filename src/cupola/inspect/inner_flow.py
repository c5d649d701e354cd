"""inner_flow: the data flow between the children of one module, from a traced pass."""

from dataclasses import dataclass

from cupola.inspect.trace import Flow

OUTPUT = "<"


@dataclass(frozen=True)
class InnerFlow:
    """names in the order of the pass, and the edges between them.

    A name is a path below the module. `>` is the input of the module, or `>name` one of the pass,
    and `<` its output. A parameter that is read without a call goes by the module that owns it.
    """

    names: tuple[str, ...]
    edges: tuple[tuple[str, str], ...]


def inner_flow(flow: Flow, path: str) -> InnerFlow:
    """The flow between what is directly below a module.

    A container that is not called itself, such as a ModuleList, counts as what it holds.
    """
    short = Names(flow, path)
    found = {(short(source), short(taker)) for source, taker in flow.edges if short.holds(taker)}
    found |= {(short(source), OUTPUT) for source in flow.outputs.get(path, ())}
    edges = sorted(edge for edge in found if edge[0] != edge[1])
    place = {OUTPUT: len(flow.order)}
    for source, n in flow.order.items():
        name = short(source)
        place[name] = min(n, place.get(name, n))
    names = {name for edge in edges for name in edge}
    called = {short(each) for each in flow.outputs if short.holds(each)}
    for name in names - called:  # a parameter stands just before what reads it first
        if not name.startswith((">", OUTPUT)):
            place[name] = min(place[taker] for source, taker in edges if source == name)
    ranked = sorted(names, key=lambda name: (_end(name), place[name], name in called, name))
    return InnerFlow(tuple(ranked), tuple(edges))


def _end(name: str) -> int:
    """Inputs before, the output after all others."""
    return -1 if name.startswith(">") else int(name == OUTPUT)


class Names:
    """Names sources and modules as seen from inside one module."""

    def __init__(self, flow: Flow, path: str) -> None:
        self.prefix = f"{path}." if path else ""
        self.root = not path
        parts = (called.split(".") for called in flow.outputs)
        above = {".".join(part[:n]) for part in parts for n in range(1, len(part))}
        self.containers = above - set(flow.outputs)

    def holds(self, path: str) -> bool:
        """Whether a path is below the module."""
        return path != "" and path.startswith(self.prefix)

    def __call__(self, source: str) -> str:
        """`>` or `>name` for what comes from outside, else the first name that is no container."""
        if source.startswith(">") and self.root:
            return source
        if source.startswith(">") or not self.holds(source):
            return ">"
        parts = source[len(self.prefix) :].split(".")
        for n in range(1, len(parts)):
            name = ".".join(parts[:n])
            if self.prefix + name not in self.containers:
                return name
        return ".".join(parts)
