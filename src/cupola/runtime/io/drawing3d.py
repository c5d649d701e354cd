"""Draws a sample's cameras with 3-D boxes, and the street from above."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cupola.runtime.io.drawing import class_color
from cupola.structures import Detections3D, boxes3d

NEAR = 0.3  # meters: edges are cut where they come nearer to a camera
ABOVE = 360  # pixels of the bird's-eye view's side
# The (row, column) of each camera, in the usual order.
PLACES = ((0, 1), (0, 2), (0, 0), (1, 1), (1, 0), (1, 2))
GRAY = (70, 74, 80)
Line = list[tuple[float, float]]  # two pixels (u, v)


def draw_sample(
    images: NDArray[np.uint8],
    lidar2img: NDArray[np.float32],
    found: Detections3D,
    reach: float = 35.0,
) -> Image.Image:
    """Six views in two rows, with the street from above at their right.

    images [N, H, W, 3], lidar2img [N, 4, 4] for them; `reach` is half the side of the view from
    above, in meters. Other numbers of cameras are laid out in rows of three.
    """
    count, height, width = images.shape[:3]
    places = PLACES if count == 6 else [divmod(i, 3) for i in range(count)]
    zoom = max(1, round(320 / width))
    height, width = height * zoom, width * zoom
    rows = 1 + max(row for row, _ in places)
    side = max(ABOVE, rows * height)
    sheet = Image.new("RGB", (3 * width + side, side), (18, 20, 24))
    for image, matrix, (row, column) in zip(images, lidar2img, places, strict=True):
        view = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        draw_view(view, torch.from_numpy(matrix), found, zoom)
        sheet.paste(view, (column * width, row * height))
    sheet.paste(draw_above(found, side, reach), (3 * width, 0))
    return sheet


def draw_view(
    view: Image.Image, lidar2img: torch.Tensor, found: Detections3D, zoom: int = 1
) -> None:
    """Draws the boxes' edges into one camera's image, in place; the front face is crossed."""
    pen = ImageDraw.Draw(view)
    font = ImageFont.load_default(size=11)
    image = corners_in_view(found.boxes, lidar2img)  # [M, 8, 3]
    for points, label, score in zip(
        image, found.labels.tolist(), found.scores.tolist(), strict=True
    ):
        color = class_color(label)
        for line in box_lines(points):
            pen.line([tuple(p * zoom for p in end) for end in line], fill=color, width=1)
        if (points[:, 2] > NEAR).all():
            top = points[:, :2] / points[:, 2:] * zoom
            caption = f"{found.name(label)} {score:.2f}"
            pen.text((top[:, 0].min(), top[:, 1].min() - 12), caption, fill=color, font=font)


def corners_in_view(boxes: torch.Tensor, lidar2img: torch.Tensor) -> NDArray[np.float64]:
    """Corners of boxes [M, 9] (z at the bottom) as (u, v) times depth, and depth: [M, 8, 3]."""
    corners = boxes3d.corners(boxes3d.bottom_to_center(boxes.double()))  # [M, 8, 3]
    flat = torch.cat((corners, torch.ones_like(corners[..., :1])), -1)
    seen: NDArray[np.float64] = (flat @ lidar2img.double().T)[..., :3].numpy()
    return seen


def box_lines(points: NDArray[np.float64]) -> list[Line]:
    """The edges of a box and the cross on its front, as far as they are in front of the camera."""
    lines = [_cut(points[a], points[b]) for a, b in (*boxes3d.CORNER_EDGES, (0, 7), (3, 4))]
    return [line for line in lines if line is not None]


def _cut(a: NDArray[np.float64], b: NDArray[np.float64]) -> Line | None:
    """The part of an edge in front of the camera, as two pixels; None if there is none."""
    if max(a[2], b[2]) <= NEAR:
        return None
    if a[2] < NEAR:
        a = a + (b - a) * (NEAR - a[2]) / (b[2] - a[2])
    if b[2] < NEAR:
        b = b + (a - b) * (NEAR - b[2]) / (a[2] - b[2])
    return [(float(end[0] / end[2]), float(end[1] / end[2])) for end in (a, b)]


def draw_above(found: Detections3D, side: int, reach: float) -> Image.Image:
    """The street from above, [side, side]: ego in the middle, forward is up, a ring every 10 m."""
    image = Image.new("RGB", (side, side), (18, 20, 24))
    pen = ImageDraw.Draw(image)
    scale = side / 2 / reach

    def place(x: float, y: float) -> tuple[float, float]:
        return side / 2 + x * scale, side / 2 - y * scale

    for ring in range(10, math.ceil(reach) + 1, 10):
        pen.ellipse((*place(-ring, ring), *place(ring, -ring)), outline=GRAY)
    pen.polygon(
        [place(0.9, -2), place(0.9, 1.6), place(0, 2.4), place(-0.9, 1.6), place(-0.9, -2)],
        outline="white",
    )
    outlines = boxes3d.corners(boxes3d.bottom_to_center(found.boxes))[:, :4, :2].tolist()
    rows = zip(outlines, found.boxes.tolist(), found.labels.tolist(), strict=True)
    for outline, box, label in rows:
        color = class_color(label)
        pen.polygon([place(x, y) for x, y in outline], outline=color)
        x, y, yaw = box[0], box[1], box[6]
        ahead = (x + math.cos(yaw) * box[3] / 2, y + math.sin(yaw) * box[3] / 2)
        pen.line([place(x, y), place(*ahead)], fill=color)
        pen.line([place(*ahead), place(ahead[0] + box[7] / 2, ahead[1] + box[8] / 2)], fill="white")
    _legend(pen, found)
    return image


def _legend(pen: ImageDraw.ImageDraw, found: Detections3D) -> None:
    font = ImageFont.load_default(size=12)
    labels: Sequence[int] = sorted(set(found.labels.tolist()))
    for line, label in enumerate(labels):
        pen.text((6, 4 + 14 * line), found.name(label), fill=class_color(label), font=font)
