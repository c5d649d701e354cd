"""YOLOX, and the random size of its training batches."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.dense import SingleStageDetector
from cupola.registry import MODELS

Config = Mapping[str, Any]
Pair = Sequence[int]


@MODELS.register_module()
class YOLOX(SingleStageDetector):
    """Source: mmdet/models/detectors/yolox.py.

    MMDetection 2.x names the random sizes of training here, 3.x in the data preprocessor.
    """

    def __init__(
        self,
        *args: Any,
        input_size: Pair | None = None,
        size_multiplier: int = 32,
        random_size_range: Pair = (15, 25),
        random_size_interval: int = 10,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.augments = [each for each in self.data_preprocessor.batch_augments if callable(each)]
        if input_size is not None:
            low, high = (each * size_multiplier for each in random_size_range)
            self.augments.append(
                BatchSyncRandomResize((low, high), random_size_interval, size_multiplier)
            )

    def loss(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """Losses of a batch: pixels, and targets (boxes xyxy in pixels, labels)."""
        for augment in self.augments if self.training else ():
            batch = augment(batch)
        return super().loss(batch)


@MODELS.register_module()
class BatchSyncRandomResize:
    """Resizes batches of training to a size that is drawn every `interval` batches.

    The shorter side is from `random_size_range`, in steps of `size_divisor`.
    Source: mmdet/models/data_preprocessors/data_preprocessor.py.
    """

    def __init__(self, random_size_range: Pair, interval: int = 10, size_divisor: int = 32) -> None:
        low, high = (round(each / size_divisor) for each in random_size_range)
        if not 0 < low <= high:
            raise ValueError(f"random_size_range should be (low, high), got {random_size_range}")
        self.range, self.interval, self.divisor = (low, high), interval, size_divisor
        self.count, self.size = 0, 0

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """A batch with pixels and boxes of another size."""
        pixels = batch["pixels"]
        height, width = pixels.shape[-2:]
        if self.count % self.interval == 0:
            steps = int(torch.randint(self.range[0], self.range[1] + 1, ()))
            self.size = steps * self.divisor
        self.count += 1
        scale = self.size / min(height, width)
        new = [
            max(self.divisor, round(x * scale / self.divisor) * self.divisor)
            for x in (height, width)
        ]
        y, x = new[0] / height, new[1] / width
        if (y, x) == (1.0, 1.0):
            return dict(batch)
        factor = pixels.new_tensor([x, y, x, y])
        targets = [{**each, "boxes": each["boxes"] * factor} for each in batch["targets"]]
        sizes = {
            key: [(round(h * y), round(w * x)) for h, w in batch[key]]
            for key in ("image_sizes", "padded_sizes")
            if batch.get(key)
        }
        resized = F.interpolate(pixels, new, mode="bilinear", align_corners=False)
        return {**batch, **sizes, "pixels": resized, "padding_mask": None, "targets": targets}
