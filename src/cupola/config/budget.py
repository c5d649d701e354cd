"""Budget: how much work and memory one config may cost, so that a hostile file ends at once."""

import string
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from cupola.config.dicts import SCALARS, ConfigDict
from cupola.errors import ConfigError

T = TypeVar("T")


@dataclass
class Budget:
    """What is left to spend while one config and its bases are read.

    No published config takes more than a sixth of any of these.
    """

    steps: int = 50_000  # syntax nodes evaluated
    values: int = 100_000  # elements and characters made by operators, calls and copies
    source: int = 250_000  # bytes of source text, all files together
    files: int = 64
    max_file: int = 180_000  # bytes of one file
    max_bits: int = 4_096  # of an integer
    max_depth: int = 80  # of nested containers in the result

    def step(self) -> None:
        """Pays for one syntax node."""
        self.steps -= 1
        if self.steps < 0:
            raise ConfigError("the config takes too many steps to evaluate")

    def charge(self, amount: int) -> None:
        """Pays for `amount` elements or characters before they are made."""
        self.values -= amount
        if self.values < 0:
            raise ConfigError("the config makes too many or too large values")

    def iterate(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each paid for as it comes; this bounds endless and huge ranges."""
        for item in items:
            self.charge(1)
            yield item

    def weigh(self, value: Any) -> None:
        """Pays for everything in a tree, counting what is shared as often as it is reached."""
        stack = [(value, 0)]
        while stack:
            item, depth = stack.pop()
            if depth > self.max_depth:
                raise ConfigError(f"values are nested more than {self.max_depth} deep")
            if isinstance(item, dict):
                self.charge(len(item))
                stack.extend((each, depth + 1) for each in item.values())
            elif isinstance(item, list | tuple | set | frozenset):
                self.charge(len(item))
                stack.extend((each, depth + 1) for each in item)
            elif isinstance(item, str | bytes):
                self.charge(len(item) // 16)

    def adopt(self, value: Any, depth: int = 0) -> Any:
        """A deep copy with every dict as a ConfigDict, paid for; nothing in it is shared."""
        if type(value) in SCALARS or not isinstance(value, dict | list | tuple):
            return value
        if depth > self.max_depth:
            raise ConfigError(f"values are nested more than {self.max_depth} deep")
        self.charge(len(value))
        below = depth + 1
        if isinstance(value, dict):
            pairs = {
                key: item if type(item) in SCALARS else self.adopt(item, below)
                for key, item in value.items()
            }
            return ConfigDict.of(pairs, dict(getattr(value, "origins", ())))
        return type(value)([e if type(e) in SCALARS else self.adopt(e, below) for e in value])

    def check_int(self, bits: int) -> None:
        """Refuses an integer of more than `max_bits` bits before it is computed."""
        if bits > self.max_bits:
            raise ConfigError(f"an integer of more than {self.max_bits} bits")

    def check_format(self, spec: str) -> None:
        """Refuses a width or precision of more than three digits in a format text."""
        digits = 0
        for character in spec:
            digits = digits + 1 if character in string.digits else 0
            if digits > 3:
                raise ConfigError(f"a format width of more than 999 in {spec[:40]!r}")
        self.charge(len(spec))
