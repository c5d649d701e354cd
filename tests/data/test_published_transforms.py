"""Transforms of published pipelines against literal references on small arrays."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from cupola.data.affine import warp, warp_boxes
from cupola.data.colors import shift_hsv
from cupola.data.photometric import Distortion, distort
from cupola.data.pipeline import Compose
from cupola.data.transforms import resize_masks
from cupola.errors import CupolaError, DataError
from cupola.registry import DATASETS, TRANSFORMS

BOXES = [[2, 3, 12, 20], [20, 5, 38, 28], [0, 25, 6, 30]]


def pixels(width: int = 40, height: int = 30, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def sample(masked: bool = True, **size: int) -> dict[str, Any]:
    image = pixels(**size)
    boxes = np.array(BOXES, np.float32)
    found: dict[str, Any] = {
        "image": Image.fromarray(image),
        "boxes": boxes,
        "labels": np.array([3, 4, 5]),
        "crowd": np.array([False, True, False]),
        "scale_factor": (1.0, 1.0),
    }
    if masked:
        found["semantic"] = image[..., 0]
        found["masks"] = boxes_as_masks(boxes, image.shape[:2])
    return found


def boxes_as_masks(boxes: Any, size: Any) -> Any:
    masks = np.zeros((len(boxes), *size), bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.astype(int), strict=True):
        mask[top:bottom, left:right] = True
    return masks


def apply(step: dict[str, Any], seed: int = 0, **options: Any) -> dict[str, Any]:
    return Compose([step])(sample(**options), np.random.default_rng(seed))


def check_masks_follow(found: dict[str, Any]) -> None:
    """Every mask is the whole box: so they were moved, cut and left out alike."""
    size = np.asarray(found["image"]).shape[:2]
    assert found["masks"].shape == (len(found["boxes"]), *size)
    assert np.array_equal(found["masks"], boxes_as_masks(found["boxes"], size))


def test_flips_in_all_directions() -> None:
    whole = pixels()
    for direction, view in (
        ("vertical", whole[::-1]), ("diagonal", whole[::-1, ::-1]), ("horizontal", whole[:, ::-1])
    ):  # fmt: skip
        found = apply({"type": "RandomFlip", "prob": 1.0, "direction": direction})
        assert np.array_equal(np.asarray(found["image"]), view)
        assert np.array_equal(found["semantic"], view[..., 0])
        check_masks_follow(found)
    several = {"type": "RandomFlip", "prob": [0.3, 0.5], "direction": ["vertical", "horizontal"]}
    counts = [0, 0, 0]
    for seed in range(400):
        first = apply(several, seed, masked=False)["boxes"][0].tolist()
        counts[[[2, 3, 12, 20], [2, 10, 12, 27], [28, 3, 38, 20]].index(first)] += 1
    assert abs(counts[0] - 80) < 30 and abs(counts[1] - 120) < 35
    with pytest.raises(DataError, match=r"expected 0\.\.1, or one per direction"):
        apply({"type": "RandomFlip", "prob": [0.3], "direction": ["vertical", "horizontal"]})


@pytest.mark.parametrize(
    ("step", "size"),
    [
        ({"size": (64, 48)}, (64, 48)),
        ({"size_divisor": 32}, (64, 32)),
        ({"pad_to_square": True}, (40, 40)),
        ({"pad_to_square": True, "size_divisor": 32}, (64, 64)),
    ],
)
def test_padding(step: dict[str, Any], size: tuple[int, int]) -> None:
    colors = {"img": (10, 20, 30), "seg": 200}
    found = apply({"type": "Pad", "pad_val": colors, **step})
    expected = np.full((size[1], size[0], 3), (30, 20, 10), np.uint8)  # BGR in the config
    expected[:30, :40] = pixels()
    assert np.array_equal(np.asarray(found["image"]), expected)
    assert found["semantic"][:30, :40].tolist() == pixels()[..., 0].tolist()
    assert set(found["semantic"][30:].flat) <= {200} and set(found["semantic"][:, 40:].flat) <= {
        200
    }
    check_masks_follow(found)


def test_errors_of_padding() -> None:
    with pytest.raises(DataError, match="needs one of size, size_divisor and pad_to_square"):
        apply({"type": "Pad"})
    with pytest.raises(DataError, match="padding_mode is 'wrap'; use constant, edge, reflect"):
        apply({"type": "Pad", "size": (64, 64), "padding_mode": "wrap"})


def test_a_larger_canvas() -> None:
    mean = [123.675, 116.28, 103.53]
    step = {"type": "Expand", "mean": mean, "to_rgb": True, "ratio_range": (2, 4), "prob": 1.0}
    for seed in range(5):
        found = apply(step, seed)
        image = np.asarray(found["image"])
        assert 2 * 30 <= image.shape[0] <= 4 * 30 and 2 * 40 <= image.shape[1] <= 4 * 40
        left, top = (found["boxes"][0, :2] - [2, 3]).astype(int)
        assert np.array_equal(image[top : top + 30, left : left + 40], pixels())
        outside = np.ones(image.shape[:2], bool)
        outside[top : top + 30, left : left + 40] = False
        assert (image[outside] == np.array(mean).astype(np.uint8)).all()
        assert (found["semantic"][outside] == 255).all()
        check_masks_follow(found)
    tried = [np.asarray(apply({**step, "prob": 0.5}, s)["image"]).size for s in range(60)]
    assert 15 < sum(each == 3600 for each in tried) < 45


def test_shifts_move_everything_alike() -> None:
    seen = set()
    for seed in range(8):
        found = apply({"type": "RandomShift", "prob": 1.0, "max_shift_px": 9}, seed)
        image = np.asarray(found["image"])
        row = found["labels"].tolist().index(3)
        # the corner of the first box that is not cut off says how far it went
        right, bottom = (found["boxes"][row, 2:] - [12, 20]).astype(int)
        seen.add((right, bottom))
        expected = np.zeros((30, 40, 3), np.uint8)
        rows = slice(max(0, bottom), 30 + min(0, bottom))
        columns = slice(max(0, right), 40 + min(0, right))
        source = pixels()[
            max(0, -bottom) : 30 - max(0, bottom), max(0, -right) : 40 - max(0, right)
        ]
        expected[rows, columns] = source
        assert np.array_equal(image, expected)
        check_masks_follow(found)
    assert len(seen) > 4 and all(abs(x) <= 9 and abs(y) <= 9 for x, y in seen)


def test_crops_relative_to_the_image() -> None:
    step = {"type": "RandomCrop", "allow_negative_crop": True, "crop_type": "relative"}
    found = apply({**step, "crop_size": (0.5, 0.25)})
    assert found["image"].size == (20, 8)  # halves are rounded up: 7.5
    check_masks_follow(found)
    ranged = {**step, "crop_type": "relative_range", "crop_size": (0.9, 0.3)}
    sizes = [apply(ranged, seed)["image"].size for seed in range(20)]
    assert all(27 <= height <= 30 for _, height in sizes)  # the first number is the height's
    assert min(width for width, _ in sizes) < 25
    whole = {"type": "RandomCrop", "crop_size": (99, 15), "allow_negative_crop": True}
    assert apply(whole)["image"].size == (40, 15)
    loose = {**whole, "crop_size": (10, 10), "bbox_clip_border": False}
    assert any((apply(loose, seed)["boxes"] < 0).any() for seed in range(9))
    with pytest.raises(DataError, match=r"expected 0\.\.1 of the image"):
        apply({**step, "crop_size": (2, 2)})


def overlap(first: Any, second: Any) -> float:
    sides = np.minimum(first[2:], second[2:]) - np.maximum(first[:2], second[:2])
    both = sides.clip(0).prod()
    return float(both / ((first[2:] - first[:2]).prod() + (second[2:] - second[:2]).prod() - both))


def test_crops_by_the_smallest_overlap() -> None:
    step = {"type": "MinIoURandomCrop", "min_ious": (0.1, 0.3), "min_crop_size": 0.3}
    whole, cropped = 0, 0
    rows = {pixels()[y, x].tobytes(): (x, y) for y in range(30) for x in range(40)}
    for seed in range(40):
        found = apply(step, seed)
        width, height = found["image"].size
        whole += (width, height) == (40, 30)
        if (width, height) == (40, 30):
            continue
        cropped += 1
        left, top = rows[np.asarray(found["image"])[0, 0].tobytes()]
        window = np.array([left, top, left + width, top + height])
        assert width >= 11 and height >= 8  # 0.3 of the sides, rounded down
        centers = [((a + c) / 2, (b + d) / 2) for a, b, c, d in BOXES]
        inside = [left < x < left + width and top < y < top + height for x, y in centers]
        assert found["labels"].tolist() == [3 + n for n in range(3) if inside[n]] != []
        expected = np.array(BOXES)[inside] - [left, top, left, top]
        assert found["boxes"].tolist() == expected.clip(0, [width, height] * 2).tolist()
        check_masks_follow(found)
        assert min(overlap(np.array(box), window) for box in BOXES) >= 0
    assert whole > 3 and cropped > 3
    only = Compose([{"type": "MinIoURandomCrop", "min_ious": (0.9,)}])
    for seed in range(10):
        one = {k: v[1:2] if k in ("boxes", "labels", "crowd") else v
               for k, v in sample(False).items()}  # fmt: skip
        assert len(only(one, np.random.default_rng(seed))["boxes"]) == 1


def test_crops_around_a_point() -> None:
    step = {
        "type": "RandomCenterCropPad", "crop_size": (32, 24), "ratios": (1.0, 1.5), "border": 8,
        "mean": [1, 2, 3], "std": [1, 1, 1], "to_rgb": True, "test_pad_mode": None,
    }  # fmt: skip
    sizes = set()
    for seed in range(12):
        found = apply(step, seed, masked=False)
        image = np.asarray(found["image"])
        sizes.add(image.shape[:2])
        shown = [(box, label) for box, label in zip(found["boxes"], found["labels"], strict=True)]
        for box, label in shown:
            x, y, right, bottom = box.astype(int)
            if x > 0 and y > 0 and right < image.shape[1] and bottom < image.shape[0]:
                a, b, c, d = BOXES[label - 3]
                assert np.array_equal(image[y:bottom, x:right], pixels()[b:d, a:c])
        assert shown and (found["boxes"] >= 0).all()
    assert sizes == {(24, 32), (36, 48)}
    test = {
        "type": "RandomCenterCropPad", "ratios": None, "border": None, "mean": [1, 2, 3],
        "std": [1, 1, 1], "to_rgb": True, "test_mode": True, "test_pad_mode": ["logical_or", 15],
    }  # fmt: skip
    image = np.asarray(apply(test, masked=False)["image"])
    assert image.shape == (31, 47, 3)
    assert np.array_equal(image[0:30, 3:43], pixels())  # the middle 15 is that of 30, 23 of 40
    assert image[30].tolist() == [[1, 2, 3]] * 47
    with pytest.raises(DataError, match="takes boxes only"):
        apply(step)


def test_holes_and_erased_patches() -> None:
    step = {"type": "CutOut", "n_holes": (2, 4), "cutout_shape": [(5, 3)], "fill_in": (1, 2, 3)}
    found = apply(step)
    changed = (np.asarray(found["image"]) != pixels()).any(-1)
    assert 0 < changed.sum() <= 4 * 15
    assert (np.asarray(found["image"])[changed] == [3, 2, 1]).all()
    assert len(found["boxes"]) == 3
    assert (np.asarray(apply({**step, "cutout_shape": None, "cutout_ratio": (1.0, 1.0),
                              "n_holes": 1})["image"])[-1, -1] == [3, 2, 1]).all()  # fmt: skip
    erase = {"type": "RandomErasing", "n_patches": 1, "ratio": 0.9, "img_border_value": 7}
    found = apply(erase)
    covered = (np.asarray(found["image"]) == 7).all(-1)
    assert covered.sum() == 27 * 36 and (found["semantic"][covered] == 255).all()
    assert not found["masks"][:, covered].any()
    for number, (a, b, c, d) in enumerate(BOXES):
        part = covered[b:d, a:c].mean()
        assert (3 + number in found["labels"]) == (part < 0.9)
    with pytest.raises(DataError, match="n_holes is"):
        apply({**step, "n_holes": (4, 2)})
    with pytest.raises(DataError, match="needs either cutout_shape"):
        apply({"type": "CutOut", "n_holes": 1})


def literal_distortion(image: Any, drawn: Distortion) -> Any:
    """The same by OpenCV, on BGR."""
    bgr = image[..., ::-1].astype(np.float32).copy()
    bgr += drawn.brightness or 0
    if drawn.contrast_first:
        bgr *= drawn.contrast if drawn.contrast is not None else 1
    hsv = cv2.cvtColor(bgr, cv2.COLOR_BGR2HSV)
    if drawn.saturation is not None:
        hsv[..., 1] *= drawn.saturation
        hsv[..., 1] = hsv[..., 1].clip(0, 1) if drawn.saturation > 1 else hsv[..., 1]
    hsv[..., 0] = (hsv[..., 0] + (drawn.hue or 0)) % 360
    bgr = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if not drawn.contrast_first:
        bgr *= drawn.contrast if drawn.contrast is not None else 1
    rgb = bgr[..., ::-1]
    return rgb if drawn.channels is None else rgb[..., list(drawn.channels)]


@pytest.mark.parametrize("saturation", [0.5, 1.4])
@pytest.mark.parametrize("first", [False, True])
def test_distortion_equals_that_of_opencv(saturation: float, first: bool) -> None:
    image = pixels()
    image[0, :9] = [[3, 4, 5], [0, 0, 0], [9, 9, 9], [255, 0, 0], [0, 255, 255], [255, 255, 255],
                    [1, 1, 200], [30, 2, 2], [7, 60, 7]]  # fmt: skip
    for brightness in (-31.0, 20.0):
        drawn = Distortion(brightness, first, 1.3, saturation, -17.0, (2, 0, 1))
        found = distort(image.astype(np.float32), drawn, limited=True)
        assert np.abs(found - literal_distortion(image, drawn)).max() < 2e-2


def test_a_distorted_image_goes_on_as_floats() -> None:
    steps = [
        {"type": "PhotoMetricDistortion"},
        {"type": "Expand", "mean": [1, 2, 3], "prob": 1.0, "ratio_range": (1, 2)},
        {"type": "MinIoURandomCrop"},
        {"type": "Resize", "scale": (30, 30), "keep_ratio": False},
        {"type": "RandomFlip", "prob": 1.0},
    ]
    found = [Compose(steps)(sample(), np.random.default_rng(seed)) for seed in range(6)]
    assert all(each["image"].shape == (30, 30, 3) for each in found)
    assert any(each["image"].max() > 255 or each["image"].min() < 0 for each in found)


def test_hsv_shifts_equal_those_of_opencv() -> None:
    levels = np.arange(0, 256, 5, dtype=np.uint8)
    image = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(52, -1, 3)
    for gains in ((4, -21, 17), (-5, 30, -30), (0, 0, 9)):
        hsv = cv2.cvtColor(np.ascontiguousarray(image[..., ::-1]), cv2.COLOR_BGR2HSV).astype(int)
        hsv[..., 0] = (hsv[..., 0] + gains[0]) % 180
        hsv[..., 1:] = (hsv[..., 1:] + gains[1:]).clip(0, 255)
        expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2BGR)[..., ::-1].astype(int)
        apart = np.abs(shift_hsv(image, *gains).astype(int) - expected)
        assert apart.max() <= 1
    step = {"type": "YOLOXHSVRandomAug"}
    changes = [np.abs(np.asarray(apply(step, seed)["image"], int) - pixels()).max()
               for seed in range(8)]  # fmt: skip
    assert max(changes) > 10


@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_warping_equals_that_of_opencv(kind: Any) -> None:
    smooth = cv2.GaussianBlur(pixels(), (0, 0), 2).astype(kind)
    image = Image.fromarray(smooth) if kind is np.uint8 else smooth
    angle = np.radians(9)
    turn = [[np.cos(angle) * 0.8, -np.sin(angle), 6], [np.sin(angle), np.cos(angle) * 0.9, -3]]
    matrix = np.array([*turn, [0, 0, 1]])
    found = np.asarray(warp({"image": image}, matrix, (50, 36), (114, 114, 114)), np.float64)
    expected = cv2.warpPerspective(smooth, matrix, (50, 36), borderValue=(114, 114, 114))
    assert np.abs(found - expected).max() <= 3  # OpenCV places samples in steps of 1/32 pixel
    assert np.abs(found - expected).mean() < 0.3
    corners = cv2.perspectiveTransform(
        np.array([[[2, 3], [12, 3], [2, 20], [12, 20]]], np.float64), matrix
    )[0]
    boxes = warp_boxes(np.array(BOXES[:1], np.float32), matrix)
    assert boxes[0] == pytest.approx([*corners.min(0), *corners.max(0)])


def test_random_affine_keeps_what_is_inside() -> None:
    step = {"type": "RandomAffine", "scaling_ratio_range": (0.1, 2), "border": (-10, -5)}
    for seed in range(20):
        found = apply(step, seed, masked=False)
        assert found["image"].size == (20, 20)
        assert (found["boxes"] >= 0).all() and (found["boxes"] <= 20).all()
        assert len(found["boxes"]) == len(found["labels"]) == len(found["crowd"])
    still = {
        "type": "RandomAffine", "max_rotate_degree": 0, "max_translate_ratio": 0,
        "max_shear_degree": 0, "scaling_ratio_range": (1, 1),
    }  # fmt: skip
    found = apply(still, masked=False)
    assert np.array_equal(np.asarray(found["image"]), pixels())
    assert found["boxes"].tolist() == BOXES
    with pytest.raises(DataError, match="takes boxes only"):
        apply(step)
    with pytest.raises(DataError, match="expected 0 < low <= high"):
        apply({"type": "RandomAffine", "scaling_ratio_range": (2, 1)})


def test_small_objects_are_left_out_or_reject_the_sample() -> None:
    few = {"type": "FilterAnnotations", "min_gt_bbox_wh": (11, 11)}
    assert apply(few)["labels"].tolist() == [4]
    none = {"type": "FilterAnnotations", "min_gt_bbox_wh": (50, 50)}
    rng = np.random.default_rng(0)
    assert Compose([none]).run(sample(), rng) is None
    kept = Compose([{**none, "keep_empty": False}]).run(sample(), rng)
    assert kept is not None and len(kept["boxes"]) == 0


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"type": "InstaBoost"}, "InstaBoost is not available: it needs the package instaboost"),
        ({"type": "Corrupt", "corruption": "fog"}, "imagecorruptions"),
        ({"type": "Mosaic"}, "Mosaic mixes several images of a dataset; it cannot be inside"),
    ],
)
def test_what_is_not_available_says_what_to_do(step: dict[str, Any], words: str) -> None:
    with pytest.raises(CupolaError, match=words):
        apply(step)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six images of one color each, 40 x 30; image n has a box of class n; the last has none."""
    import json

    (tmp_path / "images").mkdir()
    for number in range(6):
        Image.new("RGB", (40, 30), (40 * number, 0, 0)).save(tmp_path / f"images/{number}.png")
    content = {
        "images": [{"id": n, "file_name": f"{n}.png", "width": 40, "height": 30}
                   for n in range(6)],
        "annotations": [
            {"id": n + 1, "image_id": n, "category_id": n, "bbox": [4, 6, 20, 15],
             "segmentation": [[4, 6, 24, 6, 24, 21, 4, 21]]}
            for n in range(5)
        ],
        "categories": [{"id": n, "name": str(n)} for n in range(6)],
    }  # fmt: skip
    (tmp_path / "instances.json").write_text(json.dumps(content))
    return tmp_path


