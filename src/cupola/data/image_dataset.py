"""What detection datasets have in common: a pipeline, random numbers, and normalized tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from cupola.data.detection import collate_detection
from cupola.data.pipeline import Compose, Random, Sample
from cupola.errors import DataError
from cupola.registry import bare_type
from cupola.structures import IMAGENET_MEAN, IMAGENET_STD, normalize

TRIES = 1000  # images that a pipeline may reject one after the other
TENSORS = ("boxes", "labels", "crowd", "masks", "semantic", "proposals")


class ImageDataset:
    """Base of datasets of images: subclasses have `__len__` and `load`.

    load(index) gives a sample as pipelines take it, with "image_id", "original_size" (height,
    width), and what else the batch shall have. Random choices for sample i are drawn from (seed,
    epoch, i); an image that the pipeline rejects is replaced by another one.
    """

    def __init__(
        self,
        pipeline: Sequence[Mapping[str, Any]] = (),
        test_mode: bool = False,
        seed: int = 0,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        channel_order: str = "rgb",
    ) -> None:
        self.test_mode, self.seed, self.epoch = test_mode, seed, 0
        self.pipeline = Compose(pipeline)
        self.mean, self.std = tuple(mean), tuple(std)
        if channel_order not in ("rgb", "bgr"):
            raise DataError(f"channel_order: expected 'rgb' or 'bgr', got {channel_order!r}")
        self.channel_step = 1 if channel_order == "rgb" else -1

    def __len__(self) -> int:
        raise NotImplementedError

    def load(self, index: int) -> Sample:
        """Sample `index` before the pipeline."""
        raise NotImplementedError

    def set_epoch(self, epoch: int) -> None:
        """Changes the random transforms of the samples read from now on."""
        self.epoch = epoch

    def set_pipeline(self, pipeline: Sequence[Mapping[str, Any]]) -> None:
        """Another pipeline from now on."""
        self.pipeline = Compose(pipeline)

    def skip_transforms(self, kinds: Sequence[str]) -> None:
        """Leaves out the pipeline's transforms of these types from now on."""
        self.pipeline.skip(kinds)

    def sample(self, index: int, rng: Random) -> Sample:
        """Sample `index` after the pipeline, or another one where it is rejected.

        Raises DataError if the pipeline rejects one image after the other.
        """
        return self._drawn(index, rng, None)

    def _drawn(self, index: int, rng: Random, count: int | None) -> Sample:
        for _ in range(TRIES):
            found = self.pipeline.run(self.load(index), rng, self._another, count)
            if found is not None:
                return found
            index = int(rng.integers(len(self)))
        raise DataError(f"the pipeline rejected {TRIES} images one after the other")

    def _another(self, count: int, rng: Random) -> Sample:
        """A random sample after the first `count` steps of the pipeline."""
        return self._drawn(int(rng.integers(len(self))), rng, count)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        rng = np.random.default_rng((self.seed, self.epoch, index))
        return self.finished(self.sample(index, rng))

    def finished(self, sample: Sample) -> dict[str, Any]:
        """A sample of the pipeline with tensors, its image [3, H, W] normalized."""
        rows = np.asarray(sample["image"])[..., :: self.channel_step]
        pixels = torch.from_numpy(rows.transpose(2, 0, 1).copy())  # [3, H, W]
        tensors = {
            key: torch.from_numpy(np.ascontiguousarray(sample[key]))
            for key in TENSORS
            if key in sample
        }
        return {**sample, **tensors, "image": normalize(pixels, self.mean, self.std)}

    collate = staticmethod(collate_detection)


def loads(pipeline: Sequence[Mapping[str, Any]], what: str) -> bool:
    """Whether LoadAnnotations of a pipeline asks for `what`, such as with_mask."""
    return any(bare_type(step) == "LoadAnnotations" and bool(step.get(what)) for step in pipeline)
