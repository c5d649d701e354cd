"""Exact conversions between units of the same quantity: a factor and an offset."""

import re

from cupola.errors import DataError
from cupola.structures.variables import GRAVITY, is_height

# units -> (the unit of the quantity, factor, offset): value in that unit = factor * x + offset.
_UNITS: dict[str, tuple[str, float, float]] = {
    **dict.fromkeys(("K", "kelvin"), ("K", 1.0, 0.0)),
    **dict.fromkeys(
        ("degC", "deg_C", "celsius", "C", "degree_celsius", "degrees_celsius", "°C"),
        ("K", 1.0, 273.15),
    ),
    **dict.fromkeys(("degF", "fahrenheit", "°F"), ("K", 5 / 9, 273.15 - 32 * 5 / 9)),
    **dict.fromkeys(("Pa", "pascal"), ("Pa", 1.0, 0.0)),
    **dict.fromkeys(("hPa", "mb", "mbar", "millibar", "millibars"), ("Pa", 100.0, 0.0)),
    "kPa": ("Pa", 1000.0, 0.0),
    **dict.fromkeys(("m", "metre", "meter", "metres", "meters"), ("m", 1.0, 0.0)),
    **dict.fromkeys(("mm", "millimetre", "millimeter"), ("m", 0.001, 0.0)),
    "cm": ("m", 0.01, 0.0),
    **dict.fromkeys(("km", "kilometre"), ("m", 1000.0, 0.0)),
    **dict.fromkeys(("m s-1", "m/s", "meter/second"), ("m s-1", 1.0, 0.0)),
    **dict.fromkeys(("km h-1", "km/h"), ("m s-1", 1 / 3.6, 0.0)),
    **dict.fromkeys(("knot", "knots", "kt"), ("m s-1", 1852 / 3600, 0.0)),
    **dict.fromkeys(("m2 s-2", "m2/s2"), ("m2 s-2", 1.0, 0.0)),
    **dict.fromkeys(("%", "percent"), ("1", 0.01, 0.0)),
    **dict.fromkeys(("1", "(0 - 1)", "0-1", "fraction", "dimensionless"), ("1", 1.0, 0.0)),
    **dict.fromkeys(("kg kg-1", "kg/kg"), ("kg kg-1", 1.0, 0.0)),
    **dict.fromkeys(("g kg-1", "g/kg"), ("kg kg-1", 0.001, 0.0)),
    **dict.fromkeys(("kg m-2", "kg/m2", "kg/m^2"), ("kg m-2", 1.0, 0.0)),
    **dict.fromkeys(("Pa s-1", "Pa/s"), ("Pa s-1", 1.0, 0.0)),
    **dict.fromkeys(("J m-2", "J/m2"), ("J m-2", 1.0, 0.0)),
    "s-1": ("s-1", 1.0, 0.0),
}
_BY_FOLDED = {name.casefold(): unit for name, unit in _UNITS.items()}


def _read(units: str) -> tuple[str, float, float] | None:
    """A unit by its spelling: `m s**-1`, `m.s-1`, `m s^-1` and `m s-1` are the same."""
    text = re.sub(r"\s+", " ", re.sub(r"\*\*|\^", "", units.replace(".", " "))).strip()
    return _UNITS.get(text) or _BY_FOLDED.get(text.casefold())


def conversion(given: str, wanted: str, channel: str, where: str = "the file") -> tuple[float, ...]:
    """(factor, offset) from the units of a file to those of a model; (1, 0) if one is unknown.

    Raises DataError, which names both, where there is no exact conversion.
    """
    if not given.strip() or not wanted.strip() or given == wanted:
        return 1.0, 0.0
    source, target = _read(given), _read(wanted)
    if target and target[0] == "m2 s-2" and is_height(given, channel):
        return GRAVITY, 0.0
    if source is None or target is None:
        same = re.sub(r"\W", "", given).casefold() == re.sub(r"\W", "", wanted).casefold()
        if same:
            return 1.0, 0.0
    elif source[0] == target[0]:
        return source[1] / target[1], (source[2] - target[2]) / target[1]
    elif {source[0], target[0]} == {"kg m-2", "m"} and channel.startswith("tp"):
        return (0.001, 0.0) if target[0] == "m" else (1000.0, 0.0)  # of liquid water
    raise DataError(
        f"{where}: {channel} is in {given!r}, the model takes {wanted!r}, and there is no exact"
        " conversion between them; convert the file, or correct its units attribute"
    )