def coco(folder: Path, pipeline: Any = (), **options: Any) -> dict[str, Any]:
    return {
        "type": "CocoDataset", "data_root": str(folder), "pipeline": pipeline,
        "mean": (0, 0, 0), "std": (1, 1, 1), **options,
    }  # fmt: skip


def mixed(folder: Path, *pipeline: dict[str, Any], masked: bool = False, **options: Any) -> Any:
    load = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_mask": masked}]
    inner = coco(folder, load)
    return DATASETS.build(
        {"type": "MultiImageMixDataset", "dataset": inner, "pipeline": pipeline, **options}
    )


MOSAIC = {"type": "Mosaic", "img_scale": (40, 30), "pad_val": 114.0}


def check_mosaic(one: dict[str, Any]) -> set[int]:
    """Every object lies on its own image's color; returns the classes seen."""
    image, seen = one["image"][0].numpy().round().astype(int), set()
    assert image.shape == (60, 80)
    assert set(np.unique(image)) <= {*range(0, 240, 40), 114}
    for row, (box, label) in enumerate(zip(one["boxes"].tolist(), one["labels"], strict=True)):
        left, top, right, bottom = (int(each) for each in box)
        assert (image[top:bottom, left:right] == 40 * int(label)).all()
        if "masks" in one:
            assert one["masks"][row].sum() == (right - left) * (bottom - top)
        seen.add(int(label))
    return seen


