"""The differences between two configs, value by value, with the lines that wrote them."""

from dataclasses import dataclass
from typing import Any

from cupola.config.config import Config
from cupola.config.dicts import leaves

ABSENT = object()


@dataclass(frozen=True)
class Change:
    """One value that differs; `left` or `right` is ABSENT if only the other one has it."""

    path: str
    left: Any
    right: Any
    left_origin: str
    right_origin: str

    def __str__(self) -> str:
        if self.left is ABSENT:
            return f"+ {self.path} = {self.right!r}"
        if self.right is ABSENT:
            return f"- {self.path} = {self.left!r}"
        return f"~ {self.path} = {self.left!r} -> {self.right!r}"


def diff(left: Config, right: Config) -> list[Change]:
    """Every value that differs, in the order of the left config; lists by their elements."""
    old, new = dict(leaves(left.to_dict())), dict(leaves(right.to_dict()))
    changes = []
    for path in {**old, **new}:
        a, b = old.get(path, ABSENT), new.get(path, ABSENT)
        if a is ABSENT or b is ABSENT or a != b or type(a) is not type(b):
            changes.append(Change(path, a, b, _origin(left, path, a), _origin(right, path, b)))
    return changes


def _origin(config: Config, path: str, value: Any) -> str:
    found = None if value is ABSENT else config.origin(path)
    return str(found) if found else ""
