"""Masks of COCO files: polygons, RLE, crowds, transforms, and panoptic maps."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cupola.data.annotation_masks import mask_of
from cupola.data.coco import CocoDataset
from cupola.data.panoptic import CocoPanopticDataset
from cupola.data.transforms import FilterAnnotations, RandomCrop, RandomFlip, RandomResize, Resize
from cupola.errors import DataError
from cupola.structures.masks import encode_rle

SQUARE = [2.0, 1.0, 6.0, 1.0, 6.0, 4.0, 2.0, 4.0]  # x 2..6, y 1..4
LOAD = {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True}


def write(folder: Path, segmentations: list[object], crowd: int = 0) -> Path:
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (10, 8), (10, 20, 30)).save(folder / "images" / "a.png")
    annotations = [
        {"id": i + 1, "image_id": 1, "category_id": 1, "bbox": [2, 1, 4, 3], "iscrowd": crowd,
         **({} if each is None else {"segmentation": each})}
        for i, each in enumerate(segmentations)
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": annotations,
        "categories": [{"id": 1, "name": "thing"}],
    }
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def test_polygons_and_encodings_become_masks(tmp_path: Path) -> None:
    mask = np.zeros((8, 10), bool)
    mask[1:4, 2:6] = True
    rle = encode_rle(mask)
    runs = {"size": [8, 10], "counts": [17, 3, 5, 3, 5, 3, 5, 3, 36]}
    folder = write(tmp_path / "d", [[SQUARE], rle, runs, None, [[1, 2, 3, 4]]])
    dataset = CocoDataset(str(folder), pipeline=[LOAD])
    sample = dataset[0]
    assert sample["masks"].dtype == torch.bool
    assert sample["masks"].tolist() == [mask.tolist()] * 3  # those without a mask are left out
    assert len(sample["boxes"]) == len(sample["labels"]) == 3
    assert "masks" not in CocoDataset(str(folder))[0]
    target = dataset.collate([sample])["targets"][0]
    assert target["masks"].shape == (3, 8, 10)


def test_crowds_are_kept_for_evaluation(tmp_path: Path) -> None:
    folder = write(tmp_path / "d", [{"size": [8, 10], "counts": [80]}], crowd=1)
    dataset = CocoDataset(str(folder), test_mode=True, with_mask=True)
    _, target = dataset.truth(0)
    assert target["crowd"].tolist() == [True] and target["masks"].shape == (1, 8, 10)


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ("abc", "segmentation is 'abc'"),
        ([[1, 2, 3]], "a polygon is"),
        ([[1, 2, 3, "x", 5, 6]], "a polygon holds 'x'"),
        ([[1, 2, 3, 1e9, 5, 6]], "a polygon holds 1000000000.0"),
        ([1, 2, 3, 4, 5, 6], "a polygon is 1"),
        ({"size": [8, 10], "counts": [79]}, "cover 79 pixels"),
        ({"size": [10, 8], "counts": [80]}, "10 x 8 pixels, the image of 8 x 10"),
    ],
)
def test_wrong_segmentations_name_file_and_annotation(tmp_path, segmentation, message) -> None:
    dataset = CocoDataset(str(write(tmp_path / "d", [segmentation])), with_mask=True)
    with pytest.raises(DataError, match=rf"instances.json: annotation 1: .*{message}"):
        dataset[0]


def test_several_polygons_are_one_mask() -> None:
    other = [7.0, 5.0, 9.0, 5.0, 9.0, 7.0, 7.0, 7.0]
    mask = mask_of({"segmentation": [SQUARE, other]}, (8, 10), "here")
    assert mask.sum() == 12 + 4


@pytest.fixture
def sample() -> dict[str, object]:
    masks = np.zeros((2, 8, 10), bool)
    masks[0, 1:4, 2:6] = True
    masks[1, 7, 9] = True
    return {
        "image": Image.new("RGB", (10, 8)),
        "boxes": np.array([[2, 1, 6, 4], [9, 7, 10, 8]], np.float32),
        "labels": np.array([3, 4]),
        "crowd": np.zeros(2, bool),
        "masks": masks,
        "scale_factor": (1.0, 1.0),
    }


def test_transforms_move_masks_with_boxes(sample) -> None:
    rng = np.random.default_rng(0)
    flipped = RandomFlip(1.0)(sample, rng)
    assert np.argwhere(flipped["masks"][0]).min(0).tolist() == [1, 4]
    assert flipped["boxes"][0].tolist() == [4, 1, 8, 4]
    larger = Resize((20, 16))(sample, rng)
    assert larger["masks"].shape == (2, 16, 20) and larger["masks"][0].sum() == 48
    cropped = RandomCrop((4, 4), recompute_bbox=True)
    cropped._window = lambda image, rng: (4, 2, 8, 6)
    kept = cropped(sample, rng)
    assert kept["masks"].shape == (1, 4, 4) and kept["masks"].sum() == 4
    assert kept["boxes"].tolist() == [[0, 0, 2, 2]] and kept["labels"].tolist() == [3]
    assert FilterAnnotations((2, 2))(sample, rng)["masks"].shape[0] == 1
    assert FilterAnnotations((0, 0), 5, by_mask=True)(sample, rng)["labels"].tolist() == [3]


def test_random_resize_draws_the_scale(sample) -> None:
    sizes = set()
    for seed in range(8):
        resize = RandomResize((20, 16), (0.5, 2.0), keep_ratio=True)
        found = resize(sample, np.random.default_rng(seed))
        sizes.add(found["image"].size)
        assert found["masks"].shape[1:] == found["image"].size[::-1]
    assert len(sizes) > 4 and all(10 <= width <= 40 for width, _ in sizes)


def panoptic_folder(folder: Path) -> Path:
    """Two things (ids 1 and 300), two pieces of one stuff (2 and 3), a crowd (4), a void corner."""
    (folder / "images").mkdir(parents=True)
    (folder / "panoptic").mkdir()
    Image.new("RGB", (10, 8)).save(folder / "images" / "a.png")
    ids = np.full((8, 10), 2)
    ids[4:], ids[:3, :3], ids[5:, 5:], ids[7, 0], ids[0, 9] = 3, 1, 300, 0, 4
    rgb = np.stack((ids % 256, ids // 256, ids // 65536), -1).astype(np.uint8)
    Image.fromarray(rgb).save(folder / "panoptic" / "a.png")
    info = [(1, 5, 0), (300, 5, 0), (2, 9, 0), (3, 9, 0), (4, 5, 1)]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 10, "height": 8}],
        "annotations": [{
            "image_id": 1, "file_name": "a.png", "segments_info": [
                {"id": number, "category_id": category, "iscrowd": crowd}
                for number, category, crowd in info
            ],
        }],
        "categories": [
            {"id": 9, "name": "sky", "isthing": 0}, {"id": 5, "name": "dog", "isthing": 1}
        ],
    }  # fmt: skip
    (folder / "panoptic.json").write_text(json.dumps(content))
    return folder


def test_panoptic_targets_are_things_and_merged_stuff(tmp_path: Path) -> None:
    dataset = CocoPanopticDataset(str(panoptic_folder(tmp_path / "p")), pipeline=[LOAD])
    assert dataset.names == ("dog", "sky")
    sample = dataset[0]
    assert sample["labels"].tolist() == [0, 0, 1]
    assert sample["masks"].sum((1, 2)).tolist() == [9, 15, 80 - 9 - 15 - 2]
    assert sample["boxes"][0].tolist() == [0, 0, 3, 3]
    batch = dataset.collate([sample])
    assert batch["panoptic"][0].segments[-1].crowd


def test_files_that_are_not_panoptic_are_refused(tmp_path: Path) -> None:
    folder = panoptic_folder(tmp_path / "p")
    for text in ("[]", '{"categories": [{"id": 1}]}', '{"categories": []}'):
        (folder / "panoptic.json").write_text(text)
        with pytest.raises(DataError, match=r"panoptic\.json"):
            CocoPanopticDataset(str(folder))


@pytest.mark.parametrize(
    ("side", "count", "reason"),
    [(30_000, 3, "3 masks of 30000 x 30000 pixels"), (8000, 1, "too many for a mask")],
)
def test_masks_of_one_image_have_a_limit(
    side: int, count: int, reason: str, tmp_path: Path
) -> None:
    folder = write(tmp_path / "a", [[SQUARE]] * count)
    content = json.loads((folder / "instances.json").read_text())
    content["images"][0] |= {"width": side, "height": side}
    (folder / "instances.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=reason):
        CocoDataset(str(folder), with_mask=True).truth(0)


def test_segments_of_a_panoptic_image_are_different(tmp_path: Path) -> None:
    folder = panoptic_folder(tmp_path / "p")
    content = json.loads((folder / "panoptic.json").read_text())
    segments = content["annotations"][0]["segments_info"]
    segments.append(segments[0])
    (folder / "panoptic.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="has an id more than once"):
        CocoPanopticDataset(str(folder), pipeline=[LOAD])[0]