def test_mosaics_place_four_images_with_their_objects(folder: Path) -> None:
    data = mixed(folder, MOSAIC, masked=True)
    assert len(data) == 6 and len(data.names) == 6
    seen = set()
    for index in range(6):
        one = data[index]
        seen |= check_mosaic(one)
        again = data[index]
        assert again["boxes"].tolist() == one["boxes"].tolist()
        assert bool((again["image"] == one["image"]).all())
    assert len(seen) == 5
    first = data[0]["boxes"].tolist()
    data.set_epoch(1)
    assert data[0]["boxes"].tolist() != first
    never = mixed(folder, {**MOSAIC, "prob": 0.0})
    assert never[1]["image"].shape == (3, 30, 40)


def test_cached_mosaics_draw_from_the_dataset_itself(folder: Path) -> None:
    steps = [
        {"type": "LoadAnnotations", "with_mask": True},
        {"type": "CachedMosaic", "img_scale": (40, 30), "pad_val": 114.0, "max_cached_images": 20,
         "random_pop": False},
    ]  # fmt: skip
    data = DATASETS.build(coco(folder, steps))
    assert len(set.union(*(check_mosaic(data[n]) for n in range(6)))) == 5
    mixing = {"type": "CachedMixUp", "img_scale": (80, 60), "ratio_range": (1.0, 1.0),
              "pad_val": (114, 114, 114)}  # fmt: skip
    both = DATASETS.build(coco(folder, [*steps, mixing]))
    counts = [len(both[n]["boxes"]) for n in range(6)]
    assert max(counts) > 4  # of two mosaics
    again = DATASETS.build(coco(folder, [*steps, mixing]))
    assert [len(again[n]["boxes"]) for n in range(6)] == counts
    for n in range(6):
        assert len(both[n]["masks"]) == len(both[n]["boxes"]) == len(both[n]["labels"])
        assert both[n]["masks"].shape[1:] == both[n]["image"].shape[1:]


