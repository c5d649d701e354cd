"""Open Images: its files, groups, and the hierarchy of classes in the metric."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.errors import BuildError, DataError
from cupola.registry import DATASETS, METRICS
from cupola.structures import Detections

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,"
    "IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside"
)
# animal above cat and dog
CLASSES = "/m/animal,Animal\n/m/cat,Cat\n/m/dog,Dog\n/m/car,Car\n"
HIERARCHY = {
    "LabelName": "/m/entity",
    "Subcategory": [
        {"LabelName": "/m/animal",
         "Subcategory": [{"LabelName": "/m/cat"}, {"LabelName": "/m/dog"}]},
        {"LabelName": "/m/car"},
    ],
}  # fmt: skip


def line(image: str, label: str, box: tuple[float, ...], group: int = 0) -> str:
    left, top, right, bottom = box
    return f"{image},x,{label},1,{left},{right},{top},{bottom},0,0,{group},0,0"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (100, 50)).save(tmp_path / f"images/{name}.jpg")
    rows = [
        HEADER,
        line("a", "/m/cat", (0.1, 0.2, 0.3, 0.6)),
        line("a", "/m/dog", (0.5, 0.0, 1.0, 1.0), group=1),
        line("b", "/m/car", (0.0, 0.0, 0.5, 0.5)),
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "classes.csv").write_text(CLASSES)
    (tmp_path / "tree.json").write_text(json.dumps(HIERARCHY))
    (tmp_path / "labels.csv").write_text("ImageID,Source,LabelName,Confidence\nb,v,/m/cat,0\n")
    return tmp_path


def config(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "type": "OpenImagesDataset", "data_root": str(folder), "ann_file": "boxes.csv",
        "label_file": "classes.csv", "hierarchy_file": "tree.json", "meta_file": "metas.pkl",
        "image_level_ann_file": "labels.csv", "data_prefix": {"img": "images/"}, **more,
    }  # fmt: skip


def test_samples(folder: Path) -> None:
    data = DATASETS.build(config(folder))
    assert data.names == ("Animal", "Cat", "Dog", "Car") and len(data) == 2
    assert data.above == [(), (0,), (0,), ()]
    expected = torch.tensor([[10.0, 10, 30, 30], [50, 0, 100, 50]])
    assert torch.allclose(data[0]["boxes"], expected)
    assert data[0]["labels"].tolist() == [1, 2] and "annotations" not in data[0]
    tested = DATASETS.build(config(folder, test_mode=True))
    assert [each["is_group"] for each in tested[0]["annotations"]] == [False, True]
    assert tested[1]["image_labels"] == [1] and tested[0]["image_labels"] == []
    assert data.class_labels(0) == {1, 2}


def found(*rows: tuple[int, float, list[float]]) -> Detections:
    return Detections(
        torch.tensor([box for _, _, box in rows]).view(-1, 4),
        torch.tensor([score for _, score, _ in rows]),
        torch.tensor([label for label, _, _ in rows], dtype=torch.long),
    )


def test_the_metric_knows_the_hierarchy_and_groups(folder: Path) -> None:
    data = DATASETS.build(config(folder, test_mode=True))
    metric = METRICS.build({"type": "OpenImagesMetric", "iou_thrs": 0.5, "ioa_thrs": 0.5})
    metric.use(data)
    batch = data.collate([data[0], data[1]])
    predictions = [
        found(
            (1, 0.9, [10, 10, 30, 30]),  # the cat, an animal
            (2, 0.8, [60, 10, 70, 20]),  # in the group of dogs, twice
            (2, 0.7, [80, 10, 90, 20]),
            (3, 0.95, [0, 0, 9, 9]),  # nobody looked for cars in this image
        ),
        found((1, 0.6, [0, 0, 50, 25]), (3, 0.5, [0, 0, 50, 25])),
    ]
    metric.update(batch, predictions)
    values = metric.compute()
    # Cat: right, and wrong in image b, which is known to have none: 1. Dog: 1. Car: 1.
    # Animal: cat 0.9 and group 0.8 right; it is not known of image b.
    assert values == {"mAP": pytest.approx(1.0), "AP50": pytest.approx(1.0)}
    metric.reset()
    metric.update(batch, [predictions[0], found((1, 0.99, [0, 0, 50, 25]))])
    # Cat: wrong at 0.99, right at 0.9: 0.5. Car: 0. Animal and dog: 1.
    assert metric.compute()["AP50"] == pytest.approx((1 + 0.5 + 1 + 0) / 4)
    plain = METRICS.build({"type": "OpenImagesMetric", "use_group_of": False,
                           "get_supercategory": False, "filter_labels": False})  # fmt: skip
    plain.use(data)
    plain.update(batch, predictions)
    # Cat: right at 0.9, wrong at 0.6. Dog: the box of the group is not found. Car: wrong, right.
    assert plain.compute()["AP50"] == pytest.approx((1 + 0 + 0.5) / 3)
    assert plain.published_names["openimages/AP50"] == "AP50"
    with pytest.raises(DataError, match="needs an OpenImagesDataset"):
        plain.use(object())
    with pytest.raises(BuildError, match=r"only ioa_thrs=0\.5"):
        METRICS.build({"type": "OpenImagesMetric", "ioa_thrs": 0.3})


@pytest.fixture
def challenge(folder: Path) -> dict[str, Any]:
    text = "a.jpg\n100 50\n2\n2 0.1 0.2 0.3 0.6 0\n1 0.5 0 1 1 1\nb.jpg\n100 50\n0\n"
    (folder / "boxes.txt").write_text(text)
    (folder / "numbered.csv").write_text("/m/cat,Cat,2\n/m/animal,Animal,1\n")
    matrix = np.eye(3)
    matrix[2, 1] = 1
    np.save(folder / "tree.npy", matrix)
    (folder / "few.csv").write_text("ImageID,LabelName,Confidence\nb,/m/cat,0\n")
    return config(
        folder, type="OpenImagesChallengeDataset", ann_file="boxes.txt",
        label_file="numbered.csv", hierarchy_file="tree.npy", test_mode=True,
        image_level_ann_file="few.csv",
    )  # fmt: skip


def test_the_files_of_the_challenge(folder: Path, challenge: dict[str, Any]) -> None:
    data = DATASETS.build(challenge)
    assert data.names == ("Animal", "Cat") and data.above == [(), (0,)]
    expected = torch.tensor([[10.0, 10, 30, 30], [50, 0, 100, 50]])
    assert torch.allclose(data[0]["boxes"], expected)
    assert data[0]["annotations"][1]["is_group"] and len(data[1]["boxes"]) == 0
    assert data[1]["image_labels"] == [1]
    packed = io.BytesIO()
    np.save(packed, np.array([[{}]], dtype=object), allow_pickle=True)
    (folder / "tree.npy").write_bytes(packed.getvalue())
    with pytest.raises(DataError, match="cannot be read without unpickling"):
        DATASETS.build(challenge)
    np.save(folder / "tree.npy", np.eye(2))
    with pytest.raises(DataError, match=r"expected \(3, 3\)"):
        DATASETS.build(challenge)
    np.save(folder / "tree.npy", np.eye(3))
    for text, words in (
        ("a.jpg\nx\n9\n", "'9' is not a number from 0 to 0"),
        ("a.jpg\n", "line 1: an image needs a name"),
        ("a.jpg\nx\n1\n1 2 3\n", "has 3 values, not 6"),
        ("a.jpg\nx\n1\n7 0 0 1 1 0\n", "'7' is not a number from 1 to 2"),
    ):
        (folder / "boxes.txt").write_text(text)
        with pytest.raises(DataError, match=words):
            DATASETS.build(challenge)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("boxes.csv", "a,b\n", "its first line lacks ImageID"),
        ("boxes.csv", HEADER + "\n", "has no images"),
        ("boxes.csv", f"{HEADER}\na,x,/m/cat,1\n", "a line has 4 values, the first 13"),
        ("boxes.csv", f"{HEADER}\n{line('a', '/m/ox', (0, 0, 1, 1))}\n", "category '/m/ox' is not"),
        ("boxes.csv", f"{HEADER}\n{line('a', '/m/cat', (0, 0, 5, 1))}\n", "'5' is not a number"),
        ("classes.csv", "/m/cat\n", "line 1 has 1 values; expected 2 or more"),
        ("classes.csv", "", "has no classes"),
        ("classes.csv", "/m/cat,a\n/m/cat,b\n", "more than once"),
        ("tree.json", '{"Subcategory": 5}', "Subcategory is 5"),
        ("tree.json", '{"Subcategory": [{"LabelName": "/m/ox"}]}', "category '/m/ox' is not"),
    ],
)
def test_errors_of_files(folder: Path, name: str, content: str, words: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=words):
        DATASETS.build(config(folder))
