"""The transforms of GLIP's trainings, whose boxes end one pixel earlier.

Source: mmdet/datasets/transforms/transformers_glip.py.
"""

import numpy as np

from cupola.data.pipeline import Sample
from cupola.data.transforms import RandomFlip
from cupola.registry import TRANSFORMS


@TRANSFORMS.register_module("GTBoxSubOne_GLIP")
class EndOnePixelEarlier:
    """Boxes xyxy -> those whose last pixel belongs to them."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        return {**sample, "boxes": sample["boxes"] - np.array([0, 0, 1, 1], np.float32)}


@TRANSFORMS.register_module("RandomFlip_GLIP")
class RandomFlipInclusive(RandomFlip):
    """Mirrors left and right; mirrored boxes move one pixel to the left."""

    def __call__(self, sample: Sample, rng: np.random.Generator) -> Sample:
        flipped = super().__call__(sample, rng)
        if flipped is sample:
            return sample
        return {**flipped, "boxes": flipped["boxes"] - np.array([1, 0, 1, 0], np.float32)}
