"""Images reach a published detector as its test pipeline makes them: padding and normalization."""

from typing import Any

import numpy as np
import pytest
import torch

from cupola.errors import ConfigError, InputError
from cupola.models.detr.preprocessor import DetDataPreprocessor
from cupola.registry import build
from cupola.runtime.predictors.detection import DetectionPredictor, make
from cupola.runtime.published import bundle_config
from cupola.structures import Detections

YOLOX: dict[str, Any] = {
    "type": "YOLOX",
    "backbone": {"type": "CSPDarknet", "deepen_factor": 0.33, "widen_factor": 0.125},
    "neck": {
        "type": "YOLOXPAFPN",
        "in_channels": [32, 64, 128],
        "out_channels": 32,
        "num_csp_blocks": 1,
    },
    "bbox_head": {"type": "YOLOXHead", "num_classes": 3, "in_channels": 32, "feat_channels": 32},
    "test_cfg": {"score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.65}},
}
SCALE = (96, 64)
GRAY = {"type": "Pad", "pad_to_square": True, "pad_val": {"img": (114.0, 114.0, 114.0)}}
CENTERED = {
    "type": "RandomCenterCropPad",
    "mean": [1, 2, 3],
    "std": [1, 1, 1],
    "to_rgb": True,
    "test_mode": True,
    "test_pad_mode": ["logical_or", 31],
    "test_pad_add_pix": 1,
}
NORMALIZE = {"type": "Normalize", "mean": [10, 20, 30], "std": [2, 2, 2], "to_rgb": True}


def version_3(*steps: dict[str, Any], **preprocessor: Any) -> dict[str, Any]:
    own = {"type": "DetDataPreprocessor", **preprocessor}
    return {
        "model": {**YOLOX, "data_preprocessor": own},
        "test_dataloader": {"dataset": {"pipeline": [{"type": "LoadImageFromFile"}, *steps]}},
    }


def version_2(*steps: dict[str, Any], **settings: Any) -> dict[str, Any]:
    settings = settings or {"img_scale": SCALE, "flip": False}
    augmented = {"type": "MultiScaleFlipAug", **settings, "transforms": list(steps)}
    return {"model": YOLOX, "data": {"test": {"pipeline": [augmented]}}}


class Seen:
    """A detector that keeps its batch and finds one box."""

    def __init__(self, preprocessor: Any) -> None:
        self.data_preprocessor, self.batch = preprocessor, {}

    def predict(self, batch: Any) -> list[Detections]:
        self.batch = batch
        box = torch.tensor([[10.0, 12.0, 20.0, 30.0]])
        return [Detections(box, torch.ones(1), torch.zeros(1).long()) for _ in batch["pixels"]]


def predictor(cfg: dict[str, Any]) -> DetectionPredictor:
    about = bundle_config(cfg, "toy")
    made = build(about["model"]["data_preprocessor"])
    assert isinstance(made, DetDataPreprocessor)
    return make("toy", "1", Seen(made), about, ())


def seen(cfg: dict[str, Any], image: np.ndarray[Any, Any]) -> tuple[dict[str, Any], Detections]:
    made = predictor(cfg)
    found = made(image, threshold=0.0)
    return made.model.batch, found


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (32, 48, 3), np.uint8)


RESIZE = {"type": "Resize", "scale": SCALE, "keep_ratio": True}


def test_yolox_gets_raw_values_in_bgr_and_gray_borders(image: np.ndarray[Any, Any]) -> None:
    batch, _ = seen(version_3(RESIZE, GRAY, pad_size_divisor=32), image)
    assert batch["pixels"].shape == (1, 3, 96, 96)
    assert (batch["pixels"][:, :, 64:] == 114).all()
    exact = {"type": "Resize", "scale": (48, 32)}
    batch, _ = seen(version_3(exact), image)
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1).float()
    assert torch.equal(batch["pixels"][0], bgr)
    assert batch["padding_mask"] is None


def test_yolox_of_2_x(image: np.ndarray[Any, Any]) -> None:
    batch, _ = seen(version_2({"type": "Resize", "keep_ratio": True}, GRAY), image)
    assert batch["pixels"].shape == (1, 3, 96, 96)
    assert (batch["pixels"][:, :, 64:] == 114).all()
    assert batch["pixels"].max() > 200 and batch["image_sizes"] == [(64, 96)]
    assert batch["padding_mask"][0, 64:].all() and not batch["padding_mask"][0, :64].any()


