"""Detection samples -> a batch as detectors take it."""

from collections.abc import Sequence
from typing import Any

from cupola.structures import pad_images

TARGET_KEYS = ("boxes", "labels", "crowd", "masks")


def collate_detection(samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Joins samples into a batch; images of different size are padded at right and bottom.

    A sample holds "image" [3, H, W] (normalized), "boxes" [N, 4] xyxy pixels of that image,
    "labels" [N] int64, optionally "crowd" [N] bool, "masks" [N, H, W] bool and "panoptic",
    "image_id", "original_size" (h, w) and "scale_factor" (x, y). The batch: "pixels"
    [B, 3, H, W], "padding_mask" [B, H, W] (True = padded) or None, "image_sizes",
    "padded_sizes" (here the same), "targets" (a dict of boxes, labels, crowd and masks each, masks
    not padded), "image_ids", "original_sizes", "scale_factors", and where the samples have them
    "panoptic" and "annotations" (for CocoMetric).
    """
    padded = pad_images([sample["image"] for sample in samples])
    batch = {
        "pixels": padded.pixels,
        "padding_mask": padded.padding_mask,
        "image_sizes": padded.sizes,
        "padded_sizes": padded.sizes,
        "targets": [{key: s[key] for key in TARGET_KEYS if key in s} for s in samples],
        "image_ids": [sample["image_id"] for sample in samples],
        "original_sizes": [sample["original_size"] for sample in samples],
        "scale_factors": [sample["scale_factor"] for sample in samples],
    }
    for key in ("panoptic", "annotations"):
        if key in samples[0]:
            batch[key] = [sample[key] for sample in samples]
    return batch
