"""What the text methods and formats of a config cost, paid before they make anything."""

import re
import string
from collections.abc import Iterator
from typing import Any

from cupola.config.budget import Budget
from cupola.errors import ConfigError

# A conversion of `text % values`: key, flags, width, precision, length, letter.
_PERCENT = re.compile(
    r"%(?:\((?P<key>[^()]*+)\))?[#0\- +]*+(?P<width>\*|\d*+)(?:\.(?P<precision>\*|\d*+))?"
    r"[hlL]?(?P<letter>.?)",
    re.DOTALL,
)
_SEARCH = 12  # a search may cost the product of both lengths; 2 to this many compares are free


class Texts:
    """The operations on text of one evaluation."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget

    def call(self, text: str, name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Calls a method of a text; `name` is one of those that a config may use."""
        if name == "format":
            self._check_format(text, args, kwargs)
            return text.format(*args, **kwargs)
        if name == "join" and len(args) == 1:
            args = [list(self._budget.iterate(args[0]))]
            pieces = [len(each) for each in args[0] if isinstance(each, str)]
            self._budget.charge(sum(pieces) + len(text) * len(pieces))
        for each in (*args, *kwargs.values()):
            self._budget.weigh(each)
            if isinstance(each, str):
                self._budget.charge((len(text) * len(each)) >> _SEARCH)
        if name == "replace" and len(args) > 1 and all(isinstance(e, str) for e in args[:2]):
            self._budget.charge(len(text) + text.count(args[0]) * len(args[1]))
        self._budget.charge(len(text) // 16)
        return self._budget.pay(getattr(text, name)(*args, **kwargs))

    def percent(self, text: str | bytes, values: Any) -> Any:
        """`text % values`."""
        self._budget.weigh(values, as_text=True)
        pattern = text if isinstance(text, str) else text.decode("latin-1")
        self._budget.charge(len(pattern))
        queue = iter(values if isinstance(values, tuple) else (values,))
        for match in _PERCENT.finditer(pattern):
            if "*" in (match["width"], match["precision"]):
                raise ConfigError("a format width that is computed")
            if match["letter"] == "(":
                raise ConfigError(f"a format key with parentheses: {pattern[match.start() :]:.40}")
            self._budget.check_format(match[0].removeprefix(f"%({match['key']})"))
            if match["letter"] != "%":
                value = self._percent_value(match, values, queue)
                self._charge_shown(value, escaped=match["letter"] in "ra")
        return text % values

    def _percent_value(self, match: re.Match[str], values: Any, queue: Iterator[Any]) -> Any:
        if match["key"] is None:
            return next(queue, None)
        if not isinstance(values, dict):
            return None  # Python says what is wrong
        return values.get(match["key"], values.get(match["key"].encode("latin-1", "replace")))

    def _charge_shown(self, value: Any, escaped: bool = False) -> None:
        """Pays for the text of a value that has been weighed."""
        as_it_is = isinstance(value, str | bytes) and not escaped
        self._budget.charge(len(value if as_it_is else ascii(value)))

    def _check_format(self, text: str, args: list[Any], kwargs: dict[str, Any]) -> None:
        for each in (*args, *kwargs.values()):
            self._budget.weigh(each, as_text=True)
        position = 0
        for literal, field, spec, conversion in string.Formatter().parse(text):
            self._budget.charge(len(literal))
            if field is None:
                continue
            if field and not field.isidentifier() and not field.isdigit():
                raise ConfigError(f"a format field that reaches into a value: {{{field:.40}}}")
            if conversion or (spec and "{" in spec):
                raise ConfigError(f"a nested format field or conversion: {text[:40]!r}")
            self._budget.check_format(spec or "")
            if field and not field.isdigit():
                self._charge_shown(kwargs.get(field))
                continue
            index, position = (int(field[:9]), position) if field else (position, position + 1)
            self._charge_shown(args[index] if index < len(args) else None)
