"""digits-in-photos: its images and targets, and the folder it writes."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from cupola.cli.data import app
from cupola.data.coco import CocoDataset
from cupola.data.coco_writing import write_digits
from cupola.data.digits import DigitsInPhotos, DigitStyle
from cupola.data.sources import PHOTOS, glyphs, photos
from cupola.errors import DataError


def test_splits_share_neither_photographs_nor_digits() -> None:
    assert not set(PHOTOS["train"]) & set(PHOTOS["val"])
    train, val = glyphs("train"), glyphs("val")
    assert len(train[0]) + len(val[0]) == 1797
    assert not {g.tobytes() for g in train[0]} & {g.tobytes() for g in val[0]}
    assert set(val[1].tolist()) == set(range(10))
    assert not {p.tobytes() for p in photos("train", 64)} & {p.tobytes() for p in photos("val", 64)}


@given(index=st.integers(0, 10**9), seed=st.integers(0, 1000))
def test_images_and_targets_match_the_documentation(index: int, seed: int) -> None:
    data = DigitsInPhotos("train", seed)
    image = data.compose(index)
    assert image.pixels.shape == (128, 128, 3) and image.pixels.dtype == np.uint8
    assert 1 <= len(image.boxes) == len(image.labels) <= 10
    assert (image.boxes >= 0).all() and (image.boxes <= 128).all()
    sides = (image.boxes[:, 2:] - image.boxes[:, :2]).max(1) / 128
    assert (sides > 0.07).all() and (sides < 0.6).all()
    assert set(image.labels.tolist()) <= set(range(10))


def test_an_image_depends_only_on_seed_and_index() -> None:
    first, again = DigitsInPhotos("val", 7), DigitsInPhotos("val", 7)
    first.compose(3)
    assert np.array_equal(first.compose(5).pixels, again.compose(5).pixels)
    assert not np.array_equal(first.compose(5).pixels, first.compose(6).pixels)
    assert not np.array_equal(first.compose(5).pixels, DigitsInPhotos("val", 8).compose(5).pixels)
    train = DigitsInPhotos("train", 7)
    assert not np.array_equal(first.compose(5).pixels, train.compose(5).pixels)


def test_boxes_enclose_the_ink() -> None:
    style = {"most": 1, "contrast": 0.4}
    for index in range(20):
        data = DigitsInPhotos("train", 0, style=style)
        with_digit = data.compose(index)
        left, top, right, bottom = with_digit.boxes[0].astype(int)
        inside = with_digit.pixels[top:bottom, left:right].astype(float).mean(2)
        assert inside.std() > 10  # a digit stands out from what is behind it


def test_some_digits_overlap() -> None:
    data = DigitsInPhotos("train", 0)
    crossing = 0
    for index in range(50):
        boxes = data.compose(index).boxes
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        crossing += int(((high - low).min(-1) > 0).sum() > len(boxes))
    assert 5 < crossing < 50
    assert DigitStyle().max_overlap < 0.5


def test_photographs_and_glyphs_are_loaded_once() -> None:
    data = DigitsInPhotos("train", 0)
    data[0]
    before = photos.cache_info().misses, glyphs.cache_info().misses
    for index in range(5):
        data[index]
    assert (photos.cache_info().misses, glyphs.cache_info().misses) == before


def test_the_folder_is_coco(tmp_path: Path) -> None:
    from pycocotools.coco import COCO

    command = ["digits-in-photos", "--split", "val", "--seed", "7", "--count", "6"]
    done = CliRunner().invoke(app, [*command, str(tmp_path / "digits")])
    assert done.exit_code == 0, done.output
    truth = COCO(tmp_path / "digits" / "instances.json")
    assert len(truth.imgs) == 6
    assert {c["name"] for c in truth.cats.values()} == set("0123456789")
    data, read = DigitsInPhotos("val", 7), CocoDataset(str(tmp_path / "digits"))
    for index in range(6):
        name = truth.imgs[index + 1]["file_name"]
        pixels = np.asarray(Image.open(tmp_path / "digits" / "images" / name))
        assert np.array_equal(pixels, data.compose(index).pixels)
        assert (read[index]["image"] - data[index]["image"]).abs().max() < 1e-5
        assert read[index]["labels"].tolist() == data[index]["labels"].tolist()
        assert read[index]["boxes"].tolist() == data[index]["boxes"].tolist()


def test_a_folder_is_never_overwritten(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        write_digits(DigitsInPhotos("val", 1, 1), tmp_path)


def test_an_unknown_digits_split_is_an_error() -> None:
    with pytest.raises(DataError, match="unknown split 'test'; use 'train' or 'val'"):
        DigitsInPhotos("test")


def test_the_example_is_a_request(tmp_path: Path) -> None:
    data = DigitsInPhotos("val", 7, size=64)
    data.write_examples(tmp_path / "example")
    request = json.loads((tmp_path / "example" / "request.json").read_text())["inputs"][0]
    assert request["shape"] == [1, 64, 64, 3]
    assert request["data"] == data.compose(0).pixels.reshape(-1).tolist()
