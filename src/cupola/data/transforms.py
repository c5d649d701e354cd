"""Flips, sizes and filters by MMDetection's names; `pipeline` says what a sample holds."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.data.annotation_masks import boxes_around
from cupola.data.crops import RandomCrop
from cupola.data.pipeline import MAPS, Compose, RandomChoice, Sample, select
from cupola.data.pixels import as_array, mirrored, nearest, resized, size_of
from cupola.errors import DataError, did_you_mean
from cupola.registry import TRANSFORMS
from cupola.structures.images import fit_size

__all__ = ["Compose", "RandomChoice", "RandomCrop", "boxes_around"]  # and those below
DIRECTIONS = ("horizontal", "vertical", "diagonal")
# The backends of mmcv, whose default is the first, and their interpolations.
BACKENDS = {
    "cv2": ("bilinear", "nearest"),
    "pillow": ("bilinear", "nearest", "bicubic", "box", "lanczos", "hamming"),
}


@TRANSFORMS.register_module()
class LoadImageFromFile:
    """Makes the pixels float32 with to_float32; the dataset has read the image already."""

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = "color",
        imdecode_backend: str = "cv2",
        **where: Any,
    ) -> None:
        self.to_float32 = to_float32

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        if not self.to_float32:
            return sample
        return {**sample, "image": as_array(sample["image"]).astype(np.float32)}


@TRANSFORMS.register_module()
class RandomFlip:
    """Mirrors the image with probability `prob`.

    `direction` is horizontal (left and right are exchanged), vertical, diagonal (both), or a list
    of them: one is drawn, with its probability where `prob` is a list, too.
    """

    def __init__(
        self,
        prob: float | Sequence[float] = 0.5,
        direction: str | Sequence[str] = "horizontal",
    ) -> None:
        self.directions = [direction] if isinstance(direction, str) else list(direction)
        for each in self.directions:
            if each not in DIRECTIONS:
                raise DataError(
                    f"RandomFlip: direction {each!r}{did_you_mean(str(each), DIRECTIONS)}; use "
                    f"{', '.join(DIRECTIONS)}"
                )
        count = len(self.directions)
        shares = [prob / count] * count if isinstance(prob, int | float) else list(prob)
        if len(shares) != count or not 0 <= sum(shares) <= 1 + 1e-9 or min(shares) < 0:
            raise DataError(f"RandomFlip: prob is {prob!r}; expected 0..1, or one per direction")
        self.ends = np.cumsum(shares)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        chosen = int(np.searchsorted(self.ends, rng.random(), side="right"))
        if chosen == len(self.directions):
            return sample
        direction = self.directions[chosen]
        return self.flipped(sample, direction != "vertical", direction != "horizontal")

    def flipped(self, sample: Sample, across: bool, down: bool) -> Sample:
        """The sample with left and right, and top and bottom, exchanged where asked."""
        width, height = size_of(sample["image"])
        boxes = sample["boxes"].copy()
        if across:
            boxes[:, [0, 2]] = width - boxes[:, [2, 0]]
        if down:
            boxes[:, [1, 3]] = height - boxes[:, [3, 1]]
        maps = {
            key: sample[key][..., :: -1 if down else 1, :: -1 if across else 1]
            for key in MAPS
            if key in sample
        }
        return {**sample, **maps, "image": mirrored(sample["image"], across, down), "boxes": boxes}


def resize_masks(
    masks: np.ndarray[Any, Any], size: tuple[int, int], backend: str = "cv2"
) -> np.ndarray[Any, Any]:
    """Masks [..., H, W] to `size` = (width, height) by nearest, as OpenCV or Pillow does."""
    rows, columns = (
        nearest(old, new, backend) for old, new in zip(masks.shape[-2:], size[::-1], strict=True)
    )
    return np.asarray(masks[..., rows, :][..., columns])


def resize_sample(
    sample: Sample, size: tuple[int, int], backend: str = "cv2", interpolation: str = "bilinear"
) -> Sample:
    """Resizes to `size` = (width, height), the image as `resized` does; maps by nearest.

    Masks are resized as OpenCV does it, whatever the backend.
    """
    width, height = size_of(sample["image"])
    factor = (size[0] / width, size[1] / height)
    ways = {"masks": "cv2", "semantic": backend}
    maps = {k: resize_masks(sample[k], size, ways[k]) for k in MAPS if k in sample}
    return {
        **sample,
        **maps,
        "image": resized(sample["image"], size, backend, interpolation),
        "boxes": sample["boxes"] * np.array([*factor, *factor], np.float32),
        "scale_factor": tuple(a * b for a, b in zip(sample["scale_factor"], factor, strict=True)),
    }


@TRANSFORMS.register_module()
class Resize:
    """To `scale` = (width, height): exactly, or with keep_ratio as large as fits.

    scale_factor instead of it is a factor, or one for each of width and height. `backend` "cv2"
    resizes as OpenCV, "pillow" with antialiasing. `interpolation` is bilinear or nearest, of Pillow
    also bicubic, box, lanczos or hamming; masks are resized by nearest.
    """

    half = 0.5  # what is added to a side before it is rounded down

    def __init__(
        self,
        scale: tuple[int, int] | int | None = None,
        keep_ratio: bool = False,
        backend: str = "cv2",
        clip_object_border: bool = True,
        scale_factor: float | Sequence[float] | None = None,
        interpolation: str = "bilinear",
    ) -> None:
        if (scale is None) == (scale_factor is None):
            raise DataError("Resize: needs either scale = (width, height) or scale_factor")
        if backend not in BACKENDS:
            raise DataError(f"Resize: backend is {backend!r}; use {' or '.join(BACKENDS)}")
        if interpolation not in BACKENDS[backend]:
            raise DataError(
                f"Resize: interpolation {interpolation!r} is not available with backend "
                f"{backend!r}; use {', '.join(BACKENDS[backend])}"
            )
        self.backend, self.interpolation = backend, interpolation
        pair = (scale, scale) if isinstance(scale, int) else scale
        self.scale = None if pair is None else (int(pair[0]), int(pair[1]))
        factor = (1.0, 1.0) if scale_factor is None else scale_factor
        self.factor = (factor, factor) if isinstance(factor, int | float) else factor
        self.keep_ratio, self.clip = keep_ratio, clip_object_border

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        size = self.output_size(size_of(sample["image"]))
        found = resize_sample(sample, size, self.backend, self.interpolation)
        return {**found, "boxes": found["boxes"].clip(0, [*size, *size])} if self.clip else found

    def output_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """The (width, height) that an image of `size` = (width, height) is resized to."""
        if self.scale is None:
            x, y = (max(1, int(s * f + self.half)) for s, f in zip(size, self.factor, strict=True))
            return x, y
        if not self.keep_ratio:
            return self.scale
        return fit_size(size, min(self.scale), max(self.scale), self.half)


@TRANSFORMS.register_module()
class FixScaleResize(Resize):
    """Resize whose sides are rounded down."""

    half = 0.0


def resize_class(name: str, where: str) -> type[Resize]:
    """Resize or FixScaleResize, with or without their package; else DataError."""
    kinds = {"Resize": Resize, "FixScaleResize": FixScaleResize}
    plain = name.rpartition(".")[2]
    if plain not in kinds:
        raise DataError(f"{where}: resize_type is one of {', '.join(kinds)}, got {name!r}")
    return kinds[plain]


@TRANSFORMS.register_module()
class RandomChoiceResize:
    """Resize (or `resize_type` FixScaleResize) to one of `scales`."""

    def __init__(
        self,
        scales: Sequence[tuple[int, int]],
        keep_ratio: bool = False,
        resize_type: str = "Resize",
        **resize: Any,
    ) -> None:
        options = {"keep_ratio": keep_ratio, **resize, **resize.pop("resize_cfg", {})}
        kind = resize_class(resize_type, "RandomChoiceResize")
        self.choices = [kind(scale, **options) for scale in scales]

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return self.choices[rng.integers(len(self.choices))](sample, rng)


@TRANSFORMS.register_module()
class RandomResize:
    """Resize to `scale` = (width, height) times a factor drawn from `ratio_range`.

    With two scales each side is drawn between theirs, and ratio_range has no effect.
    """

    def __init__(
        self,
        scale: tuple[int, int] | Sequence[tuple[int, int]],
        ratio_range: tuple[float, float] = (1.0, 1.0),
        keep_ratio: bool = False,
        resize_type: str = "Resize",
        **resize: Any,
    ) -> None:
        pair: list[Any] = [scale, scale] if isinstance(scale[0], int) else list(scale)
        if len(pair) != 2:
            raise DataError("RandomResize: scale is one (width, height), or two")
        self.kind = resize_class(resize_type, "RandomResize")
        self.options = {"keep_ratio": keep_ratio, **resize, **resize.pop("resize_cfg", {})}
        first, second = pair
        self.low = [min(sides) for sides in zip(first, second, strict=True)]
        self.high = [max(sides) for sides in zip(first, second, strict=True)]
        self.ratio_range = ratio_range if first is second else (1.0, 1.0)

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        factor = rng.uniform(*self.ratio_range)
        width, height = (
            max(1, int((low if low == high else rng.integers(low, high + 1)) * factor))
            for low, high in zip(self.low, self.high, strict=True)
        )
        return self.kind((width, height), **self.options)(sample, rng)


@TRANSFORMS.register_module()
class FilterAnnotations:
    """Leaves out objects whose box, or mask with `by_mask`, is smaller than the minimum.

    With `keep_empty` a sample that loses its last object is rejected; without it, it is kept, empty
    (the argument's meaning in MMDetection, despite its name).
    """

    def __init__(
        self,
        min_gt_bbox_wh: tuple[float, float] = (1, 1),
        min_gt_mask_area: int = 1,
        by_box: bool = True,
        by_mask: bool = False,
        keep_empty: bool = True,
    ) -> None:
        self.sides, self.area = min_gt_bbox_wh, min_gt_mask_area
        self.by_box, self.by_mask, self.reject = by_box, by_mask, keep_empty

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample | None:
        sides = sample["boxes"][:, 2:] - sample["boxes"][:, :2]
        kept = np.ones(len(sides), bool)
        if self.by_box:
            kept &= (sides > np.array(self.sides)).all(1)
        if self.by_mask and "masks" in sample:
            kept &= sample["masks"].sum((1, 2)) >= self.area
        if len(kept) and not kept.any() and self.reject:
            return None
        return select(sample, kept)
