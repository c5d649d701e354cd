"""Predictors name classes where a config names a data set and no classes."""

from pathlib import Path
from typing import Any

import pytest

from cupola.data.voc import VOCDataset
from cupola.runtime.published import bundle_config
from cupola.structures.class_names import FILES, SHORT, names_of


def labels(kind: str, number: int, spelling: int = 3, **dataset: Any) -> list[str]:
    data = {"type": kind, "pipeline": [{"type": "LoadImageFromFile"}], **dataset}
    cfg: dict[str, Any] = {"model": {"type": "YOLOX", "bbox_head": {"num_classes": number}}}
    if spelling == 3:
        cfg["test_dataloader"] = {"dataset": data}
        cfg["model"]["data_preprocessor"] = {"type": "DetDataPreprocessor"}
    else:
        cfg["data"] = {"test": data}
    found: list[str] = bundle_config(cfg, "toy")["labels"]
    return found


@pytest.mark.parametrize(
    ("kind", "number", "first", "last"),
    [
        ("VOCDataset", 20, "aeroplane", "tvmonitor"),
        ("mmdet.WIDERFaceDataset", 1, "face", "face"),
        ("CrowdHumanDataset", 1, "person", "person"),
        ("CityscapesDataset", 8, "person", "bicycle"),
        ("DeepFashionDataset", 15, "top", "face"),
        ("Objects365V1Dataset", 365, "person", "flashlight"),
        ("Objects365V2Dataset", 365, "Person", "Table Tennis "),
        ("LVISV1Dataset", 1203, "aerosol_can", "zucchini"),
        ("LVISV05Dataset", 1230, "acorn", "zucchini"),
        ("OpenImagesDataset", 601, "Tortoise", "Helmet"),
        ("OpenImagesChallengeDataset", 500, "Footwear", "Winter melon"),
        ("CocoDataset", 80, "person", "toothbrush"),
    ],
)
def test_names_of_data_sets(kind: str, number: int, first: str, last: str) -> None:
    for spelling in (2, 3):
        found = labels(kind, number, spelling)
        assert len(found) == number and found[0] == first and found[-1] == last


def test_a_model_with_other_classes_is_not_named() -> None:
    assert labels("VOCDataset", 4) == []
    own = ("lion", "tiger")
    assert labels("VOCDataset", 20, metainfo={"classes": own}) == list(own)
    assert labels("VOCDataset", 20, 2, classes=own) == list(own)


def test_wrapped_datasets() -> None:
    inner = {"type": "VOCDataset", "pipeline": [{"type": "LoadImageFromFile"}]}
    assert labels("RepeatDataset", 20, dataset=inner)[6] == "car"
    assert labels("ConcatDataset", 20, 2, datasets=[inner, inner])[6] == "car"


def test_names_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("red fox\nowl\n")
    assert labels("CocoDataset", 2, 2, classes=str(tmp_path / "names.txt")) == ["red fox", "owl"]
    assert labels("CocoDataset", 1, 2, classes="owl") == ["owl"]


def test_every_list_is_complete() -> None:
    assert all(names_of(kind) and all(map(str.strip, names_of(kind))) for kind in (*FILES, *SHORT))
    assert names_of("NoDataset") == () and VOCDataset.classes == names_of("VOCDataset")
