"""AutoAugment's transforms and Albu, against OpenCV and what MMDetection writes."""

import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from cupola.data.albumentation import Albu
from cupola.data.levels import chosen_magnitude
from cupola.data.pipeline import Compose
from cupola.data.policies import POLICIES, SPACE
from cupola.errors import DataError
from cupola.train.version2_pipeline import translated_pipeline

BOXES = [[2, 3, 12, 20], [20, 5, 38, 28], [0, 25, 6, 30]]
SIZE = (40, 30)
SHEAR = np.tan(np.radians(15))


def sample() -> dict[str, Any]:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    smooth = cv2.GaussianBlur(noise, (0, 0), 1.5)
    boxes = np.array(BOXES, np.float32)
    masks = np.zeros((3, 30, 40), bool)
    for mask, (left, top, right, bottom) in zip(masks, BOXES, strict=True):
        mask[top:bottom, left:right] = True
    found = {"boxes": boxes, "labels": np.array([3, 4, 5]), "masks": masks}
    found["semantic"] = smooth[..., 0] // 32
    found |= {"crowd": np.array([False, True, False]), "scale_factor": (1.0, 1.0)}
    return {**found, "image": Image.fromarray(smooth)}


def apply(step: dict[str, Any], seed: int = 0, given: dict[str, Any] | None = None) -> Any:
    found = Compose([step]).run(given or sample(), np.random.default_rng(seed))
    assert found is not None
    return found


def blended(plain: Any, factor: float) -> Any:
    pixels = np.asarray(sample()["image"])
    full = np.broadcast_to(plain, pixels.shape).astype(np.float32)
    return cv2.addWeighted(pixels.astype(np.float32), factor, full, 1 - factor, 0).clip(0, 255)


@pytest.mark.parametrize("level", [0, 3, 10])
def test_colors_are_those_of_opencv(level: int) -> None:
    """As mmcv computes them: a level at most where a product is rounded before it is cut off."""
    pixels = np.asarray(sample()["image"])
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    factor = round(level / 10 * 1.8 + 0.1, 1)
    bits = np.ceil(level / 10 * 4)
    expected = {
        "Color": np.rint(blended(gray[..., None], factor)),
        "Brightness": blended(0, factor),
        "Contrast": blended(round(gray.mean()), factor),
        "Sharpness": blended(cv2.filter2D(pixels, -1, kernel), factor),
        "Solarize": np.where(pixels < level * 25.6, pixels, 255 - pixels),
        "SolarizeAdd": np.where(pixels < 128, np.minimum(pixels + 11.0 * level, 255), pixels),
        "Posterize": pixels // 2 ** (8 - bits) * 2 ** (8 - bits),
        "Invert": 255 - pixels,
        "ColorTransform": pixels,
    }
    for kind, each in expected.items():
        found = apply({"type": kind, "level": level})
        assert np.abs(np.asarray(found["image"]) - each.astype(np.uint8).astype(int)).max() <= 1, (
            kind
        )
        assert np.array_equal(found["masks"], sample()["masks"])
        assert apply({"type": kind, "prob": 0.0})["image"] == sample()["image"]


def test_histograms_are_spread() -> None:
    """As by Pillow, from which mmcv has the formulas."""
    image = sample()["image"]
    assert apply({"type": "AutoContrast"})["image"] == ImageOps.autocontrast(image)
    assert apply({"type": "Equalize"})["image"] == ImageOps.equalize(image)
    plain = {**sample(), "image": Image.new("RGB", SIZE, (9, 9, 9))}
    for kind in ("Equalize", "AutoContrast"):
        assert apply({"type": kind}, given=plain)["image"] == plain["image"]


