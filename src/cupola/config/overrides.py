"""Overrides from the command line: `model.backbone.depth=18`, with mmengine's value syntax."""

from collections.abc import Mapping
from typing import Any

from cupola.config.dicts import Origin, TracedDict
from cupola.errors import ConfigError

_WORDS = {"true": True, "false": False}


def parse_override(text: str) -> tuple[str, Any]:
    """`key.path=value` as path and value; ConfigError without an equals sign."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{text!r} is not an override; write key.path=value")
    return key.strip(), parse_value(value)


def parse_value(text: str) -> Any:
    """The value of a text from the command line.

    Numbers, true, false and None are themselves; ``1,2`` and ``[1,2]`` are lists and ``(1,2)`` is
    a tuple, at any depth; anything else is text. Outer quotes and all spaces are removed.
    """
    text = text.strip().strip("'\"")
    packed = text.replace(" ", "")
    if packed.startswith("(") and packed.endswith(")") and len(_split(packed)) == 1:
        return tuple(parse_value(part) for part in _split(packed[1:-1]))
    if packed.startswith("[") and packed.endswith("]") and len(_split(packed)) == 1:
        return [parse_value(part) for part in _split(packed[1:-1])]
    parts = _split(packed)
    if len(parts) > 1 or "," in packed:
        return [parse_value(part) for part in parts]
    return _scalar(packed)


def _split(text: str) -> list[str]:
    """The parts between the commas outside all brackets."""
    parts, depth, start = [], 0, 0
    for position, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append(text[start:position])
            start = position + 1
    if depth:
        raise ConfigError(f"the brackets in {text!r} do not match")
    return [*parts, text[start:]] if text[start:] else parts


def _scalar(text: str) -> Any:
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return None if text == "None" else _WORDS.get(text.lower(), text)


def nested(options: Mapping[str, Any]) -> TracedDict:
    """Dotted paths as nested dicts: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    tree = TracedDict()
    for path, value in options.items():
        *parents, last = path.split(".")
        inner = tree
        for key in parents:
            inner = inner.setdefault(key, TracedDict())
            if not isinstance(inner, TracedDict):
                raise ConfigError(
                    f"{path}: another override gives {key!r} a value that is not a dict"
                )
        inner[last] = value
        inner.origins[last] = Origin("override", 0)
    return tree
