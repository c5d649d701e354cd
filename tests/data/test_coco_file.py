"""COCO files as annotation tools write them: what is accepted, and errors that name the entry."""

import json
import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO

from cupola.data.coco import CocoDataset
from cupola.data.coco_file import read_instances
from cupola.errors import DataError
from cupola.files.images import read_image, read_size

Content = dict[str, Any]
POLYGON = [[1, 1, 9, 1, 9, 8]]
RLE = {"size": [30, 40], "counts": [100, 50, 1050]}


def content() -> Content:
    return {
        "images": [
            {"id": 4, "file_name": "a.png", "width": 40, "height": 30},
            {"id": 9, "file_name": "b.png", "width": 40, "height": 30},
        ],
        "annotations": [
            {"id": 7, "image_id": 4, "category_id": 90, "bbox": [1, 2, 8.5, 4], "iscrowd": 0,
             "area": 30, "segmentation": POLYGON},
            {"id": 8, "image_id": 4, "category_id": 3, "bbox": [5, 5, 9, 9], "iscrowd": 1,
             "area": 50, "segmentation": RLE},
        ],
        "categories": [{"id": 90, "name": "zebra"}, {"id": 3, "name": "ant"}],
    }  # fmt: skip


def write(root: Path, made: Content, images: str = "images", file: str = "instances.json") -> Path:
    (root / images).mkdir(parents=True, exist_ok=True)
    for name in ("a.png", "b.png"):
        Image.new("RGB", (40, 30), (9, 9, 9)).save(root / images / name)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(made))
    return root


def change(section: str, index: int, **values: Any) -> Callable[[Content], None]:
    return lambda made: made[section][index].update(values)


def drop(section: str, index: int, key: str) -> Callable[[Content], None]:
    return lambda made: made[section][index].pop(key)


BOX = "expected [left, top, width, height] in pixels"
WRONG: list[tuple[Callable[[Content], Any], str]] = [
    (change("annotations", 0, bbox=None), f"annotation 7: bbox is null; {BOX}"),
    (change("annotations", 0, bbox=[]), f"annotation 7: bbox is []; {BOX}"),
    (change("annotations", 0, bbox=["1", "2", "3", "4"]), f"bbox is ['1', '2', '3', '4']; {BOX}"),
    (change("annotations", 0, bbox="1 2 3 4"), "annotation 7: bbox is '1 2 3 4'"),
    (change("annotations", 0, bbox=[1, 2, 3]), "annotation 7: bbox is [1, 2, 3]"),
    (change("annotations", 0, bbox=[1, 2, 3, None]), "annotation 7: bbox is [1, 2, 3, null]"),
    (change("annotations", 0, bbox={"x": 1}), "annotation 7: bbox is {'x': 1}"),
    (change("annotations", 0, bbox=[1, 2, math.nan, 4]), "annotation 7: bbox is [1, 2, nan, 4]"),
    (change("annotations", 0, bbox=[1, 2, math.inf, 4]), "annotation 7: bbox is [1, 2, inf, 4]"),
    (change("annotations", 0, bbox=[1, 2, -3, 4]), "annotation 7: bbox [1, 2, -3, 4] has a negat"),
    (change("annotations", 0, bbox=[True, 2, 3, 4]), "annotation 7: bbox is [True, 2, 3, 4]"),
    (drop("annotations", 0, "bbox"), "annotation 7: lacks bbox"),
    (drop("annotations", 1, "id"), "annotations[1]: lacks id"),
    (change("annotations", 1, id=None), "annotations[1]: id is null; expected a whole number"),
    (change("annotations", 1, id=7), "annotation 7: its id is used more than once"),
    (change("annotations", 1, id=7.5), "annotations[1]: id is 7.5; expected a whole number"),
    (drop("annotations", 0, "image_id"), "annotation 7: lacks image_id"),
    (change("annotations", 0, area="30"), "annotation 7: area is '30'; expected a number of pix"),
    (change("annotations", 0, image_id=[4]), "annotation 7: image_id is [4]; expected a whole"),
    (drop("annotations", 0, "category_id"), "annotation 7: lacks category_id"),
    (change("annotations", 0, category_id=4), "annotation 7: category_id 4 is not among the cat"),
    (change("annotations", 0, category_id=None), "annotation 7: category_id is null"),
    (change("annotations", 0, iscrowd="yes"), "annotation 7: iscrowd is 'yes'; expected 0 or 1"),
    (lambda made: made["annotations"].append(None), "annotations[2]: is null; expected an object"),
    (lambda made: made.update(annotations={}), "annotations is {}; expected a list"),
    (drop("images", 0, "id"), "images[0]: lacks id"),
    (change("images", 1, id=4), "image 4: its id is used more than once"),
    (drop("images", 1, "file_name"), "image 9: file_name is null; expected a text"),
    (change("images", 1, width="40"), "image 9: width is '40'; expected a number of pixels"),
    (change("images", 1, width=-40), "image 9: width is -40"),
    (change("images", 1, height=math.nan), "image 9: height is nan"),
    (drop("categories", 0, "id"), "categories[0]: lacks id"),
    (drop("categories", 0, "name"), "categories[0]: name is null; expected a text"),
    (change("categories", 0, id=3), "categories[1]: its id 3 is used more than once"),
    (change("categories", 0, name="ant"), "categories[1]: its name 'ant' is used more than once"),
]


