"""3-D detection samples -> a batch as multi-camera detectors take it."""

from collections.abc import Sequence
from typing import Any

import torch

from cupola.errors import DataError

# What models of streams need of every frame besides images and lidar2img.
STREAM_INPUTS = (
    "intrinsics",
    "extrinsics",
    "ego_pose",
    "timestamp",
    "can_bus",
    "prev_exists",
    "ages",
)


def collate_detection3d(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins samples into a batch; the truth of a benchmark, "scene", is in "scenes".

    A sample holds "images" [N, 3, H, W] (normalized), "lidar2img" [N, 4, 4] for these images,
    "boxes" [M, 9] with z at the bottom, "labels" [M] int64 and "token". The batch: "pixels"
    [B, N, 3, H, W], "lidar2img" [B, N, 4, 4], "image_size" (H, W), "targets" (a dict of "boxes"
    and "labels" each), "tokens". Images that the model is to normalize come as "raw_images" in the
    sample, and as "raw_images" [B, N, 3, H, W] without an image_size in the batch.

    Frames of streams also hold "intrinsics" and "extrinsics" (lidar to camera) [N, 4, 4],
    "ego_pose" [4, 4] and "timestamp" in seconds, or "can_bus" [18], "prev_exists" (0 at a stream's
    first frame, else 1) and "stream", its name. The batch has the tensors under the same names, and
    "streams". Clips have a further axis, the frames, after that of the samples; where "boxes" and
    "labels" are lists of all frames, so are the targets of the sample. PETRv2's samples
    hold N present and N earlier images, and "ages" [2 * N], seconds before the lidar's sweep.
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
        "targets": [_targets(sample) for sample in samples],
        "tokens": [sample["token"] for sample in samples],
        **{
            key: torch.stack([s[key] for s in samples])
            for key in STREAM_INPUTS
            if key in samples[0]
        },
        **({"streams": [s["stream"] for s in samples]} if "stream" in samples[0] else {}),
        **({"scenes": [s["scene"] for s in samples]} if "scene" in samples[0] else {}),
    }


def _targets(sample: dict[str, Any]) -> Any:
    """The truth of a sample, or of every frame of a clip that has them all."""
    boxes, labels = sample["boxes"], sample["labels"]
    if torch.is_tensor(boxes):
        return {"boxes": boxes, "labels": labels}
    return [{"boxes": b, "labels": n} for b, n in zip(boxes, labels, strict=True)]
