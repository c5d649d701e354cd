"""`cupola evaluate --data` with the files of every data set that a training reads."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from cupola.cli.evaluate import app, evaluator_of
from cupola.errors import CupolaError, InputError
from cupola.runtime import tasks
from cupola.runtime.evaluation_data import FORMATS, format_of
from cupola.structures import Detections

BOX = [4.0, 6.0, 24.0, 26.0]  # left, top, right, bottom, in an image of 40 x 30
ROW = [4, 6, 20, 20]  # as COCO has it
NAMES = ("dog", "cat")


class Finder:
    """Finds one cat in every image, where it is."""

    name, labels, masks = "finder", NAMES, False

    def __init__(self, labels: tuple[str, ...] = NAMES, box: list[float] = BOX) -> None:
        self.labels, self.box = labels, box

    def sample(self, image: Any) -> Any:
        assert np.asarray(image).shape == (30, 40, 3)
        return image

    def sample_at(self, image: Any, index: int, path: Any) -> Any:
        return self.sample(image)

    def bucket(self, sample: Any) -> Any:
        return None

    def run(self, samples: list[Any]) -> list[Detections]:
        label = self.labels.index("cat") if "cat" in self.labels else 0
        one = Detections(torch.tensor([self.box]), torch.ones(1), torch.tensor([label]))
        return [one for _ in samples]


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30)).save(path)


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def table(image: dict[str, Any], **category: Any) -> dict[str, Any]:
    entry = {"id": 1, "image_id": 1, "category_id": 3, "bbox": ROW, "area": 400, "iscrowd": 0}
    shape = {"id": 1, "width": 40, "height": 30}
    about = [{"id": 3, "name": "cat", **category}, {"id": 5, "name": "cow", **category}]
    return {"images": [{**shape, **image}], "annotations": [entry], "categories": about}


def coco(root: Path) -> None:
    picture(root / "val2017/1.jpg")
    write(root / "annotations/instances_val2017.json", table({"file_name": "1.jpg"}))
    write(root / "annotations/captions_val2017.json", "{}")


def plain(root: Path) -> None:
    picture(root / "images/1.png")
    write(root / "instances.json", table({"file_name": "1.png"}))


def lvis(root: Path) -> None:
    known = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    url = {"coco_url": "http://images.cocodataset.org/val2017/1.jpg", **known}
    picture(root / "val2017/1.jpg")
    write(root / "annotations/lvis_v1_val.json", table(url, frequency="c"))


def old_lvis(root: Path) -> None:
    known = {"neg_category_ids": [], "not_exhaustive_category_ids": []}
    name = "COCO_val2014_000000000001.jpg"
    picture(root / name[-16:])
    write(root / "lvis_v0.5_val.json", table({"file_name": name, **known}, frequency="r"))


XML = """<annotation><folder>0--Parade</folder><size><width>40</width><height>30</height></size>
<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{0}</xmin><ymin>{1}</ymin>
<xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object></annotation>"""


def voc(root: Path) -> None:
    picture(root / "VOC2007/JPEGImages/000001.jpg")
    write(root / "VOC2007/Annotations/000001.xml", XML.format(5, 7, 25, 27, name="cat"))
    write(root / "VOC2007/ImageSets/Main/test.txt", "000001\n")


def widerface(root: Path) -> None:
    picture(root / "WIDER_val/0--Parade/a.jpg")
    write(root / "WIDER_val/Annotations/a.xml", XML.format(4, 6, 24, 26, name="cat"))
    write(root / "val.txt", "a\n")


def openimages(root: Path) -> None:
    picture(root / "OpenImages/validation/a.jpg")
    folder = root / "annotations"
    columns = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,"
    row = f"a,x,/m/c,1,{4 / 40},{24 / 40},{6 / 30},{26 / 30},0,0,0,0,0"
    header = f"{columns}IsGroupOf,IsDepiction,IsInside"
    write(folder / "validation-annotations-bbox.csv", f"{header}\n{row}\n")
    write(folder / "class-descriptions-boxable.csv", "/m/c,cat\n/m/a,animal\n")
    tree = {"LabelName": "/m/0bl9f", "Subcategory": [
        {"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/c"}]}]}  # fmt: skip
    write(folder / "bbox_labels_600_hierarchy.json", tree)


def crowdhuman(root: Path) -> None:
    picture(root / "Images/a.jpg")
    person = {"tag": "cat", "fbox": ROW, "hbox": ROW, "vbox": ROW}
    write(root / "annotation_val.odgt", json.dumps({"ID": "a", "gtboxes": [person]}) + "\n")


WRITERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "COCO": ("coco", coco, "AP"),
    "a plain folder": ("coco", plain, "AP"),
    "LVIS 1": ("lvis", lvis, "APc"),
    "LVIS 0.5": ("lvis", old_lvis, "APr"),
    "VOC": ("voc", voc, "mAP"),
    "WIDER FACE": ("widerface", widerface, "mAP"),
    "Open Images": ("openimages", openimages, "mAP"),
    "CrowdHuman": ("crowdhuman", crowdhuman, "JI"),
}


def measured(root: Path, predictor: Any = None, **options: Any) -> dict[str, float]:
    return tasks.find("detection").evaluate(predictor or Finder(), root, options)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_folder_is_measured_as_its_data_set_is(kind: str, tmp_path: Path) -> None:
    name, writer, figure = WRITERS[kind]
    writer(tmp_path)
    assert format_of(tmp_path, {}) == name
    assert measured(tmp_path)[figure] == pytest.approx(1, abs=1e-5)
    assert measured(tmp_path) == measured(tmp_path, format=name)
    poor = measured(tmp_path, Finder(box=[20.0, 20.0, 39.0, 29.0]))
    assert poor[figure] == pytest.approx(0)
    with pytest.raises(CupolaError, match="none of the classes"):
        measured(tmp_path, Finder(("owl",)))


def test_the_rule_of_vocs_year_or_of_the_config(tmp_path: Path) -> None:
    voc(tmp_path)
    whole = tmp_path / "VOC2007"
    assert measured(whole)["AP50"] == measured(whole, format="voc")["AP50"] == 1
    published = evaluator_of({"data": {"train": {}, "test": {
        "type": "VOCDataset", "img_prefix": "VOC2012/"}}, "model": {}})  # fmt: skip
    assert published == {"type": "VOCMetric", "eval_mode": "area"}
    assert measured(tmp_path, published=published)["mAP"] == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_wrong_format_says_what_is_missing(name: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"--annotations"):
        measured(tmp_path, format=name)


def test_what_a_command_line_gets_wrong(tmp_path: Path) -> None:
    plain(tmp_path)
    with pytest.raises(InputError, match=r"--format 'cocoo'; did you mean 'coco'.*use one of coco"):
        measured(tmp_path, format="cocoo")
    with pytest.raises(InputError, match="--image-labels has no effect for the format coco"):
        measured(tmp_path, image_labels="x.csv")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        measured(tmp_path / "nowhere")
    write(tmp_path / "other.json", "{}")
    (tmp_path / "instances.json").rename(tmp_path / "mine.json")
    with pytest.raises(InputError, match=r"it has mine.json, other.json"):
        measured(tmp_path)
    assert measured(tmp_path, annotations="mine.json")["AP"] == pytest.approx(1)
    done = CliRunner().invoke(app, ["detr-digits", "--format", "voc"])
    assert "--format has no effect for an evaluation without --data" in str(done.exception)
    done = CliRunner().invoke(app, ["detr3d-scenes", "--format", "voc", "--data", str(tmp_path)])
    assert "--format has no effect for a camera model" in str(done.exception)
