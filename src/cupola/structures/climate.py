"""Climatologies as arrays without coordinates, as FourCastNet publishes its time means."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.errors import DataError
from cupola.structures.alignment import align
from cupola.structures.grids import Grid
from cupola.structures.statistics import published_names
from cupola.structures.variables import channel_name


def published_climate(means: Any, names: Sequence[str], grid: Grid, where: str) -> Any:
    """Of time means [1, C, H, W] or [C, H, W], those of some channels on a grid, [C, H, W].

    The array has no coordinates: its rows are those of the published global grid of its size (721
    rows from pole to pole), its channels the given ones or FourCastNet's. DataError if they differ.
    """
    array = np.asarray(means, np.float32)
    array = array[0] if array.ndim == 4 and len(array) == 1 else array
    if array.ndim != 3:
        raise DataError(f"{where}: a climatology has the shape [1, C, H, W], not {array.shape}")
    C, H, W = array.shape
    known = published_names(C, names)
    missing = [name for name in names if known is None or channel_name(name) not in known]
    if known is None or missing:
        raise DataError(f"{where}: {C} channels, and {len(names)} are scored: {', '.join(names)}")
    array = array[[known.index(channel_name(name)) for name in names]]
    if not grid.spherical and grid.shape == (H, W):
        return array
    return align(grid, Grid.globe(H, W), where).to_model(array)
