"""A model's points are found in a file's grid by their coordinates, or the grids are refused."""

import numpy as np
import pytest

from cupola.errors import DataError
from cupola.structures.alignment import align
from cupola.structures.grids import Grid

MODEL = Grid.globe(8, 16)  # 90 to -67.5, 0 to 337.5


def field(grid: Grid) -> np.ndarray:
    """A value that tells each point apart: latitude and longitude in one number."""
    rows, columns = np.array(grid.rows)[:, None], np.array(grid.columns) % 360
    return (1000 * rows + columns).astype(np.float32)


@pytest.mark.parametrize(
    "file",
    [
        MODEL,
        Grid(MODEL.rows[::-1], MODEL.columns),
        Grid(MODEL.rows, tuple(np.array(MODEL.columns) - 180)),
        Grid(MODEL.rows[::-1], tuple(np.array(MODEL.columns) - 180)),
        Grid((*MODEL.rows, -90.0), MODEL.columns),
        Grid(MODEL.rows, (*MODEL.columns, 360.0)),
        Grid(MODEL.rows, tuple(np.roll(MODEL.columns, 5))),
        Grid(tuple(np.float32(MODEL.rows).tolist()), tuple(np.float32(MODEL.columns).tolist())),
    ],
    ids=["same", "ascending", "-180", "both", "721", "cyclic", "rolled", "float32"],
)
def test_points_go_to_the_model_and_back(file: Grid) -> None:
    alignment = align(MODEL, file)
    found = alignment.to_model(field(file))
    np.testing.assert_allclose(found, field(MODEL), atol=1e-2)
    np.testing.assert_allclose(alignment.to_file(found), field(alignment.grid), atol=1e-2)


def test_a_region_is_cut_from_the_globe() -> None:
    region = Grid((67.5, 45.0, 22.5), (-45.0, -22.5, 0.0, 22.5))
    alignment = align(region, MODEL)
    np.testing.assert_allclose(alignment.to_model(field(MODEL)), field(region))
    assert alignment.grid.columns == (0.0, 22.5, 315.0, 337.5)


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        (Grid(tuple(np.array(MODEL.rows) - 1), MODEL.columns), "the latitudes differ"),
        (Grid(MODEL.rows, tuple(np.array(MODEL.columns) + 1)), "the longitudes differ"),
        (Grid(MODEL.rows[:4], MODEL.columns), "the latitudes differ"),
        (Grid.globe(16, 32), "the file has points between"),
        (Grid.torus(8, 16), "only one of them has latitudes"),
    ],
)
def test_another_grid_is_refused_with_both_sides(file: Grid, problem: str) -> None:
    with pytest.raises(DataError) as caught:
        align(MODEL, file, "era5.nc")
    text = str(caught.value)
    assert text.startswith("era5.nc has another grid than the model: " + problem)
    assert str(file) in text
    assert str(MODEL) in text


def test_grids_without_a_rule() -> None:
    assert Grid.globe(24, 36).rows[-1] == -90.0
    assert Grid.globe(721, 1440).rows[-1] == -90.0
    assert Grid.globe(720, 1440).rows[-1] == -89.75


@pytest.mark.parametrize(
    "grid", [Grid.globe(720, 1440), Grid((80.0, 10.0, 9.0), (0.0, 1.0)), Grid.torus(4, 6, 2.0)]
)
def test_grids_in_configs(grid: Grid) -> None:
    found = Grid.read(grid.to_config())
    assert found is not None
    assert found.spherical == grid.spherical
    np.testing.assert_allclose(found.rows, grid.rows, atol=1e-9)
    np.testing.assert_allclose(found.columns, grid.columns, atol=1e-9)
