"""3-D boxes: codes, corners, projection."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from cupola.structures import boxes3d

meters = st.floats(-50, 50, width=32)
sides = st.floats(0.25, 20, width=32)
box = st.tuples(
    meters, meters, meters, sides, sides, sides, st.floats(-3, 3, width=32), meters, meters
)


@given(box)
def test_codes_round_trip(values) -> None:
    boxes = torch.tensor([values], dtype=torch.float64)
    torch.testing.assert_close(boxes3d.decode_boxes(boxes3d.encode_boxes(boxes)), boxes)


@given(box)
def test_bottom_and_center_round_trip(values) -> None:
    boxes = torch.tensor([values], dtype=torch.float64)
    back = boxes3d.center_to_bottom(boxes3d.bottom_to_center(boxes))
    torch.testing.assert_close(back, boxes)
    assert boxes3d.bottom_to_center(boxes)[0, 2] == boxes[0, 2] + boxes[0, 5] / 2


@given(box)
def test_corners_have_the_box_s_sides(values) -> None:
    boxes = torch.tensor([values], dtype=torch.float64)
    points = boxes3d.corners(boxes)[0]
    torch.testing.assert_close(points.mean(0), boxes[0, :3])
    lengths = [float((points[a] - points[b]).norm()) for a, b in boxes3d.CORNER_EDGES]
    expected = [values[3], values[4], values[3], values[4]] * 2 + [values[5]] * 4
    torch.testing.assert_close(lengths, expected)


def test_length_lies_along_the_heading() -> None:
    boxes = torch.tensor([[0.0, 0, 0, 4, 2, 1, math.pi / 2]])
    corners = boxes3d.corners(boxes)[0]
    torch.testing.assert_close(corners[:, 1].max(), torch.tensor(2.0))
    torch.testing.assert_close(corners[:, 0].max(), torch.tensor(1.0))


def test_projection_divides_by_depth() -> None:
    matrix = torch.tensor([[100.0, 0, 50, 0], [0, 100, 40, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    pixels, depth = boxes3d.project(torch.tensor([[1.0, 2.0, 10.0], [0.0, 0.0, -1.0]]), matrix)
    assert pixels[0].tolist() == [60.0, 60.0]
    assert depth.tolist() == [10.0, -1.0]


def test_angles_wrap() -> None:
    turned = boxes3d.wrap_angle(torch.tensor([3.5, -3.5, 0.1], dtype=torch.float64))
    expected = torch.tensor([3.5 - 2 * math.pi, 2 * math.pi - 3.5, 0.1], dtype=torch.float64)
    torch.testing.assert_close(turned, expected)
