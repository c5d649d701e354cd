"""Parameters of a forecast request."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cupola.errors import InputError
from cupola.runtime.parameters import whole_number


@dataclass(frozen=True)
class ForecastOptions:
    """What a request asks for. steps: None if it does not say; time: seconds since 1970."""

    steps: int | None
    members: int
    amplitude: float
    seed: int
    encoding: str
    convention: str
    time: float | None

    @classmethod
    def read(
        cls, parameters: Mapping[str, Any], max_steps: int, max_members: int
    ) -> "ForecastOptions":
        """Checks the parameters; InputError names the first that is wrong."""
        steps = None
        if parameters.get("steps") is not None:
            steps = whole_number(parameters, "steps", 1, 1, max_steps)
        members = whole_number(parameters, "members", 1, 1, max_members)
        seed = whole_number(parameters, "seed", 0, 0, 2**31)
        amplitude = parameters.get("amplitude", 0.3)
        if not isinstance(amplitude, int | float) or not 0 <= amplitude <= 10:
            raise InputError(f"amplitude: expected a number in 0..10, got {amplitude!r}")
        encoding = one_of(parameters, "encoding", ("list", "base64"))
        convention = one_of(parameters, "convention", ("cf", "wb", "e2s"))
        time = date_of(parameters.get("init"))
        return cls(steps, members, amplitude, seed, encoding, convention, time)


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
