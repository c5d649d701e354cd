"""Cityscapes' AP against its rules written out instance by instance, and the published config."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.cli.evaluate import evaluate_as_trained
from cupola.errors import BuildError, DataError
from cupola.metrics.cityscapes import IDS, VOID, CityScapesMetric
from cupola.structures import Detections

Pixels = np.ndarray[Any, Any]
NAMES = tuple(IDS)
HEIGHT, WIDTH = 48, 64


def case(seed: int) -> tuple[Pixels, Pixels, Pixels, Pixels]:
    """A map of ids, masks [D, H, W], scores and labels."""
    rng = np.random.default_rng(seed)
    ids = np.full((HEIGHT, WIDTH), 7, np.int32)
    ids[:6] = rng.choice(VOID)
    masks, scores, labels = [], [], []
    for number in range(9):
        label = int(rng.integers(2, 4))  # a car or a truck
        top, left = rng.integers(0, 36), rng.integers(0, 50)
        part = np.s_[top : top + rng.integers(6, 16), left : left + rng.integers(6, 22)]
        is_group = rng.random() < 0.2
        ids[part] = IDS[NAMES[label]] * (1 if is_group else 1000) + (0 if is_group else number)
        for _ in range(rng.integers(0, 3)):
            mask = np.zeros((HEIGHT, WIDTH), bool)
            mask[part] = True
            masks.append(np.roll(mask, rng.integers(-3, 4, 2), (0, 1)))
            scores.append(rng.integers(1, 10) / 10)
            labels.append(label if rng.random() < 0.8 else 2)
    masks.append(np.zeros((HEIGHT, WIDTH), bool))  # an empty mask is left out
    return ids, np.array(masks), np.array([*scores, 0.9]), np.array([*labels, 2])


def expected(cases: list[Any], label: int, threshold: float) -> float | None:
    """The average precision of one class; None without instances."""
    truth, scores, missed, some = [], [], 0, False
    for ids, masks, image_scores, labels in cases:
        number = IDS[NAMES[label]]
        true = [(n, ids == n) for n in np.unique(ids) if number in (n, n // 1000)]
        found = [(m, s) for m, s, c in zip(masks, image_scores, labels, strict=True)
                 if c == label and m.any()]  # fmt: skip
        iou = [[(m & t).sum() / (m | t).sum() for _, t in true] for m, _ in found]
        full = [j for j, (n, t) in enumerate(true) if n >= 1000 and t.sum() >= 100]
        some |= bool(full)
        taken: set[int] = set()
        for j in full:
            rows = [i for i in range(len(found)) if i not in taken and iou[i][j] > threshold]
            taken |= set(rows)
            missed += not rows
            ranked = sorted((found[i][1] for i in rows), reverse=True)
            truth += [1.0, *[0.0] * (len(ranked) - 1)][: len(ranked)]
            scores += ranked
        for i, (mask, score) in enumerate(found):
            if any(value > threshold for value in iou[i]):
                continue
            excused = (mask & np.isin(ids, VOID)).sum()
            for n, t in true:
                excused += (mask & t).sum() * (int(n < 1000) + int(t.sum() < 100))
            if excused / mask.sum() <= threshold:
                truth.append(0.0)
                scores.append(score)
    if not some:
        return None
    levels = sorted(set(scores))
    points = []
    for level in levels:
        over = [t for t, s in zip(truth, scores, strict=True) if s >= level]
        points.append((sum(over) / (sum(truth) + missed), sum(over) / len(over)))
    points.append((0.0, 1.0))
    recalls = [points[0][0], *(r for r, _ in points), 0.0]
    return float(sum(p * (recalls[k] - recalls[k + 2]) / 2 for k, (_, p) in enumerate(points)))


def measured(cases: list[Any], folder: Path) -> dict[str, float]:
    metric = CityScapesMetric(seg_prefix=str(folder))
    for number, (ids, masks, scores, labels) in enumerate(cases):
        write_map(folder, ids, f"ulm/{number}")
        found = Detections(torch.zeros(len(scores), 4), torch.from_numpy(scores),
                           torch.from_numpy(labels), masks=torch.from_numpy(masks))  # fmt: skip
        metric.update({"file_name": [f"ulm/{number}_leftImg8bit.png"]}, [found])
    return metric.compute()


def write_map(folder: Path, ids: Pixels, name: str) -> None:
    path = folder / f"{name}_gtFine_instanceIds.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(ids.astype(np.uint16)).save(path)


@pytest.mark.parametrize("seed", range(3))
def test_precision_of_masks(seed: int, tmp_path: Path) -> None:
    cases = [case(10 * seed + number) for number in range(4)]
    found = measured(cases, tmp_path)
    rows = [[expected(cases, label, t) for t in np.arange(0.5, 1, 0.05)] for label in (2, 3)]
    known = [row for row in rows if row[0] is not None]
    assert (
        found["cityscapes_AP"] == pytest.approx(np.mean(known)) and 0 < found["cityscapes_AP"] < 1
    )
    assert found["cityscapes_AP50"] == pytest.approx(np.mean([row[0] for row in known]))


class Finder:
    """Finds the truth of the one image of `test_the_published_evaluators`."""

    task, name, labels, masks = "detection", "finder", NAMES, True

    def sample_at(self, image: Any, index: int, path: Any) -> Any:
        return image

    def bucket(self, sample: Any) -> Any:
        return None

    def run(self, samples: list[Any]) -> list[Detections]:
        mask = torch.zeros(1, HEIGHT, WIDTH, dtype=torch.bool)
        mask[0, 4:34, 10:40] = True
        box = torch.tensor([[10.0, 4, 40, 34]])
        return [Detections(box, torch.ones(1), torch.tensor([2]), masks=mask) for _ in samples]


def test_the_published_evaluators(tmp_path: Path) -> None:
    """configs/cityscapes/mask-rcnn_r50_fpn_1x_cityscapes.py: COCO's AP and Cityscapes'."""
    picture = tmp_path / "leftImg8bit/val/ulm/a_leftImg8bit.png"
    picture.parent.mkdir(parents=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(picture)
    ids = np.full((HEIGHT, WIDTH), 7)
    ids[4:34, 10:40] = 26_000
    write_map(tmp_path / "gtFine/val", ids, "ulm/a")
    corners = [10, 4, 40, 4, 40, 34, 10, 34]
    entry = {"id": 1, "image_id": 1, "category_id": 26, "bbox": [10, 4, 30, 30], "area": 900,
             "iscrowd": 0, "segmentation": [corners]}  # fmt: skip
    image = {"id": 1, "file_name": "ulm/a_leftImg8bit.png", "width": WIDTH, "height": HEIGHT}
    categories = [{"id": number, "name": name} for name, number in IDS.items()]
    content = {"images": [image], "annotations": [entry], "categories": categories}
    (tmp_path / "val.json").write_text(json.dumps(content))
    pipeline = [{"type": "LoadImageFromFile"},
                {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}]  # fmt: skip
    dataset = {"type": "CityscapesDataset", "data_root": str(tmp_path), "ann_file": "val.json",
               "data_prefix": {"img": "leftImg8bit/val/"}, "pipeline": pipeline}  # fmt: skip
    evaluators = [
        {"type": "CocoMetric", "metric": ["bbox", "segm"]},
        {"type": "CityScapesMetric", "seg_prefix": str(tmp_path / "gtFine/val"),
         "outfile_prefix": "./work_dirs/cityscapes_metric/instance"},
    ]  # fmt: skip
    cfg = {"model": {}, "test_dataloader": {"dataset": dataset}, "test_evaluator": evaluators}
    found = evaluate_as_trained(Finder(), cfg)
    for name in ("AP", "mask_AP", "cityscapes_AP", "cityscapes_AP50"):
        assert found[name] == pytest.approx(1)


def test_what_is_refused(tmp_path: Path) -> None:
    metric = CityScapesMetric(seg_prefix=str(tmp_path))
    one = Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0).long())
    with pytest.raises(DataError, match="needs a CityscapesDataset with test_mode=True"):
        metric.update({}, [one])
    with pytest.raises(DataError, match="needs a model with masks"):
        metric.update({"file_name": ["a.png"]}, [one])
    with pytest.raises(DataError, match=r"b_gtFine_instanceIds.png"):
        masked = Detections(one.boxes, one.scores, one.labels, masks=torch.zeros(0, 4, 4).bool())
        metric.update({"file_name": ["b_leftImg8bit.png"]}, [masked])
    with pytest.raises(DataError, match="at least one image"):
        metric.compute()
    with pytest.raises(DataError, match="dog: not a class of Cityscapes with instances; they are"):
        metric.use(type("Data", (), {"names": ("car", "dog")}))
    with pytest.raises(BuildError, match="format_only is not available"):
        CityScapesMetric(format_only=True)
    Image.new("RGB", (4, 4)).save(tmp_path / "c_gtFine_instanceIds.png")
    with pytest.raises(DataError, match="has the mode RGB; a map of ids is gray"):
        metric.update({"file_name": ["c_leftImg8bit.png"]}, [masked])
