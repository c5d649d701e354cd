"""CocoDataset and its transforms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cupola.data.coco import CocoDataset
from cupola.data.transforms import Compose
from cupola.errors import DataError
from cupola.files.images import read_image


def annotation(number: int, image: int, category: int, box: list[float], crowd: int = 0) -> Any:
    keys = ("id", "image_id", "category_id", "bbox", "iscrowd", "area")
    return dict(zip(keys, (number, image, category, box, crowd, box[2] * box[3]), strict=True))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images (40x30, 20x50, 8x8); the last is empty; category ids with gaps."""
    (tmp_path / "images").mkdir()
    sizes = [(40, 30), (20, 50), (8, 8)]
    for number, size in enumerate(sizes):
        Image.new("RGB", size, (number, 100, 200)).save(tmp_path / "images" / f"{number}.png")
    content = {
        "images": [
            {"id": n + 10, "file_name": f"{n}.png", "width": w, "height": h}
            for n, (w, h) in enumerate(sizes)
        ],
        "annotations": [
            annotation(1, 10, 7, [30, 20, 20, 20]),  # reaches over the edge
            annotation(2, 10, 3, [1, 2, 3, 4]),
            annotation(3, 10, 3, [5, 5, 10, 10], crowd=1),
            annotation(4, 11, 7, [0, 0, 0, 5]),  # empty
            annotation(5, 11, 7, [2, 3, 4, 5]),
        ],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def test_images_of_twelve_bits_are_as_bright_as_in_prediction(folder: Path) -> None:
    values = np.linspace(0, 4095, 1200).round().astype(np.uint16).reshape(30, 40)
    Image.fromarray(values).save(folder / "images" / "0.png")
    data = CocoDataset(str(folder), mean=(0, 0, 0), std=(1, 1, 1))
    expected = torch.from_numpy(read_image(folder / "images" / "0.png").copy()).permute(2, 0, 1)
    assert torch.equal(data[0]["image"], expected.float())
    assert float(data[0]["image"].max()) == 255


def test_labels_follow_the_ids_and_boxes_are_clipped(folder: Path) -> None:
    data = CocoDataset(str(folder))
    sample = data[0]
    assert data.names == ("three", "seven")
    assert sample["labels"].tolist() == [1, 0]
    assert sample["boxes"].tolist() == [[30, 20, 40, 30], [1, 2, 4, 6]]
    assert data[1]["boxes"].tolist() == [[2, 3, 6, 8]]
    assert data[2]["boxes"].shape == (0, 4)
    red = (0 - 123.675) / 58.395
    assert sample["image"].shape == (3, 30, 40)
    assert float(sample["image"][0, 0, 0]) == pytest.approx(red)


def test_crowds_are_kept_only_in_test_mode(folder: Path) -> None:
    assert CocoDataset(str(folder), test_mode=True)[0]["crowd"].tolist() == [False, False, True]
    assert CocoDataset(str(folder))[0]["crowd"].tolist() == [False, False]


def test_filters_and_classes(folder: Path) -> None:
    rules = {"filter_empty_gt": True, "min_size": 10}
    assert len(CocoDataset(str(folder), filter_cfg=rules)) == 2
    seven = CocoDataset(str(folder), metainfo={"classes": ("seven",)})
    assert seven[0]["labels"].tolist() == [0]


def test_a_batch_is_padded_and_masked(folder: Path) -> None:
    data = CocoDataset(str(folder))
    batch = data.collate([data[0], data[1]])
    assert batch["pixels"].shape == (2, 3, 50, 40)
    assert batch["image_sizes"] == [(30, 40), (50, 20)]
    assert batch["original_sizes"] == batch["image_sizes"]
    mask = batch["padding_mask"]
    assert (~mask[0]).sum() == 30 * 40 and not mask[1, :, :20].any() and mask[1, :, 20:].all()
    assert torch.equal(batch["pixels"][0][:, 30:], torch.zeros(3, 20, 40))


def test_random_samples_depend_on_the_epoch(folder: Path) -> None:
    pipeline = [{"type": "RandomCrop", "crop_size": (9, 9), "allow_negative_crop": True}]
    data, again = (CocoDataset(str(folder), pipeline=pipeline) for _ in range(2))
    assert data[0]["boxes"].tolist() == again[0]["boxes"].tolist()
    seen = set()
    for epoch in range(6):
        data.set_epoch(epoch)
        seen.add(str(data[0]["boxes"].tolist()))
    assert len(seen) > 1


def sample(width: int = 40, height: int = 30) -> dict[str, Any]:
    gradient = np.arange(width * height, dtype=np.uint8).reshape(height, width)
    return {
        "image": Image.fromarray(np.stack([gradient] * 3, -1)),
        "boxes": np.array([[0, 0, 10, 20], [30, 5, 40, 30]], np.float32),
        "labels": np.array([4, 5]),
        "crowd": np.array([False, False]),
        "scale_factor": (1.0, 1.0),
    }


def apply(seed: int = 0, *transforms: dict[str, Any], **size: int) -> dict[str, Any]:
    return Compose(transforms)(sample(**size), np.random.default_rng(seed))


def test_flip_mirrors_image_and_boxes() -> None:
    flipped = apply(0, {"type": "RandomFlip", "prob": 1.0})
    assert flipped["boxes"].tolist() == [[30, 0, 40, 20], [0, 5, 10, 30]]
    straight = np.asarray(sample()["image"])
    assert np.array_equal(np.asarray(flipped["image"]), straight[:, ::-1])
    assert apply(0, {"type": "RandomFlip", "prob": 0.0})["boxes"].tolist() == (
        sample()["boxes"].tolist()
    )


def test_resize_scales_boxes_and_records_the_factor() -> None:
    done = apply(0, {"type": "Resize", "scale": (80, 90)})
    assert done["image"].size == (80, 90)
    assert done["boxes"][1].tolist() == [60, 15, 80, 90]
    assert done["scale_factor"] == (2.0, 3.0)


@given(seed=st.integers(0, 10_000), width=st.integers(41, 90), height=st.integers(31, 90))
def test_crops_keep_the_boxes_inside(seed: int, width: int, height: int) -> None:
    crop = {
        "type": "RandomCrop",
        "crop_type": "absolute_range",
        "crop_size": (12, 25),
        "allow_negative_crop": True,
    }
    done = apply(seed, crop, width=width, height=height)
    assert all(12 <= side <= 25 for side in done["image"].size)
    boxes = done["boxes"]
    assert len(boxes) == len(done["labels"]) == len(done["crowd"])
    assert (boxes >= 0).all() and (boxes <= np.array(done["image"].size * 2)).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_a_crop_without_objects_is_not_applied() -> None:
    tight = {"type": "RandomCrop", "crop_size": (3, 3)}
    for seed in range(20):
        done = apply(seed, tight)
        assert len(done["boxes"]) > 0


def test_published_pipelines_build() -> None:
    scales = [(480, 1333), (512, 1333)]
    detr = [
        {"type": "LoadImageFromFile", "backend_args": None},
        {"type": "LoadAnnotations", "with_bbox": True},
        {"type": "RandomFlip", "prob": 0.5},
        {
            "type": "RandomChoice",
            "transforms": [
                [{"type": "RandomChoiceResize", "scales": scales, "keep_ratio": True}],
                [
                    {"type": "RandomChoiceResize", "scales": [(400, 4200)], "keep_ratio": True},
                    {
                        "type": "RandomCrop",
                        "crop_type": "absolute_range",
                        "crop_size": (384, 600),
                        "allow_negative_crop": True,
                    },
                    {"type": "RandomChoiceResize", "scales": scales, "keep_ratio": True},
                ],
            ],
        },
        {"type": "PackDetInputs"},
    ]
    sizes = {min(apply(seed, *detr)["image"].size) for seed in range(6)}
    assert sizes <= set(range(300, 1334))


def test_errors_of_a_coco_dataset(folder: Path) -> None:
    with pytest.raises(DataError, match="is not UTF-8 text"):
        CocoDataset(str(folder), ann_file="images/0.png")
    with pytest.raises(DataError, match=r"none of the classes \['cat'\]"):
        CocoDataset(str(folder), metainfo={"classes": ("cat",)})
    with pytest.raises(DataError, match="no image is left"):
        CocoDataset(str(folder), filter_cfg={"min_size": 1000})
    (folder / "part.json").write_text('{"images": []}')
    with pytest.raises(DataError, match="annotations, categories missing"):
        CocoDataset(str(folder), ann_file="part.json")
    (folder / "images" / "0.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"0\.png: not an image"):
        CocoDataset(str(folder))[0]
    with pytest.raises(DataError, match="did you mean 'vertical'"):
        apply(0, {"type": "RandomFlip", "direction": "verticl"})
    with pytest.raises(DataError, match="use absolute, absolute_range, relative, relative_range"):
        apply(0, {"type": "RandomCrop", "crop_size": (3, 3), "crop_type": "some"})
