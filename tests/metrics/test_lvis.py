"""LVIS: files of both versions, and figures equal to lvis-api's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.errors import DataError
from cupola.registry import DATASETS, METRICS
from cupola.structures import Detections
from cupola.train.evaluation import build_metric
from metrics.lvis_official import CASES, FIGURES, case

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf")


def written(folder: Path, content: dict[str, Any]) -> dict[str, Any]:
    """The file and its images; the config of the dataset."""
    (folder / "lvis.json").write_text(json.dumps(content))
    for image in content["images"]:
        path = folder / image["coco_url"].removeprefix("http://images.cocodataset.org/")
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (image["width"], image["height"])).save(path, quality=5)
    return {
        "type": "LVISV1Dataset", "data_root": str(folder), "ann_file": "lvis.json",
        "data_prefix": {"img": ""}, "test_mode": True,
        "pipeline": [{"type": "LoadAnnotations", "with_mask": True}],
    }  # fmt: skip


def predicted(found: list[dict[str, Any]], image_id: int, masks: bool) -> Detections:
    own = [each for each in found if each["image_id"] == image_id]
    boxes = np.array([each["bbox"] for each in own], float).reshape(-1, 4)
    drawn = torch.zeros(len(own), 240, 300, dtype=torch.bool)
    for mask, (left, top, width, height) in zip(drawn, boxes.astype(int), strict=True):
        mask[top : top + height, left : left + width] = True
    boxes[:, 2:] += boxes[:, :2]
    return Detections(
        torch.from_numpy(boxes),
        torch.tensor([each["score"] for each in own], dtype=torch.float64),
        torch.tensor([each["category_id"] - 1 for each in own], dtype=torch.long),
        masks=drawn if masks else None,
    )


@pytest.mark.parametrize("seed", CASES)
def test_figures_equal_those_of_lvis_api(tmp_path: Path, seed: int) -> None:
    content, found = case(seed)
    data = DATASETS.build(written(tmp_path, content))
    metric = METRICS.build({"type": "LVISMetric", "metric": ["bbox", "segm"], "classwise": True})
    metric.use(data)
    for index in [*range(1, len(data)), 0]:
        batch = data.collate([data[index]])
        metric.update(batch, [predicted(found, data.images[index]["id"], masks=True)])
    values = metric.compute()
    official = json.loads(FIGURES.read_text())[seed]
    assert {name: values[name] for name in NAMES} == pytest.approx(official["bbox"], abs=1e-12)
    masks = {name: values[f"mask_{name}"] for name in NAMES}
    assert masks == pytest.approx(official["segm"], abs=1e-12)
    rare = {f"AP/{n}" for n, f in zip(data.names, data.frequencies, strict=True) if f == "r"}
    known = [values[name] for name in rare if values[name] > -1]  # means of as many numbers each
    assert (np.mean(known) if known else -1) == pytest.approx(values["APr"], abs=1e-12)


def test_files_of_both_versions(tmp_path: Path) -> None:
    content, _ = case(0)
    cfg = written(tmp_path, content)
    data = DATASETS.build(cfg)
    frequencies = [each["frequency"] for each in content["categories"]]
    assert data.frequencies == frequencies
    assert data.path(0) == tmp_path / "val2017/0.jpg"
    assert data.federated(0)["negative"] == [
        n - 1 for n in content["images"][0]["neg_category_ids"]
    ]
    some = DATASETS.build({**cfg, "metainfo": {"classes": ("c2", "c0")}})
    assert some.frequencies == [frequencies[2], frequencies[0]]
    assert set(some.federated(1)["negative"]) <= {0, 1}
    balanced = {"type": "ClassBalancedDataset", "oversample_thr": 1e-3,
                "dataset": {**cfg, "test_mode": False}}  # fmt: skip
    assert len(DATASETS.build(balanced)) == len(data)
    for image in content["images"]:
        image["file_name"] = f"COCO_val2014_{image['id']:012d}.jpg"
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    old = DATASETS.build({**cfg, "type": "LVISV05Dataset"})
    assert old.path(0).name == f"{content['images'][0]['id']:012d}.jpg"


def test_boxes_alone_and_the_published_names(tmp_path: Path) -> None:
    content, found = case(1)
    data = DATASETS.build(written(tmp_path, content))
    metric = build_metric({"type": "LVISMetric", "ann_file": "x.json", "metric": "bbox"})
    metric.use(type("Wrapper", (), {"dataset": data})())
    metric.update(data.collate([data[0]]), [predicted(found, data.images[0]["id"], False)])
    assert set(metric.compute()) == set(NAMES)
    assert metric.published_names["lvis/segm_APr"] == "mask_APr"
    metric.reset()
    with pytest.raises(DataError, match="needs at least one image"):
        metric.compute()
    with pytest.raises(DataError, match="needs an LVISV05Dataset or LVISV1Dataset"):
        metric.use(object())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["categories"][1].pop("frequency"), "category 2: frequency is None"),
        (lambda c: c["images"][0].pop("neg_category_ids"), "image 3: neg_category_ids is None"),
        (lambda c: c["images"][0].update(not_exhaustive_category_ids=["a"]), r"is \['a'\]"),
        (lambda c: c["images"][0].update(coco_url=5), "file_name is null"),
        (lambda c: c["images"][0].update(coco_url="../../x.jpg"), "leads out of"),
    ],
)
def test_errors_of_files(tmp_path: Path, change: Any, words: str) -> None:
    content, _ = case(0)
    cfg = written(tmp_path, content)
    change(content)
    (tmp_path / "lvis.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        DATASETS.build(cfg)[0]
