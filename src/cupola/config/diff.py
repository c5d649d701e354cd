"""The differences between two configs, value by value, with the lines that wrote them."""

from dataclasses import dataclass
from typing import Any

from cupola.config.config import Config
from cupola.errors import printable

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
            text = f"+ {self.path} = {self.right!r}"
        elif self.right is ABSENT:
            text = f"- {self.path} = {self.left!r}"
        else:
            text = f"~ {self.path} = {self.left!r} -> {self.right!r}"
        return printable(text)


def diff(left: Config, right: Config) -> list[Change]:
    """Every value that differs, in the order of the left config; lists by their elements."""
    old, new = _by_path(left), _by_path(right)
    changes = []
    for path in {**old, **new}:
        a, left_origin = old.get(path, (ABSENT, ""))
        b, right_origin = new.get(path, (ABSENT, ""))
        if a is ABSENT or b is ABSENT or a != b or type(a) is not type(b):
            changes.append(Change(path, a, b, left_origin, right_origin))
    return changes


def _by_path(config: Config) -> dict[str, tuple[Any, str]]:
    return {path: (value, str(origin) if origin else "") for path, value, origin in config.leaves()}
