"""Regions of the globe that scores are given for, named and bounded as in WeatherBench 2.

Source: google-research/weatherbench2, weatherbench2/regions.py and its evaluation script.
"""

import torch
from torch import Tensor

from cupola.errors import InputError, did_you_mean
from cupola.structures.grids import Grid

# name -> ranges of latitudes, each closed; None for all longitudes, else (west, east) in degrees.
REGIONS: dict[str, tuple[tuple[tuple[float, float], ...], tuple[float, float] | None]] = {
    "global": (((-90.0, 90.0),), None),
    "tropics": (((-20.0, 20.0),), None),
    "extra-tropics": (((-90.0, -20.0), (20.0, 90.0)), None),
    "northern-hemisphere": (((20.0, 90.0),), None),
    "southern-hemisphere": (((-90.0, -20.0),), None),
    "europe": (((35.0, 75.0),), (347.5, 42.5)),
    "north-america": (((25.0, 60.0),), (240.0, 285.0)),
    "north-atlantic": (((25.0, 60.0),), (290.0, 340.0)),
    "north-pacific": (((25.0, 60.0),), (145.0, 230.0)),
    "east-asia": (((25.0, 60.0),), (102.5, 150.0)),
    "ausnz": (((-45.0, -12.5),), (120.0, 175.0)),
    "arctic": (((60.0, 90.0),), None),
    "antarctic": (((-90.0, -60.0),), None),
}
USUAL = ("global", "tropics", "extra-tropics")
ALIASES = {"extratropics": "extra-tropics"}


def region_mask(name: str, grid: Grid) -> Tensor | None:
    """Where a region is, [H, W] bool; None for the whole grid.

    InputError for an unknown region, for a grid without latitudes, and for a region without points.
    """
    name = ALIASES.get(name, name)
    if name == "global":
        return None
    if name not in REGIONS:
        raise InputError(f"no region {name!r}{did_you_mean(name, REGIONS)}; known: {[*REGIONS]}")
    if not grid.spherical:
        raise InputError(f"region {name!r}: the model's grid has no latitudes")
    bands, longitudes = REGIONS[name]
    latitude = torch.tensor(grid.rows, dtype=torch.float64)
    rows = torch.zeros(len(latitude), dtype=torch.bool)
    for south, north in bands:
        rows |= (latitude >= south - 1e-6) & (latitude <= north + 1e-6)
    columns = torch.ones(len(grid.columns), dtype=torch.bool)
    if longitudes is not None:
        west, east = longitudes
        past_west = (torch.tensor(grid.columns, dtype=torch.float64) - west + 1e-6) % 360.0
        columns = past_west <= (east - west) % 360.0 + 2e-6
    mask = rows[:, None] & columns[None, :]
    if not mask.any():
        raise InputError(f"region {name!r}: the grid has no points there: {grid}")
    return mask
