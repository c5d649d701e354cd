"""Writes a config as readable Python, which reads back as the same dict."""

import keyword
import math
from collections.abc import Mapping
from typing import Any

from cupola.errors import ConfigError

WIDTH = 88


def to_python(data: Mapping[Any, Any]) -> str:
    """`key = value` lines in the order of the keys; ConfigError for values that are not data."""
    for key in data:
        if not _is_name(key):
            raise ConfigError(f"{key!r} cannot be the name of a variable in a Python config")
    return "".join(f"{key} = {_text(value, len(key) + 3, 0)}\n" for key, value in data.items())


def _text(value: Any, column: int, indent: int) -> str:
    """`value` as an expression that begins at `column`, broken over lines where it is too long."""
    flat = _flat(value)
    if column + len(flat) < WIDTH or not isinstance(value, Mapping | list | tuple) or not value:
        return flat
    inner = indent + 4
    lines = []
    for head, item in _items(value):
        lines.append(" " * inner + head + _text(item, inner + len(head) + 1, inner) + ",\n")
    opening, closing = _brackets(value)
    return f"{opening}\n{''.join(lines)}{' ' * indent}{closing}"


def _flat(value: Any) -> str:
    if isinstance(value, Mapping | list | tuple):
        opening, closing = _brackets(value)
        inner = ", ".join(head + _flat(item) for head, item in _items(value))
        comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
        return f"{opening}{inner}{comma}{closing}"
    if isinstance(value, set):
        items = sorted(value, key=repr)
        return "{" + ", ".join(map(_flat, items)) + "}" if items else "set()"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    if isinstance(value, range | str | bytes | int | float | None):
        return repr(value)
    raise ConfigError(f"{value!r:.60} is not data and cannot be written")


def _items(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        return [("", item) for item in value]
    if all(_is_name(key) for key in value):
        return [(f"{key}=", item) for key, item in value.items()]
    return [(f"{_flat(key)}: ", item) for key, item in value.items()]


def _brackets(value: Any) -> tuple[str, str]:
    if isinstance(value, Mapping):
        return ("dict(", ")") if all(_is_name(key) for key in value) else ("{", "}")
    return ("[", "]") if isinstance(value, list) else ("(", ")")


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)
