"""Random detections of several classes for the mean AP of Pascal VOC and Open Images."""

from typing import Any

import numpy as np


def case(seed: int) -> list[dict[str, Any]]:
    """Images with boxes, labels, ignored and groups of the truth; and what was found."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(int(rng.integers(3, 9))):
        count = int(rng.integers(0, 7))
        corners = rng.integers(0, 60, (count, 2))
        truth = np.concatenate((corners, corners + rng.integers(8, 40, (count, 2))), 1)
        copies = np.repeat(truth, rng.integers(0, 4, count), axis=0)
        near = copies + rng.integers(-5, 6, copies.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2] + 1)
        loose = rng.integers(0, 60, (int(rng.integers(0, 6)), 2))
        boxes = np.concatenate((near, np.concatenate((loose, loose + 20), 1)))
        images.append({
            "boxes": truth.astype(float),
            "labels": rng.integers(0, 3, count),
            "ignored": rng.random(count) < 0.2,
            "groups": rng.random(count) < 0.3,
            "found_boxes": boxes.astype(float),
            "found_labels": rng.integers(0, 3, len(boxes)),
            "found_scores": rng.permutation(len(boxes)) / 64 + rng.random(),
        })  # fmt: skip
    return images
