"""Draws labeled boxes and masks on an image."""

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

PAD = 2  # pixels between a caption and the edge of its background
LEAST_FONT = 7
OPACITY = 0.5  # of masks


def draw_boxes(
    pixels: np.ndarray[Any, Any],
    boxes: Sequence[Sequence[float]],
    labels: Sequence[int],
    captions: Sequence[str],
    masks: np.ndarray[Any, Any] | None = None,
) -> Image.Image:
    """[H, W, 3] uint8 -> an image with a colored box (xyxy) and a caption for each label.

    masks [N, H, W], bool, are laid over the image in neighboring colors.

    The first box is drawn on top. Captions are moved, and if need be shortened, so that all of
    them stay inside the image.
    """
    if masks is not None and len(masks):
        pixels = blend_masks(pixels, masks, labels)
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    width = max(2, round(min(image.size) / 200))
    font = ImageFont.load_default(size=max(11, round(min(image.size) / 32)))
    for box, label, caption in reversed(list(zip(boxes, labels, captions, strict=True))):
        color = class_color(label)
        left, right = sorted(_near(side, image.width, width) for side in (box[0], box[2]))
        top, bottom = sorted(_near(side, image.height, width) for side in (box[1], box[3]))
        pen.rectangle((left, top, right, bottom), outline=color, width=width)
        _draw_caption(pen, image.size, (left, top), caption, color, font)
    return image


def _near(side: float, size: int, line: int) -> float:
    """A side of a box, moved next to the image if it is far outside: Pillow walks all the way.

    A box of a model that has diverged may have any sides, and NaN is drawn at 0.
    """
    margin = 2.0 * line
    return 0.0 if side != side else min(max(side, -margin), size + margin)


def blend_masks(
    pixels: np.ndarray[Any, Any], masks: np.ndarray[Any, Any], labels: Sequence[int]
) -> np.ndarray[Any, Any]:
    """The image [H, W, 3] under half-transparent masks [N, H, W], the first on top.

    Masks of one class get different shades of its color.
    """
    blended = pixels.astype(np.float32)
    for index in reversed(range(len(masks))):
        color = np.array(class_color(labels[index]), np.float32)
        color = color * (1 - 0.12 * (index % 4)) + 30 * (index % 4)
        mask = masks[index]
        blended[mask] = (1 - OPACITY) * pixels[mask] + OPACITY * color
    return blended.clip(0, 255).astype(np.uint8)


def _draw_caption(
    pen: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corner: tuple[float, float],
    caption: str,
    color: tuple[int, int, int],
    font: Any,
) -> None:
    """A caption above a box's upper left corner, moved inside the image where it would leave it."""
    caption, font = _fitted(pen, caption, font, size[0] - 2 * PAD)
    place = caption_place(pen.textbbox((0, 0), caption, font=font, anchor="lb"), corner, size)
    background = pen.textbbox(place, caption, font=font, anchor="lb")
    pen.rectangle(
        (background[0] - PAD, background[1], background[2] + PAD, background[3]), fill=color
    )
    pen.text(place, caption, fill="white", font=font, anchor="lb")


def caption_place(
    text: tuple[float, float, float, float], corner: tuple[float, float], size: tuple[int, int]
) -> tuple[float, float]:
    """Where to write a text of that bounding box, so that it is inside an image (width, height)."""
    left, top, right, bottom = text
    x = min(corner[0] + PAD, size[0] - 1 - PAD - right)
    y = min(corner[1], size[1] - 1 - bottom)
    return max(x, PAD - left), max(y, -top)


def _fitted(pen: ImageDraw.ImageDraw, caption: str, font: Any, width: float) -> tuple[str, Any]:
    """The caption and a font with which it is no wider than `width`."""
    if pen.textlength(caption, font=font) <= width:
        return caption, font
    font = ImageFont.load_default(size=LEAST_FONT)
    while len(caption) > 1 and pen.textlength(caption, font=font) > width:
        caption = caption[:-2] + "…"
    return caption, font


def class_color(label: int) -> tuple[int, int, int]:
    """A distinct color for each class: golden-ratio steps around the hue circle."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1, 0.75, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
