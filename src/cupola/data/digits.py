"""digits-in-photos: handwritten digits composited on photographs, made on the fly.

Sample number i is a function of (seed, split, i) alone, so a resumed run sees what an
uninterrupted one would have seen, and two machines agree on every pixel.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cupola.data.detection import collate_detection
from cupola.data.sources import GLYPH_CELLS, GLYPH_SIDE, Field, check_split, glyphs, photos
from cupola.registry import DATASETS
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD, normalize

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
EDGE = 0.25  # range of ink values over which a glyph turns from transparent to opaque


@dataclass(frozen=True)
class DigitStyle:
    """How digits vary; lengths are fractions of the image's side."""

    smallest: float = 0.11
    largest: float = 0.36
    most: int = 10
    max_rotation: float = 20.0  # degrees; rotated further, a 6 looks like a 9
    max_overlap: float = 0.12  # IoU of a new digit's box with earlier ones
    contrast: float = 0.28  # minimum difference in brightness from the photograph, 0..1
    max_squeeze: float = (
        1.0  # largest change of the aspect ratio, the same for all digits of an image
    )


@dataclass(frozen=True)
class ComposedImage:
    """pixels [S, S, 3] uint8; boxes [N, 4] xyxy in pixels, around the ink; labels [N] int64.

    masks [N, S, S] bool: the ink of each digit, as far as later digits do not cover it.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    masks: NDArray[np.bool_]


def _window(rng: np.random.Generator, images: tuple[NDArray[np.uint8], ...], side: int) -> Field:
    """A random square of a random photograph with random mirroring and light: [S, S, 3]."""
    image = images[rng.integers(len(images))]
    top = rng.integers(image.shape[0] - side + 1)
    left = rng.integers(image.shape[1] - side + 1)
    window = image[top : top + side, left : left + side]
    if rng.random() < 0.5:
        window = window[:, ::-1]
    gain = rng.uniform(0.7, 1.2) * rng.uniform(0.92, 1.08, size=3)
    return window.astype(np.float32) * gain.astype(np.float32) + np.float32(rng.uniform(-20, 20))


def _ink(
    rng: np.random.Generator, glyph: Field, length: float, style: DigitStyle, squeeze: float
) -> Field:
    """Opacity 0..1 of a rotated, stretched glyph of about `length` pixels, cropped to its ink."""
    angle = math.radians(rng.uniform(-style.max_rotation, style.max_rotation))
    stretch, shear = rng.uniform(0.85, 1.25), rng.uniform(-0.15, 0.15)
    step = (GLYPH_CELLS - 2) / GLYPH_CELLS * GLYPH_SIDE / length  # glyph pixels per image pixel
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = step * np.array([[1.0, 0.0], [shear, 1.0 / stretch]]) @ turn
    matrix = matrix @ np.diag([squeeze**-0.5, squeeze**0.5])  # height / width grows by `squeeze`
    canvas = math.ceil(length * 1.7 * style.max_squeeze**0.5)
    offset = (GLYPH_SIDE - 1) / 2 - matrix @ np.full(2, (canvas - 1) / 2)
    ink = ndimage.affine_transform(glyph, matrix, offset, (canvas, canvas), order=1)
    threshold = rng.uniform(0.28, 0.5)  # a low threshold gives broad strokes
    ink = ((ink - threshold) / EDGE).clip(0, 1)
    rows, columns = np.flatnonzero(ink.max(1) > 0.5), np.flatnonzero(ink.max(0) > 0.5)
    return np.asarray(ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], dtype=np.float32)


def _overlaps(boxes: list[tuple[int, int, int, int]], box: tuple[int, int, int, int]) -> float:
    """Largest IoU of `box` with any of `boxes`."""
    largest = 0.0
    for other in boxes:
        width = min(box[2], other[2]) - max(box[0], other[0])
        height = min(box[3], other[3]) - max(box[1], other[1])
        if width > 0 and height > 0:
            areas = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other))
            largest = max(largest, width * height / (areas - width * height))
    return largest


def _paint(rng: np.random.Generator, patch: Field, ink: Field, contrast: float) -> None:
    """Blends one random color that stands out from `patch` [h, w, 3] into it, in place."""
    background = float(patch.mean())
    color = rng.uniform(0, 255, size=3).astype(np.float32)
    while abs(float(color.mean()) - background) < contrast * 255:
        color = rng.uniform(-60, 315, size=3).clip(0, 255).astype(np.float32)
    opacity = (ink * np.float32(rng.uniform(0.8, 1.0)))[..., None]
    patch += opacity * (color - patch)


def compose(rng: np.random.Generator, split: str, side: int, style: DigitStyle) -> ComposedImage:
    """One image of `side` pixels: a photograph with 1 to `style.most` digits on it."""
    known = check_split(split)
    shapes, names = glyphs(known)
    canvas = _window(rng, photos(known, side), side).clip(0, 255)
    boxes: list[tuple[int, int, int, int]] = []
    labels: list[int] = []
    owner = np.full((side, side), -1)  # the digit whose ink a pixel shows
    # the distortion of an image with another aspect ratio that was resized to a square
    squeeze = style.max_squeeze ** rng.uniform(-1, 1) if style.max_squeeze > 1 else 1.0
    for _ in range(rng.integers(1, style.most + 1)):
        chosen = rng.integers(len(shapes))
        length = side * style.smallest * (style.largest / style.smallest) ** rng.random()
        ink = _ink(rng, shapes[chosen], length, style, squeeze)
        height, width = ink.shape
        for _attempt in range(8):
            top, left = rng.integers(side - height + 1), rng.integers(side - width + 1)
            box = (int(left), int(top), int(left + width), int(top + height))
            if _overlaps(boxes, box) <= style.max_overlap:
                _paint(rng, canvas[top : box[3], left : box[2]], ink, style.contrast)
                owner[top : box[3], left : box[2]][ink > 0.5] = len(boxes)
                boxes.append(box)
                labels.append(int(names[chosen]))
                break
    return ComposedImage(
        canvas.astype(np.uint8),
        np.array(boxes, np.float32),
        np.array(labels, np.int64),
        owner == np.arange(len(boxes))[:, None, None],
    )


@DATASETS.register_module()
class DigitsInPhotos:
    """Sample i -> {"image": [3, S, S] float, normalized, "boxes", "labels", ...}.

    Labels are the digits themselves. `count` is the nominal length; any index is valid. With
    `with_mask` a sample has "masks" [N, S, S], too.
    """

    names = DIGIT_NAMES

    def __init__(
        self,
        split: str = "train",
        seed: int = 0,
        count: int = 1_000_000,
        size: int = 128,
        style: dict[str, Any] | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
        with_mask: bool = False,
    ) -> None:
        self.with_mask = with_mask
        self.split = check_split(split)
        self.seed, self.count, self.size = seed, count, size
        self.style = DigitStyle(**(style or {}))
        self.mean, self.std = tuple(mean), tuple(std)

    def __len__(self) -> int:
        return self.count

    def compose(self, index: int) -> ComposedImage:
        """Image number `index`, before normalization."""
        # validation draws from another random stream than training
        rng = np.random.default_rng((self.seed, int(self.split == "val"), index))
        return compose(rng, self.split, self.size, self.style)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.load(index)
        pixels = torch.from_numpy(sample["image"]).permute(2, 0, 1).contiguous()  # [3, S, S]
        return {**sample, "image": normalize(pixels, self.mean, self.std)}

    def load(self, index: int) -> dict[str, Any]:
        """Sample `index` with its image as it is, [S, S, 3] uint8."""
        composed = self.compose(index)
        masks = {"masks": torch.from_numpy(composed.masks)} if self.with_mask else {}
        return {
            **masks,
            "image": composed.pixels,
            "boxes": torch.from_numpy(composed.boxes),
            "labels": torch.from_numpy(composed.labels),
            "image_id": index,
            "original_size": (self.size, self.size),
            "scale_factor": (1.0, 1.0),
        }

    def write_examples(self, folder: Path) -> None:
        """Writes image 0 as image.png, its ground truth, and the server request for it."""
        image = self.compose(0)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.pixels).save(folder / "image.png")
        truth = {"boxes": image.boxes.tolist(), "labels": image.labels.tolist()}
        (folder / "truth.json").write_text(json.dumps(truth) + "\n")
        tensor = {
            "name": "pixels",
            "datatype": "UINT8",
            "shape": [1, *image.pixels.shape],
            "data": image.pixels.reshape(-1).tolist(),
        }
        (folder / "request.json").write_text(json.dumps({"inputs": [tensor]}) + "\n")

    collate = staticmethod(collate_detection)
