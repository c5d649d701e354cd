"""Names, units and statistics of channels."""

import numpy as np
import pytest

from cupola.errors import ConfigError, DataError
from cupola.structures.statistics import channel_statistics
from cupola.structures.units import conversion
from cupola.structures.variables import channel_name, channel_names, find_variable


@pytest.mark.parametrize(
    ("spelled", "ours"),
    [
        ("2m_temperature", "t2m"),
        ("2t", "t2m"),
        ("u10m", "u10"),
        ("10m_u_component_of_wind", "u10"),
        ("mean_sea_level_pressure", "msl"),
        ("geopotential_500", "z500"),
        ("Z500", "z500"),
        ("temperature_850", "t850"),
        ("vorticity", "vorticity"),
        ("my_own_field", "my_own_field"),
        ("u", "u"),
    ],
)
def test_spellings(spelled: str, ours: str) -> None:
    assert channel_name(spelled) == ours


@pytest.mark.parametrize(
    ("name", "attributes", "level", "height", "ours"),
    [
        ("x", {"standard_name": "air_temperature"}, False, 2.0, "t2m"),
        ("x", {"standard_name": "air_temperature"}, True, None, "t"),
        ("x", {"standard_name": "air_temperature"}, False, None, None),
        ("x", {"standard_name": "eastward_wind"}, False, 10.0, "u10"),
        ("x", {"standard_name": "air_pressure_at_mean_sea_level"}, False, None, "msl"),
        ("var167", {"long_name": "2 metre temperature"}, False, None, "t2m"),
        ("var129", {"GRIB_shortName": "z"}, True, None, "z"),
        ("hgt", {"units": "m"}, True, None, "z"),
    ],
)
def test_variables_of_files(
    name: str, attributes: dict[str, object], level: bool, height: float | None, ours: str | None
) -> None:
    found = find_variable(name, attributes, level, height)
    assert (found.name if found else None) == ours


def test_names_of_conventions() -> None:
    channels = ("u10", "z500", "vorticity", "own")
    assert channel_names(channels, "e2s") == ("u10m", "z500", "vorticity", "own")
    assert channel_names(channels, "wb") == (
        *("10m_u_component_of_wind", "geopotential_500", "relative_vorticity", "own"),
    )


@pytest.mark.parametrize(
    ("given", "wanted", "channel", "value", "expected"),
    [
        ("degC", "K", "t2m", 0.0, 273.15),
        ("C", "kelvin", "t2m", 1.0, 274.15),
        ("hPa", "Pa", "msl", 1013.0, 101300.0),
        ("millibars", "Pa", "sp", 1.0, 100.0),
        ("m s**-1", "m s-1", "u10", 3.0, 3.0),
        ("m/s", "m s-1", "u10", 3.0, 3.0),
        ("gpm", "m2 s-2", "z500", 1.0, 9.80665),
        ("1", "%", "r500", 0.5, 50.0),
        ("mm", "m", "tp", 1.0, 0.001),
        ("kg m-2", "m", "tp", 1.0, 0.001),
        ("", "K", "t2m", 5.0, 5.0),
        ("furlong", "furlong", "x", 5.0, 5.0),
    ],
)
def test_exact_conversions(
    given: str, wanted: str, channel: str, value: float, expected: float
) -> None:
    factor, offset = conversion(given, wanted, channel)
    assert factor * value + offset == pytest.approx(expected)


def test_other_units_are_refused_with_both_sides() -> None:
    with pytest.raises(DataError, match=r"era5.nc: t2m is in 'Pa', the model takes 'K'"):
        conversion("Pa", "K", "t2m", "era5.nc")
    with pytest.raises(DataError, match="is in 'furlong'"):
        conversion("furlong", "m", "z")


def test_statistics_by_name_and_place() -> None:
    published = np.arange(21, dtype=np.float32).reshape(1, 21, 1, 1)
    assert channel_statistics(published, ["z500", "t2m"], "means") == [14.0, 2.0]
    assert channel_statistics(published, ["geopotential_500"], "means") == [14.0]
    assert channel_statistics([1, 2], ["b", "a"], "means") == [1.0, 2.0]
    assert channel_statistics([1, 2, 3], ["b", "a"], "means", ["a", "b", "c"]) == [2.0, 1.0]
    assert channel_statistics({"t2m": 1, "z500": 2}, ["z500", "2t"], "means") == [2.0, 1.0]
    assert channel_statistics(0.5, ["a", "b"], "stds") == [0.5, 0.5]


@pytest.mark.parametrize(
    ("values", "channels", "message"),
    [
        ([1.0, 2.0, 3.0], ["a", "b"], "means: 3 numbers for 2 channels"),
        (np.zeros(21), ["q500"], "'q500' is not one of them"),
        ({"a": 1}, ["b"], "means: none for b; they name a"),
        ([float("nan")], ["a"], "nan for channel a"),
        ("hello", ["a"], "expected numbers"),
    ],
)
def test_statistics_that_belong_to_no_channel(
    values: object, channels: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        channel_statistics(values, channels, "means")
    with pytest.raises(ConfigError, match=r"stds: 0.0 for channel a"):
        channel_statistics([0.0], ["a"], "stds")