@pytest.mark.parametrize(
    ("step", "matrix"),
    [
        ({"type": "ShearX", "level": 5}, [[1, SHEAR, 0], [0, 1, 0]]),
        ({"type": "ShearY", "level": 5, "reversal_prob": 0.0}, [[1, 0, 0], [-SHEAR, 1, 0]]),
        ({"type": "TranslateX", "level": 8}, [[1, 0, 4], [0, 1, 0]]),
        ({"type": "TranslateY", "level": 10, "reversal_prob": 0.0}, [[1, 0, 0], [0, 1, -3]]),
        ({"type": "Rotate", "level": 6}, cv2.getRotationMatrix2D((19.5, 14.5), -18, 1)),
    ],
)  # fmt: skip
def test_geometry_is_that_of_opencv(step: dict[str, Any], matrix: Any) -> None:
    matrix, given = np.array(matrix, np.float64), sample()
    found = apply({"reversal_prob": 1.0, "img_border_value": (10, 20, 30), **step}, given=given)
    pixels = np.asarray(given["image"])
    expected = cv2.warpAffine(pixels, matrix, SIZE, borderValue=(30, 20, 10))  # BGR in the config
    difference = np.abs(np.asarray(found["image"]).astype(int) - expected)
    assert difference.max() <= 3 and difference.mean() < 0.3  # OpenCV may sample at 1/32 pixel
    for mask, old in zip(found["masks"], given["masks"], strict=True):
        moved = cv2.warpAffine(old.astype(np.uint8), matrix, SIZE) > 0
        assert (mask != moved).sum() <= 4
    corners = np.array(BOXES)[:, [[0, 1], [2, 1], [0, 3], [2, 3]]] @ matrix[:, :2].T + matrix[:, 2]
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1).clip(0, [*SIZE, *SIZE])
    assert np.allclose(found["boxes"], boxes, atol=1e-4)
    nearest = cv2.warpAffine(
        given["semantic"], matrix, SIZE, flags=cv2.INTER_NEAREST, borderValue=255
    )
    assert found["semantic"].dtype == np.uint8 and (found["semantic"] != nearest).mean() < 0.01


def test_levels_are_drawn_as_in_the_original() -> None:
    """One number against prob, one for the level, one for the sign."""
    assert chosen_magnitude(None, (0.1, 1.9), np.random.default_rng(1)) == 1.0  # 0.5118 * 1.8 + 0.1
    assert chosen_magnitude(3, (0.1, 1.9), np.random.default_rng(1)) == 0.6
    for seed in range(5):
        numbers = np.random.default_rng(seed).random(3)
        found = apply({"type": "TranslateX", "prob": 0.6, "max_mag": 1.0}, seed)["boxes"]
        if numbers[0] > 0.6:
            assert found.tolist() == BOXES
        else:
            offset = int(40 * round(numbers[1], 1) * (-1 if numbers[2] > 0.5 else 1))
            moved = (np.array(BOXES) + np.array([offset, 0, offset, 0])).clip(0, [*SIZE, *SIZE])
            assert found.tolist() == moved.tolist()


def test_the_transforms_of_2x_have_their_own_levels() -> None:
    certain = {"prob": 1.0, "random_negative_prob": 0.0}
    steps = [
        {"type": "Translate", "level": 0.2, "min_size": 4, **certain, "random_negative_prob": 1.0},
        {"type": "Shear", "level": 5, "direction": "vertical", **certain},
        {"type": "Rotate", "level": 10, "center": 0, "scale": 2, **certain},
        {"type": "BrightnessTransform", "level": 3, "prob": 1.0},
        {"type": "EqualizeTransform"},
        {"type": "AutoAugment", "policies": [[{"type": "ColorTransform", "level": 6}]]},
    ]  # fmt: skip
    translated = translated_pipeline(steps)
    moved = apply(translated[0])
    assert moved["boxes"].tolist() == [[0, 3, 7, 20], [15, 5, 33, 28]]  # 5 pixels; one is too small
    assert moved["masks"].shape == (2, 30, 40) and moved["labels"].tolist() == [3, 4]
    assert apply(translated[1])["boxes"][0] == pytest.approx([2, 3.3, 12, 21.8], abs=1e-3)
    cos, sin = np.sqrt(3), 1  # of 30 degrees, twice
    turned = [0, cos * 3 + sin * 2, cos * 12 - sin * 3, 30]  # of the first box, in the image
    assert apply(translated[2])["boxes"][0] == pytest.approx(turned, abs=1e-3)
    assert translated[3] == {"type": "Brightness", "prob": 1.0, "magnitude": 0.3 * 1.8 + 0.1}
    assert translated[4]["type"] == "Equalize" and translated[4]["prob"] == 0.5
    assert translated[5]["transforms"][0][0]["type"] == "Color"


