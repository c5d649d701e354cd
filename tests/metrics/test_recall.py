"""The average recall of region proposals."""

from typing import Any

import numpy as np
import pytest
import torch

from cupola.errors import BuildError
from cupola.metrics.recall import average_recall
from cupola.registry import METRICS
from cupola.structures import Detections


def boxes(rng: np.random.Generator, count: int) -> Any:
    corners = rng.integers(0, 60, (count, 2))
    return np.concatenate((corners, corners + rng.integers(8, 40, (count, 2))), 1).astype(float)


def overlap(first: Any, second: Any) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    both = max(width, 0) * max(height, 0)
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (first, second)]
    return both / (sum(areas) - both)


def literal(images: list[Any], count: int) -> float:
    """Pairs of the largest IoU are matched first."""
    ious: list[float] = []
    for objects, proposals in images:
        pairs = sorted(
            ((overlap(o, p), i, j) for i, o in enumerate(objects)
             for j, p in enumerate(proposals[:count])), reverse=True
        )  # fmt: skip
        rows: set[int] = set()
        columns: set[int] = set()
        for iou, row, column in pairs:
            if row not in rows and column not in columns:
                rows.add(row)
                columns.add(column)
                ious.append(iou)
    total = sum(len(objects) for objects, _ in images)
    return float(np.mean([sum(iou >= t for iou in ious) / total
                          for t in np.linspace(0.5, 0.95, 10)]))  # fmt: skip


@pytest.mark.parametrize("seed", range(5))
def test_recall_equals_a_literal_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(6):
        objects = boxes(rng, int(rng.integers(0, 6)))
        near = np.repeat(objects, 3, 0) + rng.integers(-4, 5, (3 * len(objects), 4))
        proposals = rng.permutation(np.concatenate((near, boxes(rng, 9))))
        images.append((objects, proposals))
    found = average_recall(images, (3, 10, 100))
    assert found == pytest.approx([literal(images, count) for count in (3, 10, 100)])
    assert average_recall([], (10,)) == [0.0]


def test_the_metric_of_proposals() -> None:
    metric = METRICS.build(
        {"type": "CocoMetric", "metric": "proposal_fast", "proposal_nums": (1, 9), "ann_file": "x"}
    )
    entry = {"category_id": 7, "bbox": [0, 0, 10, 10], "area": 100, "iscrowd": 0}
    other = {**entry, "bbox": [20, 20, 10, 10]}
    crowd = {**entry, "bbox": [0, 0, 90, 90], "iscrowd": 1}
    batch = {"targets": [{}], "original_sizes": [(99, 99)], "image_ids": [1],
             "annotations": [[entry, other, crowd]]}  # fmt: skip
    found = Detections(
        torch.tensor([[20.0, 20, 30, 30], [0, 0, 10, 10]]), torch.tensor([0.2, 0.9]),
        torch.zeros(2, dtype=torch.long),
    )  # fmt: skip
    metric.update(batch, [found])
    assert metric.compute() == {"AR@1": 0.5, "AR@9": 1.0}
    with pytest.raises(BuildError, match="metric 'bbx'; did you mean 'bbox'"):
        METRICS.build({"type": "CocoMetric", "metric": ["bbx"]})
    with pytest.raises(BuildError, match="proposal_fast is measured alone"):
        METRICS.build({"type": "CocoMetric", "metric": ["bbox", "proposal_fast"]})
