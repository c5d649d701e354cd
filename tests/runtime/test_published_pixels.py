"""The tensor that enters a network, for each kind of published test pipeline, by its own formula.

Prediction, `cupola evaluate` and the validation of a training read the same pixels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from cupola.cli.evaluate import evaluate_as_trained
from cupola.files.opencv import resize_linear
from cupola.registry import build
from cupola.runtime.predictors.detection import DetectionPredictor, make
from cupola.runtime.published import bundle_config
from cupola.structures import Detections
from cupola.train.evaluation import build_metric, evaluate
from cupola.train.loading import evaluation_loader
from cupola.train.pixels import with_pixels
from cupola.train.version2 import to_version_3

Pixels = NDArray[Any]
LOAD = {"type": "LoadImageFromFile"}
PACK = {"type": "PackDetInputs"}
MEAN, STD = [10.0, 20.0, 30.0], [2.0, 4.0, 8.0]
HEIGHT, WIDTH = 37, 53
BOX = [10.0, 12.0, 20.0, 30.0]


def resize(**options: Any) -> dict[str, Any]:
    return {"type": "Resize", "scale": (96, 64), "keep_ratio": True, **options}


def pad(color: Any = 0, **options: Any) -> dict[str, Any]:
    return {"type": "Pad", "pad_val": {"img": color}, **options}


def centered(**options: Any) -> dict[str, Any]:
    about = {"test_mode": True, "test_pad_mode": ["logical_or", 31], "test_pad_add_pix": 1}
    rest = {"crop_size": None, "ratios": None, "border": None, "to_rgb": True}
    return {"type": "RandomCenterCropPad", "mean": [1, 2, 3], "std": [1, 1, 1], **about, **rest}


def version_3(*steps: dict[str, Any], load: Any = LOAD, **preprocessor: Any) -> dict[str, Any]:
    own = {"type": "DetDataPreprocessor", **preprocessor}
    loader = {"dataset": {"type": "CocoDataset", "pipeline": [load, *steps, PACK]}}
    return {
        "model": {"type": "YOLOX", "data_preprocessor": own, "bbox_head": {}},
        "test_dataloader": loader,
        "test_evaluator": {"type": "CocoMetric", "metric": "bbox"},
    }


def version_2(*steps: dict[str, Any], load: Any = LOAD, **settings: Any) -> dict[str, Any]:
    settings = settings or {"img_scale": (96, 64)}
    inner = [{"type": "RandomFlip"}, *steps, {"type": "ImageToTensor", "keys": ["img"]}]
    augmented = {"type": "MultiScaleFlipAug", **settings, "flip": False, "transforms": inner}
    test = {"type": "CocoDataset", "pipeline": [load, augmented]}
    data = {"train": {**test, "pipeline": [load, *steps]}, "test": test}
    return {"model": {"type": "YOLOX", "bbox_head": {}}, "data": data, "evaluation": {}}


def normalize(to_rgb: bool = True) -> dict[str, Any]:
    return {"type": "Normalize", "mean": MEAN, "std": STD, "to_rgb": to_rgb}


# The originals, written out. Images are BGR, [H, W, 3].


def scaled(bgr: Pixels, scale: tuple[int, int], half: float = 0.5) -> Pixels:
    """mmcv.imrescale."""
    h, w = bgr.shape[:2]
    factor = min(max(scale) / max(h, w), min(scale) / min(h, w))
    return resize_linear(bgr, (int(h * factor + half), int(w * factor + half)))


def by_pillow(bgr: Pixels, size: tuple[int, int]) -> Pixels:
    return np.asarray(Image.fromarray(bgr).resize(size[::-1], Image.Resampling.BILINEAR))


def padded(image: Pixels, size: tuple[int, int], value: Any = 0) -> Pixels:
    """mmcv.impad."""
    canvas = np.empty((*size, 3), image.dtype)
    canvas[:] = value
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas


def multiple(image: Pixels, divisor: int, value: Any = 0) -> Pixels:
    height, width = (int(np.ceil(side / divisor)) * divisor for side in image.shape[:2])
    return padded(image, (height, width), value)


def normalized(bgr: Pixels, rgb: bool) -> Pixels:
    pixels = bgr[..., ::-1] if rgb else bgr
    return ((pixels.astype(np.float32) - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)


def raw(bgr: Pixels) -> Pixels:
    return bgr.astype(np.float32)


def in_the_middle(bgr: Pixels) -> Pixels:
    """RandomCenterCropPad._test_aug: its mean is reversed for images in BGR."""
    h, w = bgr.shape[:2]
    height, width = (h | 31) + 1, (w | 31) + 1
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = [3, 2, 1]
    top, left = height // 2 - h // 2, width // 2 - w // 2
    canvas[top : top + h, left : left + w] = bgr
    return canvas


RGB = {"mean": MEAN, "std": STD, "bgr_to_rgb": True}
BGR = {"mean": MEAN, "std": STD, "bgr_to_rgb": False}
FLOATS = {**LOAD, "to_float32": True}
FIX = {"type": "FixScaleResize", "scale": (64, 96), "keep_ratio": True}
GRAY = (114.0, 114.0, 114.0)
S = (96, 64)
KINDS: dict[str, tuple[dict[str, Any], Any]] = {
    "3.x": (
        version_3(resize(), **RGB, pad_size_divisor=32),
        lambda x: multiple(normalized(scaled(x, S), True), 32),
    ),
    "3.x, caffe": (
        version_3(resize(), **BGR, pad_size_divisor=128, pad_mask=True),
        lambda x: multiple(normalized(scaled(x, S), False), 128),
    ),
    "3.x, one number": (
        version_3(resize(scale=64), **RGB),
        lambda x: normalized(scaled(x, (64, 64)), True),
    ),
    "SSD": (
        version_3(resize(scale=(50, 40), keep_ratio=False), **RGB, pad_size_divisor=1),
        lambda x: normalized(resize_linear(x, (40, 50)), True),
    ),
    "YOLOX": (
        version_3(resize(), pad(GRAY, pad_to_square=True), pad_size_divisor=32),
        lambda x: multiple(raw(padded(scaled(x, S), (92, 92), 114)), 32),
    ),
    "YOLOX of pedestrians": (
        version_3(resize(), pad((114, 115, 116), size_divisor=40), pad_size_divisor=32),
        lambda x: multiple(raw(multiple(scaled(x, S), 40, (114, 115, 116))), 32),
    ),
    "RTMDet": (
        version_3(resize(), pad((114, 0, 4), size=(128, 112)), **BGR),
        lambda x: normalized(padded(scaled(x, S), (112, 128), (114, 0, 4)), False),
    ),
    "CenterNet": (version_3(centered(), load=FLOATS, **RGB),
                  lambda x: normalized(in_the_middle(x), True)),
    "Mask2Former": (
        version_3(resize(), load=FLOATS, **RGB, pad_size_divisor=32),
        lambda x: multiple(normalized(scaled(raw(x), S), True), 32),
    ),
    "GLIP": (
        version_3({**FIX, "backend": "pillow"}, load={**LOAD, "imdecode_backend": "pillow"}, **BGR),
        lambda x: normalized(by_pillow(x, (64, int(WIDTH * 64 / HEIGHT))), False),
    ),
    "Grounding DINO": (version_3(FIX, **RGB), lambda x: normalized(scaled(x, S, 0), True)),
    "2.x": (
        version_2({"type": "Resize", "keep_ratio": True}, normalize(), pad(size_divisor=32)),
        lambda x: multiple(normalized(scaled(x, S), True), 32),
    ),
    "2.x, caffe by pillow": (
        version_2(
            {"type": "Resize", "keep_ratio": True, "backend": "pillow"},
            normalize(False),
            pad(size_divisor=32),
        ),
        lambda x: multiple(normalized(by_pillow(x, (64, 92)), False), 32),
    ),
    "2.x, SSD": (
        version_2({"type": "Resize", "keep_ratio": False}, normalize(), pad(size_divisor=40)),
        lambda x: multiple(normalized(resize_linear(x, (64, 96)), True), 40),
    ),
    "2.x, EfficientNet": (
        version_2({"type": "Resize", "keep_ratio": True}, normalize(), pad(size=(112, 128))),
        lambda x: padded(normalized(scaled(x, S), True), (112, 128)),
    ),
    "2.x, Mask2Former": (
        version_2({"type": "Resize", "keep_ratio": True},
                  pad((128, 127, 126), size_divisor=32), normalize()),
        lambda x: normalized(multiple(scaled(x, S), 32, (128, 127, 126)), True),
    ),
    "2.x, YOLOX": (
        version_2({"type": "Resize", "keep_ratio": True}, pad(GRAY, pad_to_square=True)),
        lambda x: raw(padded(scaled(x, S), (92, 92), 114)),
    ),
    "2.x, CenterNet": (
        version_2({"type": "Resize", "keep_ratio": True}, centered(), normalize(),
                  scale_factor=1.0, load=FLOATS),
        lambda x: normalized(in_the_middle(x), True),
    ),
}  # fmt: skip


class Seen:
    """A detector that keeps its batches and finds one box."""

    needs_proposals = False
    training = False

    def __init__(self, preprocessor: Any) -> None:
        self.data_preprocessor = build(preprocessor)
        self.batches: list[dict[str, Any]] = []

    def predict(self, batch: Any) -> list[Detections]:
        self.batches.append(batch)
        # the object's box, wherever the image lies
        shape, size = batch["pixels"].shape[2:], (HEIGHT, WIDTH)
        inside = batch["scale_factors"] == [(1.0, 1.0)]
        top, left = ((n // 2 - o // 2) * inside for n, o in zip(shape, size, strict=True))
        box = torch.tensor([BOX]) + torch.tensor([left, top, left, top])
        return [Detections(box, torch.ones(1), torch.zeros(1).long()) for _ in batch["pixels"]]

    def eval(self) -> None:
        """As torch's."""

    def train(self, mode: bool) -> None:
        """As torch's."""


