"""CocoMetric on generated COCO folders, against pycocotools on the same files."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from cupola.data.coco import CocoDataset
from cupola.errors import BuildError
from cupola.metrics.coco import COCO_NAMES, CocoMetric
from cupola.structures import Detections
from cupola.structures.masks import decode_rle
from cupola.train.evaluation import build_metric, evaluate
from cupola.train.loading import evaluation_loader, in_test_mode

SIDE = 60
CATEGORIES = (9, 4, 30)
CLASSES = (4, 9, 30)  # in the order of their labels
Table = list[dict[str, Any]]


def rectangle(box: list[float], kind: int) -> Any:
    """The segmentation of an object: a polygon (0), an RLE of lengths (1), a compressed one (2)."""
    left, top, right, bottom = box[0], box[1], box[0] + box[2], box[1] + box[3]
    polygon = [left, top, right, top, right, bottom, left, bottom]
    if kind == 0:
        return [polygon]
    mask = np.zeros((SIDE, SIDE), np.uint8, order="F")
    mask[max(0, int(top)) : int(bottom), max(0, int(left)) : int(right)] = 1
    if kind == 1:
        runs = np.diff(np.flatnonzero(np.diff(mask.ravel("F"), prepend=2, append=2)))
        starts_with_one = int(mask[0, 0]) == 1
        return {"size": [SIDE, SIDE], "counts": [0] * starts_with_one + runs.tolist()}
    packed = coco_mask.encode(mask)
    return {"size": packed["size"], "counts": packed["counts"].decode()}


def table(seed: int, folder: Path) -> tuple[Path, Table]:
    """A COCO folder with crowds, empty images, odd areas and strays; and results for it."""
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(0, 24, 2)).tolist()  # ids in no order, with gaps
    (folder / "images").mkdir()
    images, annotations, results = [], [], []
    for number in numbers:
        Image.new("L", (SIDE, SIDE)).save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "width": SIDE, "height": SIDE})
    for number in [*numbers[3:], 999]:
        for _ in range(rng.integers(1, 6)):
            box = np.round([*rng.uniform(-8, 45, 2), *rng.uniform(4, 30, 2)], 1).tolist()
            entry = {
                "id": len(annotations) + 1,
                "image_id": number,
                "category_id": int(rng.choice(CATEGORIES)),
                "bbox": box,
                "area": round(float(10 ** rng.uniform(1, 5)), 2),
                "iscrowd": int(rng.random() < 0.2),
                "ignore": int(rng.random() < 0.2),
                "segmentation": rectangle(box, int(rng.integers(3))),
            }
            annotations.append(entry)
            if number == 999:
                continue
            for _ in range(rng.integers(3)):
                near = (np.array(box) + rng.normal(0, 1, 4)).round(1).clip([-9, -9, 1, 1])
                wrong = rng.random() < 0.1
                result = {
                    "image_id": number,
                    "category_id": CATEGORIES[0] if wrong else entry["category_id"],
                    "bbox": near.tolist(),
                    "score": round(float(rng.random()), 1),  # many are equal
                    "segmentation": rectangle(near.tolist(), 2),
                }
                results.append(result)
    annotations[0]["bbox"][2] = 0.0  # a box without an area is an object that nobody finds
    names = [{"id": each, "name": f"class {each}"} for each in CATEGORIES]
    content = {"images": images, "annotations": annotations, "categories": names}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder, results


def peer(folder: Path, results: Table, kind: str) -> list[float]:
    truth = COCO(folder / "instances.json")
    found = COCO()
    if results:
        found = truth.loadRes(results)
    else:
        found.dataset = {**truth.dataset, "annotations": []}
        found.createIndex()
    evaluation = COCOeval(truth, found, kind)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [float(value) for value in evaluation.stats[:6]]


class Replay:
    """A model that predicts the results of a table."""

    training = False

    def __init__(self, results: Table, masks: bool) -> None:
        self.results, self.masks = results, masks

    def eval(self) -> None:
        pass

    def train(self, _: bool) -> None:
        pass

    def predict(self, batch: dict[str, Any]) -> list[Detections]:
        return [self._of(number) for number in batch["image_ids"]]

    def _of(self, number: int) -> Detections:
        own = [each for each in self.results if each["image_id"] == number]
        boxes = torch.tensor([each["bbox"] for each in own], dtype=torch.float64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = [sorted(CATEGORIES).index(each["category_id"]) for each in own]
        size = {"height": SIDE, "width": SIDE}
        image = COCO()
        image.imgs = {number: size}
        masks = [torch.tensor(decode_rle(image.annToRLE(each))) for each in own if self.masks]
        shaped = torch.stack(masks) if masks else torch.zeros(0, SIDE, SIDE, dtype=torch.bool)
        return Detections(
            boxes,
            torch.tensor([each["score"] for each in own], dtype=torch.float64),
            torch.tensor(labels, dtype=torch.long),
            masks=shaped if self.masks else None,
        )


def scores(folder: Path, results: Table, masks: bool, **settings: Any) -> dict[str, float]:
    cfg = {"type": "CocoDataset", "data_root": str(folder), "with_mask": masks}
    loader = evaluation_loader({"dataset": cfg, "batch_size": 5})
    return evaluate(Replay(results, masks), loader, CocoMetric(**settings), torch.device("cpu"))


@pytest.mark.parametrize("masks", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_scores_of_a_table_are_those_of_pycocotools(
    seed: int, masks: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, results = table(seed, tmp_path)
    with caplog.at_level(logging.WARNING, "cupola"):
        found = scores(folder, results, masks)
    assert "annotations of images not in it, annotation " in caplog.text
    boxes = [{k: v for k, v in each.items() if k != "segmentation"} for each in results]
    expected = peer(folder, boxes, "bbox")
    if masks:
        expected += peer(folder, without_boxes(results), "segm")
    assert list(found.values()) == pytest.approx(expected, abs=1e-9)
    assert 0 < found["AP_small"] < 1 and 0 < found["AP_large"] < 1


def without_boxes(results: Table) -> Table:
    return [{k: v for k, v in each.items() if k != "bbox"} for each in results]


def test_no_predictions(tmp_path: Path) -> None:
    folder, _ = table(0, tmp_path)
    content = json.loads((folder / "instances.json").read_text())
    for entry in content["annotations"]:
        entry["area"] = 100.0
    (folder / "instances.json").write_text(json.dumps(content))
    found = scores(folder, [], masks=False)
    assert list(found.values()) == peer(folder, [], "bbox") == [0, 0, 0, 0, -1, -1]


def test_a_file_without_areas_is_measured_by_its_boxes(tmp_path: Path) -> None:
    folder, results = table(1, tmp_path)
    content = json.loads((folder / "instances.json").read_text())
    for entry in content["annotations"]:
        entry["area"] = entry["bbox"][2] * entry["bbox"][3]
    (folder / "instances.json").write_text(json.dumps(content))
    expected = peer(folder, results, "bbox")
    for entry in content["annotations"]:
        del entry["area"]
    (folder / "instances.json").write_text(json.dumps(content))
    assert list(scores(folder, results, False).values()) == pytest.approx(expected, abs=1e-9)


def test_evaluation_keeps_crowds_and_empty_images_whatever_the_config_says(tmp_path: Path) -> None:
    folder, _ = table(2, tmp_path)
    cfg = {"type": "CocoDataset", "data_root": str(folder)}
    assert in_test_mode([{"dataset": cfg}])[0]["dataset"]["test_mode"]
    assert not in_test_mode({**cfg, "test_mode": False})["test_mode"]
    dataset = CocoDataset(str(folder), test_mode=True, filter_cfg={"filter_empty_gt": True})
    assert len(dataset) == 12
    assert any(entry["iscrowd"] for i in range(12) for entry in dataset.ground_truth(i))
    assert tuple(CocoMetric().published_names.values())[:6] == COCO_NAMES


def table_of(folder: Path, results: Table, **params: Any) -> Any:
    """pycocotools' tables of boxes."""
    truth = COCO(folder / "instances.json")
    evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
    for name, value in params.items():
        setattr(evaluation.params, name, value)
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval


