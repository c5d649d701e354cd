"""Budget: how much work and memory one config may cost, so that a hostile file ends at once."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from cupola.config.dicts import SCALARS, ConfigDict
from cupola.errors import ConfigError

T = TypeVar("T")
_DIGITS = re.compile(r"\d+")  # Python takes those of any script as a width
_NUMBERS: frozenset[type] = frozenset({int, float, bool, complex, type(None)})
_SIZED = (str, bytes, list, tuple, set, frozenset, dict)


@dataclass
class Budget:
    """What is left to spend while one config and its bases are read.

    Two rules bound memory and time: every value that an expression makes is paid for by its own
    size (`pay`; `charge` beforehand where a small expression can make a large value), and every
    operation that walks through a value pays for the whole walk (`weigh`). No published config
    takes more than a quarter of any of these.
    """

    steps: int = 50_000  # syntax nodes evaluated
    values: int = 100_000  # elements and characters made by operators, calls and copies
    source: int = 180_000  # bytes of source text, all files together
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

    def pay(self, made: T) -> T:
        """Pays for a value that an operation has made, by its own size, and returns it."""
        if isinstance(made, int):
            self.check_int(made.bit_length())
        elif isinstance(made, _SIZED):
            self.charge(len(made))
        return made

    def iterate(self, items: Iterable[T]) -> Iterator[T]:
        """The items, each paid for as it comes; this bounds endless and huge ranges."""
        for item in items:
            self.charge(1)
            yield item

    def weigh(self, value: Any, as_text: bool = False) -> None:
        """Pays for a walk through a tree, counting what is shared as often as it is reached.

        With `as_text`, ConfigError for what has no text in a config, such as a function.
        """
        if type(value) in _NUMBERS:
            return
        stack = [(value, 0)]
        while stack:
            item, depth = stack.pop()
            if depth > self.max_depth:
                raise ConfigError(f"values are nested more than {self.max_depth} deep")
            below = depth + 1
            if isinstance(item, dict):
                self.charge(len(item))
                stack.extend((each, below) for each in item if type(each) not in _NUMBERS)
                stack.extend((e, below) for e in item.values() if type(e) not in _NUMBERS)
            elif isinstance(item, list | tuple | set | frozenset):
                self.charge(len(item))
                stack.extend((each, below) for each in item if type(each) not in _NUMBERS)
            elif isinstance(item, str | bytes):
                self.charge(len(item) // 16)
            elif as_text and not isinstance(item, range):
                raise ConfigError(f"a {type(item).__name__} has no text in a config")

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
        """Refuses an integer of more than `max_bits` bits, where possible before it is computed."""
        if bits > self.max_bits:
            raise ConfigError(f"an integer of more than {self.max_bits} bits")

    def check_format(self, spec: str) -> None:
        """Pays for the widths in a format text; refuses one of more than three digits."""
        for run in _DIGITS.findall(spec) if spec else ():
            if len(run) > 3:
                raise ConfigError(f"a format width of more than 999 in {spec[:40]!r}")
            self.charge(int(run))
