"""The recorded examples of a forecast bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor

from cupola.errors import InputError
from cupola.runtime.parameters import whole_number
from cupola.runtime.predictors.forecast_parameters import date_of

EXAMPLES = "example/flows.safetensors"  # "fields" [N, T, C, H, W]; each run begins with its start


def example_of(name: str, folder: Path | None, number: int) -> Tensor:
    """A recorded run [1 + T, C, H, W] in physical units; InputError if there is none."""
    path = None if folder is None else folder / EXAMPLES
    if path is None or not path.is_file():
        raise InputError(f"send `fields`: {name} has no examples")
    with safe_open(path, framework="pt") as file:
        runs = file.get_slice("fields")
        count = runs.get_shape()[0]
        if number >= count:
            raise InputError(f"example: expected 0..{count - 1}, got {number}")
        chosen: Tensor = runs[number].float()
    return chosen


def example_starts(config: Mapping[str, Any]) -> list[str]:
    """The dates of the examples' starts, as the bundle's config states them."""
    return [str(text) for text in config.get("preprocess", {}).get("example_starts", [])]


def chosen_example(
    config: Mapping[str, Any], parameters: Mapping[str, Any], time: float | None
) -> tuple[int, float | None]:
    """The example that the parameters name by number, or by the date `time`, and its date."""
    known = example_starts(config)
    if time is None:
        number = whole_number(parameters, "example", 0, 0, 2**31)
        return number, (date_of(known[number]) if number < len(known) else None)
    dates = [date_of(text) for text in known]
    if time not in dates:
        listed = ", ".join(known) or "none that have a date"
        raise InputError(f"init: no example starts at {parameters['init']}; there are {listed}")
    return dates.index(time), time
