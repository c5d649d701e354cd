"""Photographs and handwritten digits from installed packages.

The photographs are the sample images of scikit-learn (CC BY 2.0) and of scikit-image (CC0 or public
domain); the digits are scikit-learn's `load_digits`: the 1797 test scans of the UCI "Optical
Recognition of Handwritten Digits" set (CC BY 4.0). Nothing is downloaded.
"""

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from cupola.errors import DataError

Split = Literal["train", "val"]
Pixels = NDArray[np.uint8]
Field = NDArray[np.float32]

# Photographs without writing in them, by split; the two splits share no scene.
PHOTOS: dict[Split, tuple[str, ...]] = {
    "train": (
        "sklearn/datasets/images/china.jpg",
        "skimage/data/astronaut.png",
        "skimage/data/brick.png",
        "skimage/data/camera.png",
        "skimage/data/coffee.png",
        "skimage/data/grass.png",
        "skimage/data/hubble_deep_field.jpg",
        "skimage/data/ihc.png",
        "skimage/data/moon.png",
        "skimage/data/motorcycle_left.png",
        "skimage/data/retina.jpg",
    ),
    "val": (
        "sklearn/datasets/images/flower.jpg",
        "skimage/data/chelsea.png",
        "skimage/data/gravel.png",
        "skimage/data/rocket.jpg",
    ),
}
GLYPH_CELLS = 10  # an 8 x 8 scan with an empty margin of one cell
GLYPH_SIDE = 30  # pixels of a smoothed glyph's side: three per cell


def check_split(split: str) -> Split:
    """`split` itself; DataError if it is neither "train" nor "val"."""
    if split not in PHOTOS:
        raise DataError(f"unknown split {split!r}; use 'train' or 'val'")
    return "train" if split == "train" else "val"


def _photo_path(name: str) -> Path:
    package, _, inner = name.partition("/")
    spec = find_spec(package)
    path = Path(spec.origin).parent / inner if spec and spec.origin else None
    if path is None or not path.is_file():
        raise DataError(f"{name} is missing; install scikit-learn and scikit-image (cupola[train])")
    return path


@lru_cache(maxsize=8)
def photos(split: Split, side: int) -> tuple[Pixels, ...]:
    """The photographs of a split, [H, W, 3] uint8, each at three sizes.

    The short sides are 1, 1.4 and 2 times `side`, so that a window of `side` pixels sees the whole
    scene or a detail; smaller originals are enlarged.
    """
    images = []
    for name in PHOTOS[split]:
        with Image.open(_photo_path(name)) as opened:
            image = opened.convert("RGB")
        for zoom in (1.0, 1.4, 2.0):
            ratio = zoom * side / min(image.size)
            width, height = (max(side, round(length * ratio)) for length in image.size)
            images.append(np.asarray(image.resize((width, height), Image.Resampling.BOX)))
    return tuple(images)


@lru_cache(maxsize=2)
def glyphs(split: Split) -> tuple[Field, NDArray[np.int64]]:
    """Handwritten digits [N, 30, 30], 0..1 (1 = ink), smoothly enlarged, and their labels [N].

    Every fourth scan belongs to validation.
    """
    if find_spec("sklearn") is None:
        raise DataError("the handwritten digits need scikit-learn; install cupola[train]")
    from sklearn.datasets import load_digits

    scans = load_digits()
    chosen = (np.arange(len(scans.target)) % 4 == 3) == (split == "val")
    ink = np.pad(scans.images[chosen] / 16.0, ((0, 0), (1, 1), (1, 1)))
    ratio = GLYPH_SIDE / GLYPH_CELLS
    smooth = ndimage.zoom(ink, (1, ratio, ratio), order=3, grid_mode=True, mode="grid-constant")
    return smooth.clip(0, 1).astype(np.float32), scans.target[chosen].astype(np.int64)
