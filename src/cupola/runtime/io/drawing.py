"""Draws detections on their image."""

from typing import Any

import numpy as np
from PIL import Image

from cupola.structures import Detections
from cupola.structures.drawing import class_color

__all__ = ["class_color", "draw_detections"]


def draw_detections(pixels: np.ndarray[Any, Any], found: Detections) -> Image.Image:
    """[H, W, 3] uint8 -> an image with a colored box and a caption per detection."""
    return found.draw(pixels)
