"""The coastlines of the maps, and the land that they enclose."""

import numpy as np
import pytest

from cupola.structures.coastlines import land_mask, rings
from cupola.structures.grids import Grid

PLACES = {  # latitude, longitude, land
    "Sahara": (23, 10, True),
    "Siberia": (65, 100, True),
    "Brazil": (-10, 305, True),
    "Australia": (-25, 135, True),
    "Antarctica": (-80, 90, True),
    "the south pole": (-90, 0, True),
    "Pacific": (0, 200, False),
    "Atlantic": (30, 320, False),
    "Indian Ocean": (-30, 80, False),
    "the north pole": (90, 0, False),
}


@pytest.mark.parametrize("place", PLACES)
def test_land_and_sea(place: str) -> None:
    latitude, longitude, land = PLACES[place]
    assert land_mask(Grid((latitude,), (longitude,)))[0, 0] == land


def test_share_of_land() -> None:
    grid = Grid(tuple(np.arange(89, -90, -2.0)), tuple(np.arange(0, 360, 2.0)))
    weights = grid.weights().numpy()
    assert float((land_mask(grid) * weights).mean()) == pytest.approx(0.29, abs=0.01)
    assert all(np.abs(ring[:, 0]).max() <= 180 for ring in rings())