def test_mixup_is_the_mean_of_two_images(folder: Path) -> None:
    step = {"type": "MixUp", "img_scale": (40, 30), "ratio_range": (1.0, 1.0), "pad_val": 114.0,
            "flip_ratio": 1.0}  # fmt: skip
    data = mixed(folder, step)
    for index in range(6):
        one = data[index]
        label = int(one["labels"][-1])  # of the other image
        expected = int(0.5 * 40 * index + 0.5 * 40 * label)
        assert one["image"].shape == (3, 30, 40)
        assert bool((one["image"][0] == expected).all())
        assert one["boxes"].tolist() == [[4, 6, 24, 21]] * len(one["boxes"])
        assert len(one["boxes"]) == (1 if index == 5 else 2)
    flipped = mixed(folder, {**step, "flip_ratio": 0.0})
    assert flipped[0]["boxes"][-1].tolist() == [16, 6, 36, 21]
    larger = mixed(folder, {**step, "ratio_range": (2.0, 2.0)})
    one = larger[0]
    assert one["image"].shape == (3, 30, 40) and bool((one["boxes"] <= 40).all())
    smaller = mixed(folder, {**step, "ratio_range": (0.5, 0.5)})[0]
    assert smaller["boxes"][-1].tolist() == [2, 3, 12, 10.5]
    assert int(smaller["image"][0, 29, 39]) == 57  # half of the padding and half of nothing