def mean(values: Any) -> Any:
    return pytest.approx(values[values > -1].mean(), abs=1e-9)


def test_values_that_a_config_chooses(tmp_path: Path) -> None:
    """AP is of 100 detections an image where that number counts, the others of the most."""
    folder, results = table(1, tmp_path)
    boxes = [{k: v for k, v in each.items() if k != "segmentation"} for each in results]
    boxes += 120 * [{**boxes[0], "bbox": [0.0, 0.0, 1.0, 1.0], "score": 1.0}]  # before the right
    counts = [5, 100, 200]
    both = table_of(folder, boxes, maxDets=counts)
    items = ["mAP", "mAP_50", "mAP_s", "AR@100", "AR@300", "AR_l@1000"]
    options = {"metric": "bbox", "proposal_nums": (100, 200, 5), "metric_items": items}
    found = scores(folder, boxes, False, classwise=True, **options)
    precision, recall = both["precision"], both["recall"]
    classes = {f"AP/class {n}": mean(precision[:, :, k, 0, 2]) for k, n in enumerate(CLASSES)}
    assert found == {
        "AP": mean(precision[..., 0, 1]),
        "AP50": mean(precision[0, ..., 0, 2]),
        "AP_small": mean(precision[..., 1, 2]),
        "AR@5": mean(recall[..., 0, 0]),
        "AR@100": mean(recall[..., 0, 1]),
        "AR_large@200": mean(recall[..., 3, 2]),
        **classes,
    }
    assert found["AP"] != mean(precision[..., 0, 2])
    names = CocoMetric(**options).published_names
    assert names["coco/bbox_AR@300"] == "AR@100" and names["bbox_mAP_s"] == "AP_small"
    only = scores(folder, boxes, False, iou_thrs=[0.3, 0.75], max_detections=30)
    rows = table_of(folder, boxes, maxDets=[1, 10, 30], iouThrs=np.array([0.3, 0.75]))["precision"]
    assert only["AP"] == mean(rows[..., 0, 2]) and only["AP75"] == mean(rows[1, ..., 0, 2])
    assert only["AP50"] == -1


