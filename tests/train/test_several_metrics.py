"""An evaluator with several metrics, as the published panoptic configs have."""

import numpy as np
import pytest
import torch

from cupola.errors import BuildError
from cupola.structures import (
    Detections,
    PanopticSegmentation,
    PanopticTruth,
    Segment,
    TrueSegment,
)
from cupola.structures.masks import mask_boxes
from cupola.train.evaluation import build_metric


def test_box_mask_and_panoptic_metrics_of_the_same_predictions() -> None:
    ids = torch.full((8, 10), 2, dtype=torch.int32)
    ids[2:6, 3:9] = 1000
    masks = torch.stack((ids == 1000, ids == 2))
    segments = (Segment(1000, 0, True, 0.9, 24), Segment(2, 2, False, 0.8, 56))
    found = Detections(
        mask_boxes(masks[:1]),
        torch.tensor([0.9]),
        torch.tensor([0]),
        masks=masks[:1],
        panoptic=PanopticSegmentation(ids, segments, void=3),
    )
    true = (TrueSegment(1000, 0, True), TrueSegment(2, 2, False))
    target = {"boxes": mask_boxes(masks), "labels": torch.tensor([0, 2]), "masks": masks}
    batch = {
        "targets": [target],
        "original_sizes": [(8, 10)],
        "scale_factors": [(1.0, 1.0)],
        "panoptic": [PanopticTruth(np.asarray(ids).astype(np.int64), true)],
    }
    metric = build_metric(
        [
            {"type": "CocoPanopticMetric"},
            {"type": "CocoMetric", "metric": ["bbox", "segm"]},
        ]
    )
    metric.reset()
    metric.update(batch, [found])
    scores = metric.compute()
    values = [scores[name] for name in ("PQ", "PQ_st", "AP", "mask_AP")]
    assert values == pytest.approx([1.0] * 4)
    assert metric.published_names["coco_panoptic/PQ"] == "PQ"


def test_an_empty_list_is_refused() -> None:
    with pytest.raises(BuildError, match="list of metrics"):
        build_metric([])
