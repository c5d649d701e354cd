"""The position of the sun, the part of the forcing that is known at every time."""

import numpy as np
from numpy.typing import NDArray

from cupola.structures.grids import Grid

Array = NDArray[np.float32]

NAME = "cos_zenith"  # the channel; a name with _next is one step of the model later
NEXT = "cos_zenith_next"
DAY = 86400.0
J2000 = 946728000.0  # seconds since 1970 of 2000-01-01T12


def cos_zenith(seconds: float, grid: Grid) -> Array:
    """Cosine of the solar zenith angle, [H, W], negative at night; `seconds` since 1970, UTC.

    The low-precision formulas of the Astronomical Almanac, good to 0.01 degrees from 1950 to 2050.
    """
    days = (seconds - J2000) / DAY
    anomaly = np.deg2rad(357.528 + 0.9856003 * days)
    mean_longitude = 280.460 + 0.9856474 * days
    ecliptic = np.deg2rad(mean_longitude + 1.915 * np.sin(anomaly) + 0.020 * np.sin(2 * anomaly))
    tilt = np.deg2rad(23.439 - 4e-7 * days)
    ascension = np.arctan2(np.cos(tilt) * np.sin(ecliptic), np.cos(ecliptic))
    declination = np.arcsin(np.sin(tilt) * np.sin(ecliptic))
    turned = np.deg2rad((280.46062 + 360.98564737 * days) % 360)  # Greenwich sidereal angle
    latitude = np.deg2rad(np.asarray(grid.rows))[:, None]
    hour = turned + np.deg2rad(np.asarray(grid.columns))[None, :] - ascension
    cosine = np.sin(latitude) * np.sin(declination)
    cosine = cosine + np.cos(latitude) * np.cos(declination) * np.cos(hour)
    return cosine.astype(np.float32)


def forcing(channel: str, seconds: float, step: float, grid: Grid) -> Array | None:
    """A channel that follows from the time alone; None for any other. step: the model's, in s."""
    if channel == NAME:
        return cos_zenith(seconds, grid)
    if channel == NEXT:
        return cos_zenith(seconds + step, grid)
    return None
