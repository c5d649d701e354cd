"""Detection samples -> a batch as detectors take it."""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola.data.pipeline import OBJECTS, VOID
from cupola.structures import pad_images

TARGET_KEYS = (*OBJECTS, "semantic")
# For CocoMetric and VOCMetric, PanopticQuality, LVISMetric, OpenImagesMetric, CityScapesMetric.
METRIC_KEYS = ("annotations", "panoptic", "federated", "image_labels", "file_name")


def collate_detection(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins samples into a batch; images of different size are padded at right and bottom.

    A sample holds "image" [3, H, W] (normalized), "boxes" [N, 4] xyxy pixels of that image,
    "labels" [N] int64, optionally "crowd" [N] bool, "masks" [N, H, W] bool and "semantic" [H, W]
    uint8 (the classes of pixels), "image_id", "original_size" (h, w), "scale_factor" (x, y), and
    perhaps what metrics need (METRIC_KEYS). The batch: "pixels" [B, 3, H, W], "padding_mask"
    [B, H, W] (True = padded) or None, "image_sizes", "padded_sizes" (here the same), "targets" (a
    dict of boxes, labels, crowd, masks and semantic each, masks not padded, semantic padded with
    255), "image_ids", "original_sizes", "scale_factors", perhaps "proposals" [R, 4] of each image
    and "shifts", the (left, top) of the images in the pixels, and what the samples have for
    metrics.
    """
    padded = pad_images([sample["image"] for sample in samples])
    batch = {
        "pixels": padded.pixels,
        "padding_mask": padded.padding_mask,
        "image_sizes": padded.sizes,
        "padded_sizes": padded.sizes,
        "targets": [target_of(each, padded.pixels.shape[-2:]) for each in samples],
        "image_ids": [sample["image_id"] for sample in samples],
        "original_sizes": [sample["original_size"] for sample in samples],
        "scale_factors": [sample["scale_factor"] for sample in samples],
    }
    if "proposals" in samples[0]:
        batch["proposals"] = [sample["proposals"] for sample in samples]
    if "shift" in samples[0]:
        batch["shifts"] = [sample["shift"] for sample in samples]
    for key in METRIC_KEYS:
        if key in samples[0]:
            batch[key] = [sample[key] for sample in samples]
    return batch


def target_of(sample: dict[str, Any], size: Sequence[int]) -> dict[str, Tensor]:
    """What a sample has of a target; the map of classes padded to `size` (height, width)."""
    found = {key: sample[key] for key in TARGET_KEYS if key in sample}
    if "semantic" in found:
        found["semantic"] = pad_class_map(found["semantic"], size)
    return found


def pad_class_map(classes: Tensor, size: Sequence[int]) -> Tensor:
    """A map of classes [h, w] with 255 at the right and the bottom up to `size`, [H, W]."""
    height, width = (large - small for large, small in zip(size, classes.shape, strict=True))
    return F.pad(classes, (0, width, 0, height), value=VOID) if height or width else classes
