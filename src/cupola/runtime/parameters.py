"""Checks of a request's parameters."""

import math
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


def score(value: Any, name: str = "threshold") -> float:
    """A score in 0..1, as a number or its text; InputError otherwise."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not 0 <= number <= 1:
        raise InputError(f"{name}: expected a number in 0..1, got {value!r:.60}")
    return number
