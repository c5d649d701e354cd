"""FCOS's targets, against the rules written out cell by cell."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola.models.boxes.distances import centerness
from cupola.models.fcos.targets import assign, cells_of

STRIDES = (8, 16)
RANGES = ((-1, 20), (20, 1e8))
POINTS = [
    torch.tensor([[(x + 0.5) * s, (y + 0.5) * s] for y in range(48 // s) for x in range(64 // s)])
    for s in STRIDES
]
SIDE = st.integers(0, 64)
OBJECT = st.tuples(SIDE, SIDE, st.integers(1, 40), st.integers(1, 40), st.integers(0, 2))


def written_out(x: float, y: float, level: int, objects: Any, radius: float | None) -> Any:
    """The object of one cell, and its distances; None for background."""
    chosen = None
    for left, top, width, height, label in objects:
        right, bottom = left + width, top + height
        sides = (x - left, y - top, right - x, bottom - y)
        if radius is None:
            inside = min(sides) > 0
        else:
            reach = STRIDES[level] * radius
            middle = ((left + right) / 2, (top + bottom) / 2)
            inside = max(left, middle[0] - reach) < x < min(right, middle[0] + reach) and max(
                top, middle[1] - reach
            ) < y < min(bottom, middle[1] + reach)
        low, high = RANGES[level]
        if inside and low <= max(sides) <= high and (chosen is None or width * height < chosen[0]):
            chosen = (width * height, label, sides)
    return chosen


@settings(max_examples=60, deadline=None)
@given(st.lists(OBJECT, max_size=5), st.sampled_from([None, 1.5, 0.5]))
def test_targets_follow_the_rules(objects: Any, radius: float | None) -> None:
    boxes = torch.tensor([[a, b, a + w, b + h] for a, b, w, h, _ in objects]).reshape(-1, 4).float()
    names = torch.tensor([each[4] for each in objects], dtype=torch.int64)
    labels, sides = assign(cells_of(POINTS, STRIDES, RANGES), boxes, names, 3, radius)
    row = 0
    for level, points in enumerate(POINTS):
        for x, y in points.tolist():
            expected = written_out(x, y, level, objects, radius)
            if expected is None:
                assert labels[row] == 3
            else:
                assert labels[row] == expected[1]
                assert sides[row].tolist() == list(expected[2])
            row += 1


def test_centerness_is_one_at_the_center() -> None:
    sides = torch.tensor([[4.0, 5, 4, 5], [1, 2, 4, 8]])
    assert torch.allclose(centerness(sides), torch.tensor([1, math.sqrt(1 / 4 * 2 / 8)]))


def test_levels_without_a_range_are_an_error() -> None:
    with pytest.raises(ValueError, match="1 regress_ranges for 2 feature maps"):
        cells_of(POINTS, STRIDES, RANGES[:1])
