"""Checks of a request's parameters."""

from collections.abc import Mapping
from typing import Any

from cupola.errors import InputError


def whole_number(
    parameters: Mapping[str, Any], name: str, default: int, least: int, most: int
) -> int:
    """A whole-number parameter in least..most; InputError otherwise."""
    value = parameters.get(name, default)
    if isinstance(value, str) and value.isdecimal() and len(value) < 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name}: expected a whole number, got {value!r:.60}")
    if not least <= value <= most:
        raise InputError(f"{name}: expected {least}..{most}, got {value}")
    return value
