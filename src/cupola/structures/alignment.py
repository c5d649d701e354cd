"""Where the points of a model's grid lie in a file's: exact matches of coordinates, or an error.

Ascending latitudes, longitudes from -180, additional rows (721 for 720) and a region of a larger
grid only reorder or leave out points. Nothing is interpolated. H rows, W columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cupola.errors import DataError
from cupola.structures.grids import Grid

Array = NDArray[np.float32]
Places = NDArray[np.intp]


@dataclass(frozen=True)
class Alignment:
    """rows [H], columns [W]: the places in the file of the model's rows and columns.

    grid: the coordinates of these points as the file gives them, in the file's order.
    """

    rows: Places
    columns: Places
    grid: Grid

    def to_model(self, field: Array) -> Array:
        """A field of the file, [..., H', W'] -> the model's [..., H, W]."""
        return _take(_take(field, self.rows, -2), self.columns, -1)

    def to_file(self, field: Any) -> Any:
        """A field or tensor of the model, [..., H, W] -> the same points in the file's order."""
        return field[..., _order(self.rows), :][..., _order(self.columns)]


def _order(places: Places) -> Any:
    """The order of the file; a slice where nothing moves, since that copies nothing."""
    return slice(None) if (np.diff(places) > 0).all() else np.argsort(places).copy()


def _take(field: Array, places: Places, axis: int) -> Array:
    steps = np.diff(places)
    if (steps == 1).all():
        window: list[Any] = [slice(None)] * -axis
        window[0] = slice(int(places[0]), int(places[-1]) + 1)
        return field[(..., *window)]
    return np.take(field, places, axis=axis)


def align(model: Grid, file: Grid, where: str = "the file") -> Alignment:
    """Finds the model's points in the file's grid.

    Raises DataError, which names both grids, if a point is missing, or if the file has points
    between those of the model.
    """
    problem = ""
    if model.spherical != file.spherical:
        problem = "only one of them has latitudes and longitudes"
    else:
        period = 360.0 if model.spherical else 0.0
        rows = _places(model.rows, file.rows, 0.0)
        columns = _places(model.columns, file.columns, period)
        if rows is None or columns is None:
            missing = "latitudes" if rows is None else "longitudes"
            problem = f"the {missing if model.spherical else 'points'} differ"
        elif not (_neighbors(rows, 0) and _neighbors(columns, _cycle(file))):
            problem = "the file has points between those of the model"
        else:
            return Alignment(rows, columns, _part(file, rows, columns))
    raise DataError(
        f"{where} has another grid than the model: {problem}. The file has {file}; the model has"
        f" {model}. Regrid the file, or state the model's grid when making its bundle (--grid FILE)"
    )


def _places(wanted: Sequence[float], given: Sequence[float], period: float) -> Places | None:
    """The place in `given` of each wanted coordinate, None if one is missing."""
    have, want = np.asarray(given, np.float64), np.asarray(wanted, np.float64)
    if period:
        have, want = np.mod(have.round(6), period), np.mod(want.round(6), period)
    step = np.abs(np.diff(want)).min() if len(want) > 1 else 1.0
    tolerance = 1e-3 * float(step) + 1e-9
    order = np.argsort(have, kind="stable")
    ordered = have[order]
    found = np.searchsorted(ordered, want - tolerance)  # the first that is not too small
    if period:  # a coordinate just below 360 may mean 0
        found %= len(ordered)
    else:
        found = np.minimum(found, len(ordered) - 1)
    distance = np.abs(ordered[found] - want)
    if period:
        distance = np.minimum(distance, period - distance)
    return order[found] if (distance <= tolerance).all() else None


def _cycle(grid: Grid) -> int:
    """After how many columns the longitudes repeat; a file may hold both 0 and 360."""
    values = np.mod(np.round(grid.columns, 6), 360.0) if grid.spherical else grid.columns
    return len(np.unique(values))


def _neighbors(places: Places, size: int) -> bool:
    """Whether the places follow each other, forwards or backwards, perhaps across the end."""
    steps = np.diff(places)
    if size:
        steps = (steps + size // 2) % size - size // 2
    return len(steps) == 0 or bool((steps == 1).all() or (steps == -1).all())


def _part(file: Grid, rows: Places, columns: Places) -> Grid:
    return Grid(
        tuple(file.rows[i] for i in np.sort(rows)),
        tuple(file.columns[i] for i in np.sort(columns)),
        file.spherical,
    )
