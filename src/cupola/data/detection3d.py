"""3-D detection samples -> a batch as multi-camera detectors take it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cupola.errors import DataError


def normalise_views(
    pictures: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> Tensor:
    """RGB pictures [N, H, W, 3] -> [N, 3, H, W], (value - mean) / std."""
    scale = (1.0 / np.asarray(std)).astype(np.float32)[:, None, None]
    shift = (-np.asarray(mean) / np.asarray(std)).astype(np.float32)[:, None, None]
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2) * scale + shift)


def collate_detection3d(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins samples into a batch.

    A sample holds "images" [N, 3, H, W] (normalised), "lidar2img" [N, 4, 4] for these pictures,
    "boxes" [M, 9] with z at the bottom, "labels" [M] int64 and "token". The batch: "pixels"
    [B, N, 3, H, W], "lidar2img" [B, N, 4, 4], "image_size" (H, W), "targets" (a dict of "boxes"
    and "labels" each), "tokens".
    """
    shapes = {tuple(sample["images"].shape) for sample in samples}
    if len(shapes) != 1:
        raise DataError(f"the samples of a batch need one picture size, got {sorted(shapes)}")
    pixels = torch.stack([sample["images"] for sample in samples])
    return {
        "pixels": pixels,
        "lidar2img": torch.stack([sample["lidar2img"] for sample in samples]),
        "image_size": (pixels.shape[-2], pixels.shape[-1]),
        "targets": [{"boxes": s["boxes"], "labels": s["labels"]} for s in samples],
        "tokens": [sample["token"] for sample in samples],
    }