def test_padding_of_3_x_is_part_of_the_image(image: np.ndarray[Any, Any]) -> None:
    fixed = {"type": "Pad", "size": (128, 112), "pad_val": {"img": (1, 2, 3)}}
    mean = {"mean": [1.0, 2.0, 3.0], "std": [2.0, 2.0, 2.0]}
    batch, found = seen(version_3(RESIZE, fixed, **mean), image)
    assert batch["pixels"].shape == (1, 3, 112, 128) and batch["image_sizes"] == [(112, 128)]
    assert (batch["pixels"][:, :, 64:] == 0).all()  # both are BGR
    assert batch["scale_factors"] == [(2.0, 2.0)]
    assert not batch["padding_mask"].any()
    assert found.boxes.tolist() == [[10, 12, 20, 30]]
    inner = {"type": "Pad", "size_divisor": 40}
    batch, _ = seen(version_3(RESIZE, inner, pad_size_divisor=32, **mean), image)
    assert batch["pixels"].shape == (1, 3, 96, 128) and batch["image_sizes"] == [(80, 120)]
    black = torch.tensor([-0.5, -1.0, -1.5]).view(3, 1)
    assert torch.equal(batch["pixels"][0, :, 79, :120], black.expand(3, 120))
    assert not batch["pixels"][0, :, :, 120:].any() and not batch["pixels"][0, :, 80:].any()


def test_padding_of_2_x_comes_after_the_normalization(image: np.ndarray[Any, Any]) -> None:
    pad = {"type": "Pad", "size_divisor": 50}
    resize = {"type": "Resize", "keep_ratio": True}
    batch, _ = seen(version_2(resize, NORMALIZE, pad), image)
    assert batch["pixels"].shape == (1, 3, 100, 100) and batch["image_sizes"] == [(64, 96)]
    assert not batch["pixels"][:, :, 64:].any()
    batch, _ = seen(version_2(resize, {**pad, "pad_val": 30}, NORMALIZE), image)
    assert batch["pixels"][0, :, 99, 99].tolist() == [10, 5, 0]
    assert batch["image_sizes"] == [(64, 96)]


@pytest.mark.parametrize("spelling", [2, 3])
def test_centernet_sees_the_image_in_the_middle(spelling: int, image: np.ndarray[Any, Any]) -> None:
    """At its own size; boxes are those of the image."""
    mean = {"mean": [10.0, 20.0, 30.0], "std": [2.0, 2.0, 2.0], "bgr_to_rgb": True}
    steps = ({"type": "Resize", "keep_ratio": True}, CENTERED, NORMALIZE)
    old = version_2(*steps, scale_factor=1.0, flip=False)
    batch, found = seen(old if spelling == 2 else version_3(CENTERED, **mean), image)
    assert batch["pixels"].shape == (1, 3, 64, 64) and batch["scale_factors"] == [(1.0, 1.0)]
    top, left = 16, 8
    inside = batch["pixels"][0, :, top : top + 32, left : left + 48]
    rgb = torch.from_numpy(image.copy()).permute(2, 0, 1)
    expected = (rgb - torch.tensor([10.0, 20, 30]).view(3, 1, 1)) / 2
    assert torch.equal(inside, expected)
    assert batch["pixels"][0, :, 0, 0].tolist() == [-4.5, -9, -13.5]
    assert found.boxes.tolist() == [[2, -4, 12, 14]]


def test_resizing_by_a_factor_is_refused() -> None:
    with pytest.raises(ConfigError, match="scale_factor, which is not included; give Resize a"):
        bundle_config(version_3({"type": "Resize", "scale_factor": 0.5, "keep_ratio": True}), "x")
    with pytest.raises(ConfigError, match="scale_factor, which is not included"):
        nested = {"type": "Resize", "keep_ratio": True}
        bundle_config(version_2(nested, scale_factor=2.0, flip=False), "x")


def test_images_smaller_than_a_kernel_are_refused() -> None:
    made = predictor(version_3())
    pool = torch.nn.AvgPool2d(16)
    made.model.predict = lambda batch: pool(batch["pixels"])
    with pytest.raises(
        InputError, match="an image of 3 x 400 pixels, after resizing, is too small"
    ):
        made(np.zeros((3, 400, 3), np.uint8))
    made.model.predict = lambda batch: batch["pixels"] @ batch["pixels"][0, 0]
    with pytest.raises(RuntimeError, match=r"multiplied|match"):
        made(np.zeros((3, 400, 3), np.uint8))


def test_boxes_far_outside_are_drawn_at_once(image: np.ndarray[Any, Any]) -> None:
    """Pillow walked along their sides for minutes."""
    far = [[-1e9, 5.0, 1e9, 20.0], [3.0, -1e9, 9.0, float("inf")], [float("nan"), 1.0, 5.0, 5.0]]
    near = [[-50.0, 5.0, 90.0, 20.0], [3.0, -50.0, 9.0, 90.0], [0.0, 1.0, 5.0, 5.0]]
    drawn = [
        Detections(torch.tensor(boxes), torch.ones(3), torch.zeros(3).long()).draw(image)
        for boxes in (far, near)
    ]
    assert np.array_equal(*map(np.asarray, drawn))
