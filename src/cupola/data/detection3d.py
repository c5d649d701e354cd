"""3-D detection samples -> a batch as multi-camera detectors take it."""

from collections.abc import Sequence
from typing import Any

import torch

from cupola.errors import DataError


def collate_detection3d(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins samples into a batch; the truth of a benchmark, "scene", is in "scenes".

    A sample holds "images" [N, 3, H, W] (normalized), "lidar2img" [N, 4, 4] for these images,
    "boxes" [M, 9] with z at the bottom, "labels" [M] int64 and "token". The batch: "pixels"
    [B, N, 3, H, W], "lidar2img" [B, N, 4, 4], "image_size" (H, W), "targets" (a dict of "boxes"
    and "labels" each), "tokens". Images that the model is to normalize come as "raw_images" in the
    sample, and as "raw_images" [B, N, 3, H, W] without an image_size in the batch.
    """
    kind = "images" if "images" in samples[0] else "raw_images"
    shapes = {tuple(sample[kind].shape) for sample in samples}
    if len(shapes) != 1:
        raise DataError(f"the samples of a batch need one image size, got {sorted(shapes)}")
    joined = torch.stack([sample[kind] for sample in samples])
    views = {"pixels": joined, "image_size": (joined.shape[-2], joined.shape[-1])}
    return {
        **(views if kind == "images" else {"raw_images": joined}),
        "lidar2img": torch.stack([sample["lidar2img"] for sample in samples]),
        "targets": [{"boxes": s["boxes"], "labels": s["labels"]} for s in samples],
        "tokens": [sample["token"] for sample in samples],
        **({"scenes": [s["scene"] for s in samples]} if "scene" in samples[0] else {}),
    }
