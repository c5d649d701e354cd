"""Checks of a request's parameters."""

from collections.abc import Mapping
from typing import Any

from cupola.errors import InputError


def whole_number(
    parameters: Mapping[str, Any], name: str, default: int, least: int, most: int
) -> int:
    """A whole-number parameter in least..most; InputError otherwise."""
    value = parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | str) or not str(value).isdigit():
        raise InputError(f"{name}: expected a whole number, got {value!r}")
    if not least <= int(value) <= most:
        raise InputError(f"{name}: expected {least}..{most}, got {value}")
    return int(value)