def test_masks_are_loaded_for_an_evaluator_that_measures_them(tmp_path: Path) -> None:
    """RTMDet-Ins, BoxInst and others do not load them in their pipelines for testing."""
    folder, results = table(3, tmp_path)
    steps = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    inner = {"type": "CocoDataset", "data_root": str(folder), "pipeline": steps}
    cfg = {"dataset": {"type": "RepeatDataset", "times": 1, "dataset": inner}, "batch_size": 5}
    evaluator = {"type": "CocoMetric", "metric": ["bbox", "segm"]}
    loader = evaluation_loader(cfg, evaluator=[evaluator])
    metric = build_metric(evaluator)
    found = evaluate(Replay(results, True), loader, metric, torch.device("cpu"))
    assert found == scores(folder, results, True)
    for boxes_only in ({"metric": "bbox"}, None):
        assert not evaluation_loader(cfg, evaluator=boxes_only).dataset.dataset.with_mask


def test_proposals_are_of_any_class(tmp_path: Path) -> None:
    folder, results = table(2, tmp_path)
    boxes = [{k: v for k, v in each.items() if k != "segmentation"} for each in results]
    found = scores(folder, boxes, False, metric="proposal", proposal_nums=(1, 2, 100))
    recall = table_of(folder, boxes, maxDets=[1, 2, 100], useCats=0)["recall"]
    sizes = {f"AR_{name}@100": mean(recall[..., k + 1, 2])
             for k, name in enumerate(("small", "medium", "large"))}  # fmt: skip
    numbers = {f"AR@{n}": mean(recall[..., 0, k]) for k, n in enumerate((1, 2, 100))}
    assert found == {**numbers, **sizes}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"metric_items": ["mAP50"]}, "metric_items has 'mAP50'; did you mean 'mAP_50'"),
        ({"metric": ["bbox", "proposal"]}, "proposal is measured alone"),
        ({"format_only": True}, "format_only is not available"),
        ({"proposal_nums": (0,)}, "proposal_nums is"),
        ({"metric": "bboxes"}, "metric 'bboxes'; did you mean 'bbox'"),
    ],
)
def test_settings_of_a_metric_that_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BuildError, match=words):
        CocoMetric(**settings)