def test_objects_are_pasted(folder: Path) -> None:
    paste = {"type": "CopyPaste", "max_num_pasted": 100, "selected": False}
    data = mixed(folder, paste, masked=True)
    one = data[0]
    label = int(one["labels"][-1])
    assert one["labels"].tolist() == [label]  # it covers the own one wholly
    assert one["masks"].shape == (1, 30, 40)
    inside = one["image"][0][one["masks"][0]]
    assert bool((inside == 40 * label).all()) and int(one["image"][0, 0, 0]) == 0
    drawn = {len(mixed(folder, {**paste, "selected": True}, masked=True, seed=s)[1]["labels"])
             for s in range(6)}  # fmt: skip
    assert drawn <= {1, 2}
    with pytest.raises(DataError, match="needs masks"):
        mixed(folder, paste)[0]
    boxes = mixed(folder, {**paste, "paste_by_box": True})[0]
    assert bool((boxes["image"][0, 6:21, 4:24] == 40 * int(boxes["labels"][-1])).all())
    sizes = {"type": "RandomChoiceResize", "scales": [(30, 30), (20, 20)], "keep_ratio": False}
    uneven = DATASETS.build({
        "type": "MultiImageMixDataset", "pipeline": [paste],
        "dataset": coco(folder, [{"type": "LoadAnnotations", "with_mask": True}, sizes]),
    })  # fmt: skip
    with pytest.raises(DataError, match="images must have the same size"):
        for index in range(5):
            uneven[index]


