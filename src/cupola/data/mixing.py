"""Transforms that mix several images of a dataset, by MMDetection's names.

Source: mmdet/datasets/transforms/transforms.py; the mosaic is YOLOv4's (arXiv 2004.10934), MixUp
YOLOX's (arXiv 2107.08430), CopyPaste that of arXiv 2012.07177.

The cached variants draw from the whole dataset, as the others do: a cache of the images that a
process has just seen would make a sample depend on the samples before, and a resumed run differ
from one that was not interrupted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cupola.data.annotation_masks import boxes_around
from cupola.data.borders import Color, in_rgb, masks_on_canvas, on_canvas
from cupola.data.crops import clipped, crop_sample, inside
from cupola.data.pipeline import OBJECTS, Draw, Pair, Random, Sample, select
from cupola.data.pixels import as_array, as_image, filled, paste, size_of
from cupola.data.transforms import RandomFlip, resize_masks, resize_sample
from cupola.errors import DataError
from cupola.files.images import resize
from cupola.registry import TRANSFORMS

FLIP = RandomFlip()


def together(samples: Sequence[Sample]) -> Sample:
    """The objects of several samples in one."""
    keys = [key for key in OBJECTS if all(key in each for each in samples)]
    return {key: np.concatenate([each[key] for each in samples]) for key in keys}


def fitted(sample: Sample, size: tuple[int, int]) -> Sample:
    """A sample as large as fits into `size`, its sides rounded down; boxes by the exact factor."""
    width, height = size_of(sample["image"])
    factor = min(size[0] / width, size[1] / height)
    found = resize_sample(sample, (max(1, int(width * factor)), max(1, int(height * factor))))
    return {**found, "boxes": sample["boxes"] * np.float32(factor)}


class _Mixing:
    """Base of transforms that need a dataset: `mix` does the work."""

    def mix(self, sample: Sample, rng: Random, draw: Draw) -> Sample:
        raise NotImplementedError

    def _with_objects(self, draw: Draw, tries: int) -> Sample:
        """Another sample with objects, or the last of so many."""
        found = draw()
        for _ in range(tries - 1):
            if len(found["boxes"]):
                break
            found = draw()
        return found


@TRANSFORMS.register_module()
class Mosaic(_Mixing):
    """With probability `prob` four images around a random point of a canvas twice `img_scale`.

    img_scale: (width, height) that each image fits in. center_ratio_range: where the point is, in
    parts of it. pad_val: gray level of the rest.
    """

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        center_ratio_range: Pair = (0.5, 1.5),
        bbox_clip_border: bool = True,
        pad_val: Color = 114.0,
        prob: float = 1.0,
    ) -> None:
        if not 0 <= prob <= 1:
            raise DataError(f"Mosaic: prob is {prob!r}; expected 0..1")
        self.scale, self.range = (int(img_scale[0]), int(img_scale[1])), center_ratio_range
        self.clip, self.color, self.prob = bbox_clip_border, in_rgb(pad_val), prob

    def mix(self, sample: Sample, rng: Random, draw: Draw) -> Sample:
        """The mosaic of a sample and three others."""
        if rng.random() > self.prob:
            return sample
        samples = [sample, *(draw() for _ in range(3))]
        x, y = (int(rng.uniform(*self.range) * side) for side in self.scale)
        size = (2 * self.scale[0], 2 * self.scale[1])
        pixels = filled(size, self.color, as_array(sample["image"]))
        placed = []
        for number, each in enumerate(samples):
            part = fitted(each, self.scale)
            width, height = size_of(part["image"])
            place = (x - width * (number % 2 == 0), y - height * (number < 2))
            placed.append(_without_image(part, size, place))
            paste(pixels, as_array(part["image"]), place)
        found = {**sample, **together(placed), "image": as_image(pixels)}
        found["boxes"] = clipped(found["boxes"], size) if self.clip else found["boxes"]
        return select(found, inside(found["boxes"], size))


def _without_image(sample: Sample, size: tuple[int, int], place: tuple[int, int]) -> Sample:
    """The objects of a sample on a canvas of `size` with its corner at `place`."""
    bare = {key: sample[key] for key in OBJECTS if key in sample}
    moved = {**bare, "boxes": sample["boxes"] + np.array([*place, *place], np.float32)}
    if "masks" in sample:
        moved["masks"] = masks_on_canvas(sample["masks"], size, place)
    return moved


@TRANSFORMS.register_module()
class CachedMosaic(Mosaic):
    """Mosaic of images that have passed the steps before it."""

    def __init__(
        self, *args: Any, max_cached_images: int = 40, random_pop: bool = True, **options: Any
    ) -> None:
        super().__init__(*args, **options)


@TRANSFORMS.register_module()
class MixUp(_Mixing):
    """The mean of the image and another one, which is flipped and of another size.

    The other fits into img_scale (width, height), is padded to it with `pad_val`, resized by a
    factor of ratio_range, mirrored unless a random number is below flip_ratio, and cropped or
    padded to the image's size. It is one of up to `max_iters` that has objects; without any the
    sample stays as it is. `prob`: of doing anything.
    """

    def __init__(
        self,
        img_scale: tuple[int, int] = (640, 640),
        ratio_range: Pair = (0.5, 1.5),
        flip_ratio: float = 0.5,
        pad_val: Color = 114.0,
        max_iters: int = 15,
        bbox_clip_border: bool = True,
        prob: float = 1.0,
    ) -> None:
        self.scale, self.range = (int(img_scale[0]), int(img_scale[1])), ratio_range
        self.flip, self.color, self.tries = flip_ratio, in_rgb(pad_val), max_iters
        self.clip, self.prob = bbox_clip_border, prob

    def mix(self, sample: Sample, rng: Random, draw: Draw) -> Sample:
        """The mean of a sample and another one."""
        if rng.random() > self.prob:
            return sample
        other = self._with_objects(draw, self.tries)
        if not len(other["boxes"]):
            return sample
        other = self._resized(other, rng.uniform(*self.range))
        if rng.random() > self.flip:
            other = FLIP.flipped(other, across=True, down=False)
        size = size_of(sample["image"])
        larger = tuple(max(pair) for pair in zip(size, size_of(other["image"]), strict=True))
        place = tuple(
            int(rng.integers(high - low)) if high > low else 0
            for high, low in zip(larger, size, strict=True)
        )
        other = on_canvas(other, (larger[0], larger[1]), (0, 0), self.color)
        window = (place[0], place[1], place[0] + size[0], place[1] + size[1])
        other = crop_sample(other, window, self.clip)
        pixels = 0.5 * as_array(sample["image"]) + 0.5 * as_array(other["image"])
        image = as_image(pixels.clip(0, 255).astype(np.uint8))
        found = {**sample, **together([sample, other]), "image": image}
        return select(found, inside(found["boxes"], size))

    def _resized(self, sample: Sample, jitter: float) -> Sample:
        """Fitted into the scale and padded to it, times `jitter`; boxes by the exact factor."""
        fits = fitted(sample, self.scale)
        pixels = as_array(fits["image"])
        if pixels.dtype == np.uint8 and isinstance(self.color, float):
            pixels = pixels.astype(np.float64)  # as the original's canvas: not rounded until later
        canvas = filled(self.scale, self.color, pixels)
        paste(canvas, pixels, (0, 0))
        width, height = (max(1, int(side * jitter)) for side in self.scale)
        canvas = resize(canvas, (height, width), "opencv").clip(0, 255).astype(np.uint8)
        boxes = fits["boxes"] * np.float32(jitter)
        boxes = clipped(boxes, (width, height)) if self.clip else boxes
        found = {**fits, "image": as_image(canvas), "boxes": boxes}
        if "masks" in fits:
            masks = masks_on_canvas(fits["masks"], self.scale, (0, 0))
            found["masks"] = resize_masks(masks, (width, height))
        return found


@TRANSFORMS.register_module()
class CachedMixUp(MixUp):
    """MixUp with an image that has passed the steps before it."""

    def __init__(
        self, *args: Any, max_cached_images: int = 20, random_pop: bool = True, **options: Any
    ) -> None:
        super().__init__(*args, **options)


@TRANSFORMS.register_module()
class CopyPaste(_Mixing):
    """Objects of another image of the same size are pasted, up to `max_num_pasted` of them.

    How many, and which, is drawn; with `selected` False all of them. Covered objects lose that part
    of their mask; an object is removed if more than `bbox_occluded_thr` pixels of its box's sides
    are gone and at most `mask_occluded_thr` of its mask are left. `paste_by_box`: for data without
    masks, whole boxes.
    """

    def __init__(
        self,
        max_num_pasted: int = 100,
        bbox_occluded_thr: int = 10,
        mask_occluded_thr: int = 300,
        selected: bool = True,
        paste_by_box: bool = False,
    ) -> None:
        self.most, self.selected, self.by_box = max_num_pasted, selected, paste_by_box
        self.box_limit, self.mask_limit = bbox_occluded_thr, mask_occluded_thr

    def _masked(self, sample: Sample) -> Sample:
        if "masks" in sample:
            return sample
        if not self.by_box:
            raise DataError("CopyPaste: needs masks (LoadAnnotations with_mask=True)")
        width, height = size_of(sample["image"])
        masks = np.zeros((len(sample["boxes"]), height, width), bool)
        for mask, (left, top, right, bottom) in zip(
            masks, sample["boxes"].astype(int), strict=True
        ):
            mask[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
        return {**sample, "masks": masks}

    def mix(self, sample: Sample, rng: Random, draw: Draw) -> Sample:
        """The sample with objects of another one."""
        other = self._masked(draw())
        if self.selected:
            count = len(other["boxes"])
            chosen = rng.choice(count, int(rng.integers(min(count + 1, self.most))), replace=False)
            other = select(other, chosen)
        if not len(other["boxes"]):
            return sample
        if size_of(other["image"]) != size_of(sample["image"]):
            raise DataError(
                "CopyPaste: images must have the same size; crop and pad them in the pipeline of "
                "the inner dataset"
            )
        own = self._masked(sample)
        pasted = other["masks"].any(0)  # [H, W]
        rest = {**own, "masks": own["masks"] & ~pasted}
        boxes = boxes_around(rest["masks"])
        near = (np.abs(boxes - own["boxes"]) <= self.box_limit).all(1)
        kept = near | (rest["masks"].sum((1, 2)) > self.mask_limit)
        rest = select({**rest, "boxes": boxes}, kept)
        pixels = as_array(sample["image"])
        pixels[pasted] = as_array(other["image"])[pasted]
        return {**sample, **together([rest, other]), "image": as_image(pixels)}
