"""Parameters of a forecast request."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cupola.errors import InputError


def one_of(parameters: Mapping[str, Any], name: str, known: Sequence[str]) -> str:
    """A parameter that is one of some words, the first by default; InputError for another."""
    value = str(parameters.get(name, known[0]))
    if value not in known:
        listed = ", ".join(map(repr, known[:-1])) + f" or {known[-1]!r}"
        raise InputError(f"{name}: expected {listed}, got {value!r}")
    return value


def date_of(text: Any) -> float | None:
    """Seconds since 1970 of a date such as 2018-01-01T06; None for None, InputError for others."""
    if text is None:
        return None
    try:
        if isinstance(text, str) and text[:4].isdigit():
            return float(np.datetime64(text.strip().removesuffix("Z"), "s").astype(np.int64))
    except ValueError:
        pass
    raise InputError(f"init: {text!r} is not a date; write it as 2018-01-01T06")