def test_a_published_pipeline_of_yolox_and_its_last_epochs(folder: Path) -> None:
    steps = [
        MOSAIC,
        {"type": "RandomAffine", "scaling_ratio_range": (0.5, 1.5), "border": (-20, -15)},
        {"type": "MixUp", "img_scale": (40, 30), "ratio_range": (0.8, 1.6), "pad_val": 114.0},
        {"type": "YOLOXHSVRandomAug"},
        {"type": "RandomFlip", "prob": 0.5},
        {"type": "Resize", "scale": (40, 40), "keep_ratio": True},
        {"type": "Pad", "pad_to_square": True, "pad_val": {"img": (114.0, 114.0, 114.0)}},
        {"type": "FilterAnnotations", "min_gt_bbox_wh": (1, 1), "keep_empty": False},
        {"type": "PackDetInputs"},
    ]
    data = mixed(folder, *steps)
    assert all(data[n]["image"].shape == (3, 40, 40) for n in range(6))
    data.skip_transforms(("Mosaic", "RandomAffine", "MixUp"))
    last = data[2]
    assert last["labels"].tolist() == [2] and last["boxes"].shape == (1, 4)
    assert mixed(folder, *steps, skip_type_keys=["Mosaic", "MixUp", "RandomAffine"])[3][
        "labels"
    ].tolist() == [3]
    with pytest.raises(DataError, match="TinyLine has no pipeline"):
        import train.parts  # noqa: F401

        DATASETS.build({"type": "MultiImageMixDataset", "dataset": {"type": "TinyLine"},
                        "pipeline": []})  # fmt: skip


