"""Pascal VOC: files, difficult objects, and figures equal to MMDetection's."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.errors import BuildError, CupolaError, DataError
from cupola.metrics.average_precision import ClassInImage, average_precision
from cupola.registry import DATASETS, METRICS
from cupola.structures import Detections
from metrics.mean_ap_cases import case

# Of eval_map in mmdet 3.3.0 (mmdet/evaluation/functional/mean_ap.py), for the cases by seed.
FIGURES = json.loads((Path(__file__).parent / "mean_ap.json").read_text())
MODES = {"voc07": (True, 1.0), "voc12": (False, 1.0), "openimages": (False, 0.0)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(12))
def test_figures_equal_the_originals(seed: int, mode: str) -> None:
    grouped = mode == "openimages"
    values = []
    for label in range(3):
        images = []
        for image in case(seed):
            own = (image["labels"] == label) & ~(grouped & image["ignored"])
            found = image["found_labels"] == label
            groups = image["groups"][own] if grouped else np.zeros(own.sum(), bool)
            images.append(
                ClassInImage(
                    image["found_boxes"][found],
                    image["found_scores"][found],
                    image["boxes"][own],
                    image["ignored"][own],
                    groups,
                )
            )
        value, count = average_precision(images, 0.5, *MODES[mode])
        if count:
            values.append(value)
    assert np.mean(values) == pytest.approx(FIGURES[seed][mode], abs=1e-6)


def xml(objects: str, size: str = "<size><width>40</width><height>30</height></size>") -> str:
    return f"<annotation><folder>x</folder>{size}{objects}</annotation>"


def thing(name: str, box: tuple[int, int, int, int], more: str = "") -> str:
    sides = "".join(
        f"<{key}>{value}</{key}>"
        for key, value in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    )
    return f"<object><name>{name}</name><bndbox>{sides}</bndbox>{more}</object>"


HARD = "<difficult>1</difficult>"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """VOC2007 with three images: a cat and a difficult dog; a cat; nothing of the 20 classes."""
    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "VOC2007" / part).mkdir(parents=True)
    first = thing("cat", (1, 1, 11, 16), "<difficult>0</difficult>") + thing(
        "dog", (20, 5, 35, 25), HARD
    )
    contents = [
        xml(first),
        xml(thing("cat", (5, 5, 30, 29)), ""),
        xml(thing("unicorn", (1, 1, 9, 9))),
    ]
    for number, content in enumerate(contents):
        Image.new("RGB", (40, 30)).save(tmp_path / f"VOC2007/JPEGImages/{number}.jpg")
        (tmp_path / f"VOC2007/Annotations/{number}.xml").write_text(content)
    (tmp_path / "VOC2007/ImageSets/Main/train.txt").write_text("0\n1\n2\n")
    return tmp_path


def config(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "VOCDataset", "data_root": str(folder),
        "data_prefix": {"sub_data_root": "VOC2007/"},
        "ann_file": "VOC2007/ImageSets/Main/train.txt", **more,
    }  # fmt: skip


def test_boxes_count_from_one_and_difficult_objects_do_not_train(folder: Path) -> None:
    data = DATASETS.build(config(folder))
    assert len(data) == 3 and len(data.names) == 20
    assert data[0]["boxes"].tolist() == [[0, 0, 10, 15]]
    assert [data.names[label] for label in data[0]["labels"]] == ["cat"]
    assert data.size(1) == (40, 30)  # its XML does not say
    tested = DATASETS.build(config(folder, test_mode=True))[0]
    assert tested["crowd"].tolist() == [False, True]
    assert tested["annotations"][1] == {
        "category_id": 11, "bbox": [19, 4, 15, 20], "area": 300, "iscrowd": 1
    }  # fmt: skip
    rules = {"filter_empty_gt": True, "min_size": 30, "bbox_min_size": 16}
    strict = DATASETS.build(config(folder, filter_cfg=rules))
    assert [each.id for each in strict.images] == ["0", "1"]
    assert strict[0]["boxes"].tolist() == [] and len(strict[1]["boxes"]) == 1
    dogs = DATASETS.build(config(folder, metainfo={"classes": ("dog",)}, test_mode=True))
    assert dogs[0]["labels"].tolist() == [0]


def test_the_metric_leaves_difficult_objects_out(folder: Path) -> None:
    data = DATASETS.build(config(folder, test_mode=True))
    metric = METRICS.build({"type": "VOCMetric", "metric": "mAP", "eval_mode": "11points"})
    batch = data.collate([data[0], data[1]])
    cat, dog = data.names.index("cat"), data.names.index("dog")
    nothing = torch.zeros(0)
    metric.update(batch, [
        Detections(torch.tensor([[0.0, 0, 10, 15], [19, 4, 34, 24]]), torch.tensor([0.9, 0.8]),
                   torch.tensor([cat, dog])),
        Detections(nothing.view(0, 4), nothing, nothing.long()),
    ])  # fmt: skip
    # one of two cats: precision 1 at the recalls 0 to 0.5; dogs do not count at all
    assert metric.compute() == {"mAP": pytest.approx(6 / 11), "AP50": pytest.approx(6 / 11)}
    area = METRICS.build({"type": "VOCMetric", "iou_thrs": [0.5, 0.75], "eval_mode": "area"})
    area.update(batch, [Detections(torch.tensor([[0.0, 0, 10, 12]]), torch.ones(1),
                                   torch.tensor([cat])),
                        Detections(nothing.view(0, 4), nothing, nothing.long())])  # fmt: skip
    # 11 x 13 of 11 x 16 pixels
    assert area.compute() == {"mAP": 0.5, "AP50": 0.5, "AP75": 0.5}
    assert area.published_names["pascal_voc/AP75"] == "AP75"
    with pytest.raises(BuildError, match="use 11points or area"):
        METRICS.build({"type": "VOCMetric", "eval_mode": "10points"})
    with pytest.raises(BuildError, match="only metric='mAP'"):
        METRICS.build({"type": "VOCMetric", "metric": "recall"})
    metric.reset()
    with pytest.raises(DataError, match="needs at least one image"):
        metric.compute()


def test_faces_are_in_the_folder_that_the_xml_names(tmp_path: Path) -> None:
    (tmp_path / "WIDER/Annotations").mkdir(parents=True)
    (tmp_path / "WIDER/x").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "WIDER/x/a.jpg")
    (tmp_path / "WIDER/Annotations/a.xml").write_text(xml(thing("face", (1, 2, 9, 12))))
    (tmp_path / "train.txt").write_text("a\n")
    cfg = {"type": "WIDERFaceDataset", "data_root": str(tmp_path), "ann_file": "train.txt",
           "data_prefix": {"img": "WIDER"}}  # fmt: skip
    assert DATASETS.build(cfg)[0]["boxes"].tolist() == [[1, 2, 9, 12]]


BOMB = '<!DOCTYPE a [<!ENTITY b "bbbb"><!ENTITY c "&b;&b;&b;">]><annotation>&c;</annotation>'
OUTSIDE = '<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><annotation>&b;</annotation>'


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (BOMB, "has a document type declaration"),
        (OUTSIDE, "has a document type declaration"),
        ("<a>" * 200, "more than 100 elements inside each other"),
        ("not xml", "not XML"),
        ("<annotation>", "not XML"),
        ("", "not XML"),
        (xml(thing("cat", ("x", 1, 2, 3))), "bndbox: xmin is 'x'; expected a number"),
        (xml(thing("cat", ("nan", 1, 2, 3))), "xmin is 'nan'"),
        (xml("<object><name>cat</name></object>"), "an object has no bndbox"),
        (xml("<object></object>"), "object has no name"),
        (xml(thing("cat", (1, 1, 2, 3), "<difficult>x</difficult>")), "difficult is 'x'"),
        (xml("", "<size><width>9</width></size>"), "size has no height"),
    ],
)
def test_errors_of_xml(folder: Path, content: str, words: str) -> None:
    (folder / "VOC2007/Annotations/1.xml").write_text(content)
    with pytest.raises(DataError, match=words) as caught:
        DATASETS.build(config(folder))
    assert "1.xml" in str(caught.value) and "\n" not in str(caught.value)


def test_errors_of_a_list(folder: Path) -> None:
    path = folder / "VOC2007/ImageSets/Main/train.txt"
    path.write_text("../../outside\n")
    with pytest.raises(DataError, match="leads out of"):
        DATASETS.build(config(folder))
    path.write_text("\n")
    with pytest.raises(DataError, match="no image is left"):
        DATASETS.build(config(folder))
    with pytest.raises(CupolaError, match=r"missing\.txt"):
        DATASETS.build(config(folder, ann_file="missing.txt"))
    masks = [{"type": "LoadAnnotations", "with_mask": True}]
    with pytest.raises(DataError, match="VOCDataset: has boxes only"):
        DATASETS.build(config(folder, pipeline=masks))