def predictor(cfg: dict[str, Any]) -> DetectionPredictor:
    about = bundle_config(cfg, "toy")
    return make("toy", "1", Seen(about["model"]["data_preprocessor"]), about, ("thing",))


@pytest.fixture(scope="module")
def image() -> Pixels:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(image: Pixels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("coco")
    (folder / "images").mkdir()
    Image.fromarray(image).save(folder / "images/1.png")
    about = {"id": 1, "file_name": "1.png", "height": HEIGHT, "width": WIDTH}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [10, 12, 10, 18], "area": 180}
    names = [{"id": 1, "name": "thing"}]
    content = {"images": [about], "annotations": [{**box, "iscrowd": 0}], "categories": names}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder


def in_folder(cfg: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The config with its test data in a folder."""
    if "data" in cfg:
        data = {key: {**each, "data_root": str(folder), "ann_file": "instances.json"}
                for key, each in cfg["data"].items()}  # fmt: skip
        return {**cfg, "data": data}
    loader = cfg["test_dataloader"]
    dataset = {**loader["dataset"], "data_root": str(folder), "ann_file": "instances.json"}
    return {**cfg, "test_dataloader": {**loader, "dataset": dataset}}


@pytest.mark.parametrize("kind", KINDS)
def test_the_tensor_is_that_of_the_original(kind: str, image: Pixels, folder: Path) -> None:
    cfg, original = KINDS[kind]
    expected = torch.from_numpy(original(image[..., ::-1]).transpose(2, 0, 1).copy())[None]
    made = predictor(cfg)
    found = made(image, threshold=0.0)
    measured = evaluate_as_trained(made, in_folder(cfg, folder))
    predicted, evaluated = made.model.batches
    torch.testing.assert_close(predicted["pixels"], expected, rtol=1e-6, atol=1e-6)
    assert torch.equal(evaluated["pixels"], predicted["pixels"])
    cfg = with_pixels(to_version_3(in_folder(cfg, folder)))
    batches = evaluation_loader(cfg["test_dataloader"])
    torch.testing.assert_close(next(iter(batches))["pixels"], expected, rtol=1e-6, atol=1e-6)
    metric = build_metric(cfg["test_evaluator"])
    validated = evaluate(made.model, batches, metric, torch.device("cpu"))
    assert measured["AP"] == validated["AP"] == pytest.approx(1)
    torch.testing.assert_close(found.boxes, torch.tensor([BOX]), rtol=1e-5, atol=1e-4)
