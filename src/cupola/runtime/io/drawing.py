"""Draws detections on their image."""

import colorsys
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cupola.structures import Detections


def draw_detections(pixels: np.ndarray[Any, Any], found: Detections) -> Image.Image:
    """[H, W, 3] uint8 -> an image with a colored box and a caption per detection."""
    image = Image.fromarray(pixels)
    pen = ImageDraw.Draw(image)
    width = max(2, round(min(image.size) / 200))
    font = ImageFont.load_default(size=max(11, round(min(image.size) / 32)))
    for row in reversed(found.to_list()):
        color = class_color(row["label"])
        box = row["box"]
        pen.rectangle(box, outline=color, width=width)
        caption = f"{row['name']} {row['score']:.2f}"
        left, top, right, bottom = pen.textbbox((box[0], box[1]), caption, font=font, anchor="lb")
        shift = max(0.0, -top)  # a caption above the image's edge is moved inside
        pen.rectangle((left, top + shift, right + 4, bottom + shift), fill=color)
        pen.text((box[0] + 2, box[1] + shift), caption, fill="white", font=font, anchor="lb")
    return image


def class_color(label: int) -> tuple[int, int, int]:
    """A distinct color for each class: golden-ratio steps around the hue circle."""
    red, green, blue = colorsys.hsv_to_rgb((label * 0.618034) % 1, 0.75, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