@pytest.mark.parametrize(("spoil", "said"), WRONG, ids=[said[:40] for _, said in WRONG])
def test_one_line_names_file_entry_and_field(
    spoil: Callable[[Content], Any], said: str, tmp_path: Path
) -> None:
    made = content()
    spoil(made)
    with pytest.raises(DataError) as caught:
        CocoDataset(str(write(tmp_path, made)))
    assert str(caught.value).startswith(f"{tmp_path / 'instances.json'}: ")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["absent", None, 0])
def test_a_missing_size_is_taken_from_the_image(missing: Any, tmp_path: Path) -> None:
    made = content()
    for image in made["images"]:
        del image["width"]
        image["height"] = missing
        if missing == "absent":
            del image["height"]
    data = CocoDataset(str(write(tmp_path, made)), filter_cfg={"min_size": 30})
    assert data.truth(0)[0] == data[0]["original_size"] == (30, 40)
    with pytest.raises(DataError, match="no image is left"):
        CocoDataset(str(tmp_path), filter_cfg={"min_size": 31})
    (tmp_path / "images/b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: not an image"):
        CocoDataset(str(tmp_path))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_of_a_file_is_that_of_the_upright_image(orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_size(tmp_path / "turned.jpg") == read_image(tmp_path / "turned.jpg").shape[:2]


def test_an_image_of_another_size_than_the_file_says_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = content()
    made["images"][0]["width"], made["images"][0]["height"] = 30, 40
    made["annotations"][0]["bbox"] = [20, 2, 30, 8]
    data = CocoDataset(str(write(tmp_path, made)))
    with caplog.at_level(logging.WARNING, "cupola"):
        sample, again = data[0], data[0]
    assert sample["boxes"].tolist() == again["boxes"].tolist() == [[20, 2, 40, 10]]
    assert sample["original_size"] == (30, 40)
    assert len(caplog.records) == 1
    assert "a.png: is 40 x 30 pixels" in caplog.text and "30 x 40 in instances.json" in caplog.text


def test_ids_may_be_whole_floats_or_texts(tmp_path: Path) -> None:
    made = content()
    made["annotations"][0].update(image_id=4.0, category_id=90.0, id="first")
    assert CocoDataset(str(write(tmp_path, made)))[0]["labels"].tolist() == [1]
    for image in made["images"]:
        image["id"] = f"image-{image['id']}"
    for entry in made["annotations"]:
        entry["image_id"] = "image-9"
    assert CocoDataset(str(write(tmp_path, made)))[1]["labels"].tolist() == [1]


def test_masks_crowds_and_further_keys_are_kept(tmp_path: Path) -> None:
    made = content()
    made["annotations"][0]["score"] = 0.5
    made["annotations"].append({**made["annotations"][0], "id": 11, "ignore": 1})
    made["annotations"].append({**made["annotations"][0], "id": 12, "bbox": [3, 3, 0, 5]})
    root = str(write(tmp_path, made))
    (kept,) = CocoDataset(root).annotations(0)
    assert kept["segmentation"] == POLYGON and kept["score"] == 0.5 and kept["area"] == 30
    assert kept["box"] == (1, 2, 9.5, 6)
    every = CocoDataset(root, test_mode=True)
    assert [each["segmentation"] for each in every.annotations(0)] == [POLYGON, RLE, POLYGON]
    assert every[0]["crowd"].tolist() == [False, True, False]
    assert every[1]["boxes"].shape == (0, 4)


LAYOUTS = [
    ("images", "instances.json", {}),
    (".", "instances.json", {}),
    ("train", "train/_annotations.coco.json", {"ann_file": "train/_annotations.coco.json"}),
    ("train2017", "annotations/x.json",
     {"ann_file": "annotations/x.json", "data_prefix": {"img": "train2017/"}}),
    ("p/q", "i.json", {"ann_file": "i.json", "data_prefix": "p/q"}),
]  # fmt: skip


@pytest.mark.parametrize(("images", "file", "settings"), LAYOUTS)
def test_folders_of_images(images: str, file: str, settings: Any, tmp_path: Path) -> None:
    data = CocoDataset(str(write(tmp_path, content(), images, file)), **settings)
    assert data[0]["image"].shape == (3, 30, 40)


def test_a_wrong_folder_is_named_with_the_right_one(tmp_path: Path) -> None:
    write(tmp_path, content(), "images")
    with pytest.raises(DataError, match="so set data_prefix to 'images'"):
        CocoDataset(str(tmp_path), data_prefix={"img": "train2017"})


def test_names_with_folders_and_backslashes(tmp_path: Path) -> None:
    made = content()
    made["images"][0]["file_name"] = "images/a.png"
    made["images"][1]["file_name"] = "images\\b.png"
    data = CocoDataset(str(write(tmp_path, made)))
    assert len(data) == 2 and data[1]["image"].shape == (3, 30, 40)


def test_pycocotools_reads_the_same_boxes_and_labels(tmp_path: Path) -> None:
    data = CocoDataset(str(write(tmp_path, content())), test_mode=True)
    peer = COCO(tmp_path / "instances.json")
    for index, image in enumerate(peer.loadImgs(peer.getImgIds())):
        wanted = peer.loadAnns(peer.getAnnIds(image["id"]))
        boxes = np.array([each["bbox"] for each in wanted], np.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        assert torch.equal(data[index]["boxes"], torch.from_numpy(boxes))
        ids = sorted(peer.getCatIds())
        assert data[index]["labels"].tolist() == [ids.index(e["category_id"]) for e in wanted]


def test_many_categories_take_time_in_proportion(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    names = [{"id": i, "name": f"a{i}"} for i in range(30_000)]
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": names}))
    before = time.process_time()
    assert len(read_instances(path).categories) == 30_000
    assert time.process_time() - before < 2
