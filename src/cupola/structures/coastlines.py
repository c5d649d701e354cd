"""The coastlines of Natural Earth (public domain), for maps and for a land mask."""

import json
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cupola.structures.grids import Grid

# The page of forecasts draws the same lines; COASTLINES.md beside the file states its source.
_FILE = Path(__file__).parent.parent / "serve" / "pages" / "forecast" / "coastlines.js"


@cache
def rings() -> tuple[NDArray[np.float64], ...]:
    """Outlines of the land, each [N, 2]: longitude -180..180 and latitude in degrees.

    One that crosses the date line jumps by 360 degrees there.
    """
    text = _FILE.read_text(encoding="utf-8").partition("export default")[2]
    flat = json.loads(text.strip().removesuffix(";"))
    return tuple(np.array(ring, np.float64).reshape(-1, 2) / 100 for ring in flat)


def land_mask(grid: Grid) -> NDArray[np.bool_]:
    """Where the points of a grid are on land, [H, W].

    A point is on land if its meridian crosses an odd number of coasts to the north: the north pole
    is in the sea. Outlines may cross the date line and go around a pole.
    """
    edges = [
        np.stack([lon[:-1], lat[:-1], lon[1:], lat[1:]])
        for lon, lat in ((np.unwrap(ring[:, 0], period=360.0), ring[:, 1]) for ring in rings())
    ]
    x0, y0, x1, y1 = np.concatenate(edges, axis=1)
    latitudes = np.asarray(grid.rows, np.float64)
    mask = np.zeros(grid.shape, bool)
    for index, longitude in enumerate(grid.columns):
        before, after = (np.floor((x - longitude) / 360.0) for x in (x0, x1))
        crossed = before != after
        at = longitude + 360.0 * np.maximum(before, after)[crossed]
        share = (at - x0[crossed]) / (x1[crossed] - x0[crossed])
        coasts = np.sort(y0[crossed] + share * (y1[crossed] - y0[crossed]))
        mask[:, index] = (len(coasts) - np.searchsorted(coasts, latitudes)) % 2 == 1
    return mask