def test_policies() -> None:
    assert len(POLICIES) == 25 and len(SPACE) == 15
    for kind in ("AutoAugment", "RandAugment"):
        found = [np.asarray(apply({"type": kind}, seed)["image"]) for seed in range(12)]
        assert sum((each != np.asarray(sample()["image"])).any() for each in found) > 6
    chain: Any = [[{"type": "Invert"}], [{"type": "Solarize", "level": 0}]]  # both invert
    both = apply({"type": "RandAugment", "aug_space": chain, "aug_num": 2})
    assert both["image"] == sample()["image"]
    ordered = {
        "type": "RandomOrder",
        "transforms": [{"type": "TranslateX", "level": 9}, {"type": "Invert"}],
    }
    firsts = {np.asarray(apply(ordered, seed)["image"])[15, 0, 0] for seed in range(20)}
    assert {127, 128} <= firsts | {
        int(255 - each) for each in firsts
    }  # the border, inverted or not


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "Color", "level": 11}, r"Color: level is 11; expected a whole number of 0\.\.10"),
        ({"type": "Color", "prob": 2}, r"Color: prob is 2; expected 0\.\.1"),
        ({"type": "Contrast", "max_mag": 3.0}, r"Contrast: expected 0 <= min_mag <= max_mag <= 2"),
        ({"type": "ShearX", "min_mag": 40.0}, r"ShearX: expected 0 <= min_mag <= max_mag <= 90"),
        ({"type": "ShearX", "interpolation": "area"}, "interpolation 'area' is not available"),
        ({"type": "Rotate", "mask_border_value": 1}, "Rotate: mask_border_value is not available"),
        ({"type": "Shear", "level": 1, "direction": "up"}, "direction is 'up'; use horizontal"),
        ({"type": "AutoAugment", "policies": [[]]}, "AutoAugment: policies is a list of lists"),
        ({"type": "RandAugment", "aug_space": [{"type": "Color"}]}, "lists of one transform"),
        ({"type": "RandAugment", "aug_num": 16}, r"aug_num is 16; expected 1\.\.15"),
    ],
)  # fmt: skip
def test_errors_of_levels(step: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        apply(step)
    floats = {**sample(), "image": np.zeros((30, 40, 3), np.float32)}
    with pytest.raises(DataError, match="Color: takes pixels of 8 bits"):
        apply({"type": "Color"}, given=floats)


PARAMS = {"type": "BboxParams", "format": "pascal_voc", "label_fields": ["gt_bboxes_labels"],
          "filter_lost_elements": True}  # fmt: skip


class _Transform:
    def __init__(self, **options: Any) -> None:
        if "wrong" in options:
            raise TypeError("wrong is not an argument")
        self.options = options


class _Compose(_Transform):
    """Loses the second box, mirrors the image and gives what it was called with."""

    def __init__(self, steps: Any, bbox_params: Any = None) -> None:
        self.steps, self.params = steps, bbox_params

    def __call__(self, **given: Any) -> Any:
        self.given, self.drawn = given, np.random.random()
        names = self.params.options["label_fields"] if self.params else []
        kept = [0, 2] if "idx_mapper" in names else [0, 1, 2]
        moved = {key: value[:, ::-1] for key, value in given.items() if key in ("image", "mask")}
        if "masks" in given:
            moved["masks"] = [each[:, ::-1] for each in given["masks"]]
        if "bboxes" in given:
            moved["bboxes"] = [tuple(given["bboxes"][i]) for i in kept]
            moved["idx_mapper"] = [given["idx_mapper"][i] for i in kept]
        return {**given, **moved}


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Albumentations' names, for what Albu gives to it and takes from it."""
    made = SimpleNamespace(
        BasicTransform=_Transform, BaseCompose=_Compose, BboxParams=type("B", (_Transform,), {}),
        Blur=type("Blur", (_Transform,), {}), OneOf=type("OneOf", (_Transform,), {}),
        Compose=_Compose, __version__="0", os=sys,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "albumentations", made)
    return made


def test_what_albumentations_gets_and_gives(package: Any) -> None:
    inner = {"type": "OneOf", "transforms": [{"type": "Blur", "p": 1.0}]}
    step = Albu([inner], PARAMS, {"img": "image", "gt_masks": "masks", "gt_bboxes": "bboxes",
                                  "gt_seg_map": "mask"}, update_pad_shape=True)  # fmt: skip
    assert isinstance(step.augment.steps[0].options["transforms"][0], package.Blur)
    assert step.augment.params.options["label_fields"] == ["idx_mapper"]
    assert "filter_lost_elements" not in step.augment.params.options
    given, before = sample(), np.random.get_state()[1].tolist()
    found = step(given, np.random.default_rng(3))
    assert found is not None and np.random.get_state()[1].tolist() == before
    np.random.seed(int(np.random.default_rng(3).integers(2**32)))
    assert step.augment.drawn == np.random.random()
    pixels = np.asarray(given["image"])
    assert np.array_equal(step.augment.given["image"], pixels[..., ::-1])  # BGR
    assert step.augment.given["gt_ignore_flags"].tolist() == [False, True, False]
    assert np.array_equal(np.asarray(found["image"]), pixels[:, ::-1])
    assert np.array_equal(found["masks"], given["masks"][[0, 2], :, ::-1])
    assert np.array_equal(found["semantic"], given["semantic"][:, ::-1])
    assert found["labels"].tolist() == [3, 5] and found["boxes"].tolist() == [BOXES[0], BOXES[2]]
    colors = Albu([], keymap={"img": "image", "gt_seg_map": "mask"})
    found = colors(given, np.random.default_rng(0))
    assert found is not None and found["boxes"].tolist() == BOXES


def test_errors_of_albu(package: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for steps, message in (
        ([{"type": "os"}], "albumentations 0 has no transform 'os'"),
        ([{"type": "Blurr"}], "has no transform 'Blurr'.*Blur"),
        ([{"type": "HistogramMatching"}], "HistogramMatching reads files"),
        ([{"type": "Blur", "wrong": 1}], "Albu: Blur: wrong is not an argument"),
    ):
        with pytest.raises(DataError, match=message):
            Albu(steps, PARAMS)
    with pytest.raises(DataError, match="Albu: needs bbox_params, such as"):
        Albu([])
    with pytest.raises(DataError, match="the keymap has no 'img'"):
        Albu([], PARAMS, {"gt_bboxes": "bboxes"})
    with pytest.raises(DataError, match="add 'gt_seg_map': 'mask' to it"):
        Albu([], PARAMS)(sample(), np.random.default_rng(0))
    monkeypatch.setattr(
        _Compose, "__call__", lambda self, **given: {**given, "bboxes": [], "idx_mapper": []}
    )
    bare = {key: value for key, value in sample().items() if key != "semantic"}
    unfiltered = Albu([], {"type": "BboxParams", "format": "pascal_voc"})
    with pytest.raises(DataError, match="set filter_lost_elements=True"):
        unfiltered(bare, np.random.default_rng(0))
    assert Albu([], PARAMS, skip_img_without_anno=True)(bare, np.random.default_rng(0)) is None
    empty = Albu([], PARAMS)(bare, np.random.default_rng(0))
    assert empty is not None and empty["masks"].shape == (0, 30, 40)
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(DataError, match=r'pip install "cupola\[albumentations\]"'):
        Albu([], PARAMS)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_albu_with_albumentations() -> None:
    albumentations = pytest.importorskip("albumentations")
    shift = {"shift_limit": 0.2, "scale_limit": 0.2, "rotate_limit": 20, "p": 1.0}
    blur = {"type": "OneOf", "transforms": [{"type": "MedianBlur", "blur_limit": 3, "p": 1.0}]}
    step = Albu([{"type": "ShiftScaleRotate", **shift}, {**blur, "p": 0.5}], PARAMS)
    bare = {key: value for key, value in sample().items() if key != "semantic"}
    first, again = (step(bare, np.random.default_rng(5)) for _ in range(2))
    assert first is not None and again is not None
    assert first["image"] == again["image"] and first["image"] != bare["image"]
    assert len(first["boxes"]) == len(first["masks"]) == len(first["labels"])
    for box, mask in zip(first["boxes"], first["masks"], strict=True):
        rows, columns = np.nonzero(mask)
        assert (
            abs(columns.mean() - box[[0, 2]].mean()) < 3
            and abs(rows.mean() - box[[1, 3]].mean()) < 3
        )
    assert albumentations.__version__
