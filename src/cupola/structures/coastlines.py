"""The coastlines of Natural Earth (public domain), for maps and for a land mask."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cupola.structures.grids import Grid

# The page of forecasts draws the same lines; COASTLINES.md beside the file states its source.
_FILE = Path(__file__).parent.parent / "serve" / "pages" / "forecast" / "coastlines.js"
_SOUTH = -84.5  # where the outline of Antarctica is cut off


@cache
def rings() -> tuple[NDArray[np.float64], ...]:
    """Closed outlines of the land, each [N, 2]: longitude -180..180 and latitude in degrees."""
    text = _FILE.read_text(encoding="utf-8").partition("export default")[2]
    flat = json.loads(text.strip().removesuffix(";"))
    return tuple(np.array(ring, np.float64).reshape(-1, 2) / 100 for ring in flat)


def land_mask(grid: Grid) -> NDArray[np.bool_]:
    """Where the points of a grid are on land, [H, W]: an odd number of coasts lie to the west."""
    edges = [np.hstack([ring[:-1], ring[1:]]) for ring in rings()]
    x0, y0, x1, y1 = np.concatenate(edges).T
    columns = (np.asarray(grid.columns) + 180.0) % 360.0 - 180.0
    mask = np.zeros(grid.shape, bool)
    for index, latitude in enumerate(grid.rows):
        crossed = (y0 > latitude) != (y1 > latitude)
        share = (latitude - y0[crossed]) / (y1[crossed] - y0[crossed])
        coasts = np.sort(x0[crossed] + share * (x1[crossed] - x0[crossed]))
        mask[index] = (np.searchsorted(coasts, columns) % 2 == 1) | (latitude < _SOUTH)
    return mask