def test_a_rejected_image_is_replaced_by_another(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cupola.data.image_dataset.TRIES", 20)
    tight = {"type": "RandomCrop", "crop_size": (3, 3)}
    data = DATASETS.build(coco(folder, [tight]))
    labels = [data[5]["labels"].tolist() for _ in range(2)]
    assert labels[0] == labels[1] and len(labels[0]) == 1
    never = DATASETS.build(
        coco(folder, [{"type": "FilterAnnotations", "min_gt_bbox_wh": (99, 99)}])
    )
    assert len(never[5]["boxes"]) == 0  # it had none before the filter
    only = coco(folder, [{"type": "FilterAnnotations", "min_gt_bbox_wh": (99, 99)}],
                filter_cfg={"filter_empty_gt": True})  # fmt: skip
    with pytest.raises(DataError, match="rejected 20 images"):
        DATASETS.build(only)[0]


def test_maps_of_classes_are_read_and_padded(folder: Path) -> None:
    (folder / "maps").mkdir()
    for number in range(6):
        values = np.full((30, 40), number, np.uint8)
        Image.fromarray(values).save(folder / f"maps/{number}.png")
    steps = [
        {"type": "LoadAnnotations", "with_bbox": True, "with_mask": True, "with_seg": True},
        {"type": "RandomResize", "scale": [(40, 30), (80, 60)], "keep_ratio": True},
        {"type": "SegRescale", "scale_factor": 0.125},
    ]
    cfg = coco(folder, steps, data_prefix={"img": "images", "seg": "maps"})
    data = DATASETS.build(cfg)
    one, other = data[1], data[2]
    assert one["semantic"].shape == one["image"].shape[1:]
    assert set(one["semantic"].flatten().tolist()) == {1}
    batch = data.collate([one, other])
    height, width = batch["pixels"].shape[-2:]
    for target, (h, w) in zip(batch["targets"], batch["image_sizes"], strict=True):
        assert target["semantic"].shape == (height, width)
        assert (target["semantic"] == 255).sum() == height * width - h * w
    with pytest.raises(DataError, match=r'needs data_prefix\["seg"\]'):
        DATASETS.build({**cfg, "data_prefix": {"img": "images"}})
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(folder / "maps/1.png")
    with pytest.raises(DataError, match="a map of classes is gray of 8 bits, or a palette"):
        data[1]
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(folder / "maps/1.png")
    with pytest.raises(DataError, match=r"1\.png: is 4 x 3 pixels, its image \(40, 30\)"):
        data[1]


def test_maps_are_resized_as_opencv_resizes_by_nearest() -> None:
    """OpenCV's products of places and steps may be just below the whole number they should be."""
    for old in range(1, 130, 3):
        line = np.arange(old, dtype=np.uint8)[None]
        for new in (1, 7, 40, 50, 80, 100, 128, 333):
            expected = cv2.resize(line, (new, 1), interpolation=cv2.INTER_NEAREST)
            assert np.array_equal(resize_masks(line, (new, 1)), expected), (old, new)
            expected = np.asarray(Image.fromarray(line).resize((new, 1), Image.Resampling.NEAREST))
            assert np.array_equal(resize_masks(line, (new, 1), "pillow"), expected), (old, new)


def test_interpolations_of_resizing() -> None:
    whole = pixels()
    step = {"type": "Resize", "scale": (27, 19)}
    found = apply({**step, "interpolation": "nearest"})
    expected = cv2.resize(whole, (27, 19), interpolation=cv2.INTER_NEAREST)
    assert np.array_equal(np.asarray(found["image"]), expected)
    found = apply({**step, "interpolation": "bicubic", "backend": "pillow"})
    expected = np.asarray(Image.fromarray(whole).resize((27, 19), Image.Resampling.BICUBIC))
    assert np.array_equal(np.asarray(found["image"]), expected)
    with pytest.raises(DataError, match="'area' is not available with backend 'cv2'; use bilinear"):
        apply({**step, "interpolation": "area"})


def test_two_scales_leave_the_ratio_without_effect() -> None:
    step = {"type": "RandomResize", "scale": [(60, 60), (80, 60)], "ratio_range": (3, 4)}
    for seed in range(8):
        width, height = apply(step, seed)["image"].size
        assert 60 <= width <= 80 and height == 60


@pytest.mark.parametrize("mode", ["edge", "reflect", "symmetric"])
def test_padding_that_repeats_the_image(mode: Any) -> None:
    found = apply({"type": "Pad", "size": (50, 20), "padding_mode": mode, "pad_val": {"masks": 1}})
    more = ((0, 0), (0, 10), (0, 0))  # the image is higher than `size` already
    assert np.array_equal(np.asarray(found["image"]), np.pad(pixels(), more, mode))
    assert np.array_equal(found["semantic"], np.pad(pixels()[..., 0], more[:2], mode))
    assert found["masks"][:, :, 40:].all() and not found["masks"][0, 25:, :40].any()


def test_pixels_below_zero_change_with_the_brightness_alone() -> None:
    """The original always goes through HSV, in which chroma is positive though the value is not."""
    image = pixels().astype(np.float32) / 8
    found = distort(image, Distortion(-30.0, False, None, None, None, None), limited=True)
    hsv = cv2.cvtColor(image - np.float32(30), cv2.COLOR_RGB2HSV)
    assert np.allclose(found, cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), atol=1e-3)


