"""COCO AP against pycocotools on files, and corner cases."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.errors import DataError
from cupola.metrics.coco import CocoMetric
from cupola.structures import Detections


def batch_of(boxes: list[list[float]], labels: list[int], **more: Any) -> dict[str, Any]:
    target = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels), **more}
    return {"targets": [target], "original_sizes": [(100, 100)], "scale_factors": [(1.0, 1.0)]}


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> list[Detections]:
    shaped = torch.tensor(boxes).reshape(-1, 4)
    return [Detections(shaped, torch.tensor(scores), torch.tensor(labels, dtype=torch.long))]


BOXES = [[10.0, 10, 40, 40], [50.0, 50, 90, 95]]


def test_perfect_detections_score_one() -> None:
    metric = CocoMetric()
    metric.update(batch_of(BOXES, [0, 1]), found(BOXES, [0.9, 0.8], [0, 1]))
    scores = metric.compute()
    assert [scores["AP"], scores["AP50"]] == pytest.approx([1.0, 1.0])
    assert scores["AP_large"] == -1  # no such object


def test_wrong_classes_and_no_detections_score_zero() -> None:
    metric = CocoMetric()
    metric.update(batch_of(BOXES, [0, 1]), found(BOXES, [0.9, 0.8], [1, 0]))
    assert metric.compute()["AP50"] == 0
    metric.reset()
    metric.update(batch_of(BOXES, [0, 1]), found([], [], []))
    nothing = metric.compute()
    assert nothing.pop("AP_large") == -1  # no such object
    assert set(nothing.values()) == {0.0}


def test_boxes_of_resized_images_are_mapped_back() -> None:
    metric = CocoMetric()
    resized = [[2 * left, 3 * top, 2 * right, 3 * bottom] for left, top, right, bottom in BOXES]
    batch = {**batch_of(resized, [0, 1]), "scale_factors": [(2.0, 3.0)]}
    metric.update(batch, found(BOXES, [0.9, 0.8], [0, 1]))
    assert metric.compute()["AP"] == pytest.approx(1.0)


def test_detections_in_crowds_are_ignored() -> None:
    crowd = torch.tensor([False, True])
    metric = CocoMetric()
    boxes = [*BOXES, [55.0, 55, 80, 80]]
    metric.update(batch_of(BOXES, [0, 0], crowd=crowd), found(boxes, [0.5, 0.9, 0.8], [0, 0, 0]))
    assert metric.compute()["AP50"] == pytest.approx(1.0)


def test_no_images_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one image"):
        CocoMetric().compute()


def test_random_detections_score_as_in_pycocotools(tmp_path: Path) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    generator = torch.Generator().manual_seed(0)
    metric, truth, results = CocoMetric(), [], []
    for image in range(1, 21):
        corners = torch.rand(5, 2, generator=generator) * 60
        boxes = torch.cat((corners, corners + 5 + 35 * torch.rand(5, 2, generator=generator)), 1)
        labels = torch.randint(3, (5,), generator=generator)
        moved = boxes + torch.randn(5, 4, generator=generator) * 2
        scores = torch.rand(5, generator=generator)
        metric.update(
            batch_of(boxes.tolist(), labels.tolist()),
            found(moved.tolist(), scores.tolist(), labels.tolist()),
        )
        for box, near, score, label in zip(boxes, moved, scores, labels, strict=True):
            size, near_size = box[2:] - box[:2], near[2:] - near[:2]
            common = {"image_id": image, "category_id": int(label)}
            bbox = [*box[:2].tolist(), *size.tolist()]
            area = float(size.prod())
            number = len(truth) + 1
            truth.append({"id": number, **common, "bbox": bbox, "area": area, "iscrowd": 0})
            near_box = [*near[:2].tolist(), *near_size.tolist()]
            results.append({**common, "bbox": near_box, "score": float(score)})
    content = {
        "images": [{"id": i, "width": 100, "height": 100} for i in range(1, 21)],
        "annotations": truth,
        "categories": [{"id": i} for i in range(3)],
    }
    (tmp_path / "truth.json").write_text(json.dumps(content))
    (tmp_path / "results.json").write_text(json.dumps(results))
    annotated = COCO(tmp_path / "truth.json")
    peer = COCOeval(annotated, annotated.loadRes(str(tmp_path / "results.json")), "bbox")
    peer.evaluate()
    peer.accumulate()
    peer.summarize()
    assert list(metric.compute().values()) == pytest.approx(peer.stats[:6].tolist(), abs=1e-9)