def test_hues_are_rounded_down_on_their_way_back() -> None:
    image = pixels(192, 150)
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV).astype(np.int64)
    hsv[..., 0] = (hsv[..., 0] + 7) % 180
    expected = cv2.cvtColor(hsv.astype(np.uint8), cv2.COLOR_HSV2RGB)
    assert (shift_hsv(image, 7, 0, 0) != expected).mean() < 0.02


def test_a_shift_is_less_than_its_most_to_the_right() -> None:
    class Ends:
        """A generator whose numbers are the largest."""

        def random(self) -> float:
            return 0.0

        def integers(self, low: int, high: int, count: int) -> Any:
            return np.full(count, high - 1)

    step = Compose([{"type": "RandomShift", "prob": 1.0, "max_shift_px": 4}])
    found = step(sample(masked=False), Ends())  # type: ignore[arg-type]
    assert (found["boxes"][0] - [2, 3, 12, 20]).tolist() == [3, 3, 3, 3]


def test_a_mean_of_images_is_rounded_down() -> None:
    step = {"type": "MixUp", "img_scale": (40, 30), "ratio_range": (0.71, 0.71), "pad_val": 114.0}
    other = sample(masked=False, seed=1)
    found = TRANSFORMS.build(step).mix(
        sample(masked=False), np.random.default_rng(0), lambda: dict(other)
    )
    mixed = np.asarray(found["image"])
    small = cv2.resize(pixels(seed=1).astype(np.float64), (28, 21))
    candidates = [small, small[:, ::-1]]
    means = [np.floor(0.5 * pixels()[:21, :28] + 0.5 * np.floor(each)) for each in candidates]
    assert min((mixed[:21, :28] != each).mean() for each in means) < 0.01
    assert np.array_equal(mixed[21:], (0.5 * pixels()[21:] + 57).astype(np.uint8))
