"""Test-time augmentation as published configs declare it, against its rules written out."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

from cupola.cli.main import app
from cupola.errors import InputError
from cupola.registry import build
from cupola.runtime.predictors.augmented import AugmentedPredictor, augmented
from cupola.runtime.predictors.detection import DetectionPredictor, make
from cupola.runtime.published import bundle_config
from cupola.structures.boxes import pairwise_iou

MODEL: dict[str, Any] = {
    "type": "FCOS",
    "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [9.0] * 3, "std": [50.0] * 3},
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2]},
    "neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2},
    "bbox_head": {
        "type": "FCOSHead",
        "num_classes": 3,
        "in_channels": 8,
        "feat_channels": 8,
        "stacked_convs": 1,
        "strides": [8, 16],
        "regress_ranges": ((-1, 32), (32, 1e8)),
        "norm_cfg": None,
    },
    "test_cfg": {
        "score_thr": 0.0,
        "nms_pre": 40,
        "nms": {"type": "nms", "iou_threshold": 0.6},
        "max_per_img": 9,
    },
}
SCALES = [(96, 64), (144, 96)]
TTA = {"type": "DetTTAModel", "tta_cfg": {"nms": {"type": "nms", "iou_threshold": 0.4}}}
FLIPS = [{"type": "RandomFlip", "prob": 1.0}, {"type": "RandomFlip", "prob": 0.0}]
HEIGHT, WIDTH = 60, 90


def version_3(*groups: list[dict[str, Any]], **tta_cfg: Any) -> dict[str, Any]:
    model = {**TTA, "tta_cfg": {**TTA["tta_cfg"], **tta_cfg}}  # type: ignore[dict-item]
    steps = [{"type": "LoadImageFromFile"}, {"type": "TestTimeAug", "transforms": list(groups)}]
    return {"model": MODEL, "tta_model": model, "tta_pipeline": steps}


def resizes() -> list[dict[str, Any]]:
    return [{"type": "Resize", "scale": scale, "keep_ratio": True} for scale in SCALES]


def version_2(**settings: Any) -> dict[str, Any]:
    resize = {"type": "Resize", "keep_ratio": True}
    steps = [{"type": "MultiScaleFlipAug", **settings, "transforms": [resize]}]
    return {"model": MODEL, "data": {"test": {"pipeline": steps}}}


@pytest.fixture(scope="module")
def model() -> Any:
    torch.manual_seed(0)
    made = build(MODEL).eval()
    for name, value in made.named_parameters():
        if name.startswith("bbox_head") and value.dim() > 1:
            torch.nn.init.normal_(value, std=0.3)
    return made


@pytest.fixture(scope="module")
def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)


def predictor(cfg: dict[str, Any], model: Any) -> DetectionPredictor:
    return make("toy", "1", model, bundle_config(cfg, "toy"), ("a", "b", "c"))


def of_one_view(
    image: np.ndarray[Any, Any], model: Any, scale: tuple[int, int], flipped: bool
) -> tuple[Tensor, ...]:
    """What the model finds in one view: boxes in pixels of the image, scores, labels."""
    resize = {"short": min(scale), "long": max(scale), "resample": "opencv"}
    made = make("one", "1", model, {"preprocess": {"resize": resize}}, ())
    sample = made.sample(image)
    sample = type(sample)(sample.pixels.flip(2) if flipped else sample.pixels, sample.original)
    found = made.run([sample])[0]
    boxes = found.boxes.clone()
    if flipped:
        boxes[:, 0], boxes[:, 2] = WIDTH - found.boxes[:, 2], WIDTH - found.boxes[:, 0]
    return boxes, found.scores, found.labels


def merged(views: list[tuple[Tensor, ...]], threshold: float, most: int) -> list[list[float]]:
    """Rows (label, score, box): a box stays unless a better one of its class covers it."""
    boxes, scores, labels = (torch.cat(parts) for parts in zip(*views, strict=True))
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        rivals = [j for j in kept if labels[j] == labels[i]]
        if not rivals or pairwise_iou(boxes[[i]], boxes[rivals]).max() <= threshold:
            kept.append(i)
    return [[labels[i].item(), scores[i].item(), *boxes[i].tolist()] for i in kept[:most]]


def rows(found: Any) -> list[list[float]]:
    columns = (found.labels[:, None].float(), found.scores[:, None], found.boxes)
    listed: list[list[float]] = torch.cat(columns, 1).tolist()
    return listed


def test_views_of_3_x_are_merged_by_their_own_nms(image: np.ndarray[Any, Any], model: Any) -> None:
    made = predictor(version_3(resizes(), FLIPS, max_per_img=12), model)
    views = [of_one_view(image, model, scale, flip) for scale in SCALES for flip in (True, False)]
    expected = merged(views, 0.4, 12)
    found = augmented(made)(image, threshold=0.0)
    assert 9 < len(expected) <= 12 and found.names == ("a", "b", "c")
    np.testing.assert_allclose(rows(found), expected, rtol=1e-4, atol=1e-3)


def test_several_images_of_several_sizes(image: np.ndarray[Any, Any], model: Any) -> None:
    made: Any = augmented(predictor(version_3(resizes(), FLIPS), model))
    several = [image, image[:, ::-1], image[:50]]
    for each, found in zip(several, made(several, threshold=0.0), strict=True):
        np.testing.assert_allclose(rows(found), rows(made(each, threshold=0.0)), 1e-4, 1e-3)
    mirrored, straight = (made(each, threshold=0.0) for each in (image[:, ::-1], image))
    torch.testing.assert_close(mirrored.scores, straight.scores, rtol=1e-4, atol=1e-4)


def test_candidates_of_2_x_have_one_nms(image: np.ndarray[Any, Any], model: Any) -> None:
    made = predictor(version_2(img_scale=SCALES, flip=True), model)
    head, own = model.bbox_head, model.bbox_head.test_cfg
    head.test_cfg = {"score_thr": 0.0, "nms_pre": 40}
    head.test_cfg |= {"nms": {"type": "nms", "iou_threshold": 1.0}, "max_per_img": -1}
    try:
        views = [of_one_view(image, model, s, flip) for s in SCALES for flip in (False, True)]
    finally:
        head.test_cfg = own
    found = augmented(made)(image, threshold=0.0)
    np.testing.assert_allclose(rows(found), merged(views, 0.6, 9), rtol=1e-4, atol=1e-3)
    assert head.test_cfg is own


@torch.no_grad()
def test_centernet_of_2_x_averages_pairs(image: np.ndarray[Any, Any]) -> None:
    neck = {"type": "FPN", "in_channels": [16], "out_channels": 8, "num_outs": 1}
    head = {"type": "CenterNetHead", "num_classes": 3, "in_channels": 8, "feat_channels": 8}
    backbone = {**MODEL["backbone"], "out_indices": [1]}
    kept = {"type": "CenterNet", "data_preprocessor": MODEL["data_preprocessor"], "neck": neck,
            "backbone": backbone, "bbox_head": head, "test_cfg": {"topk": 5}}  # fmt: skip
    torch.manual_seed(0)
    centers = build(kept).eval()
    cfg = {**version_2(img_scale=SCALES, flip=True, flip_direction="vertical"), "model": kept}
    about = bundle_config(cfg, "toy")
    padding = {"logical_or": 31, "more": 0, "centered": True, "value": [9.0] * 3}
    for view in about["tta"]["views"]:  # what a RandomCenterCropPad before the flip asks for
        view["padding"] = {**padding, "mirrored": view["flip"]}
    made = make("toy", "1", centers, about, ("a", "b", "c"))
    found = augmented(made)(image, threshold=0.0)
    boxes, scores = [], []
    for width, height in SCALES:
        one = make("one", "1", centers, {"preprocess": {"resize": {"short": height, "long": width,
                   "resample": "opencv"}}}, ())  # fmt: skip
        pixels = one.sample(image).pixels
        tall, wide = (side | 31 for side in (height, width))
        top, left = tall // 2 - height // 2, wide // 2 - width // 2
        framed = torch.zeros(3, tall, wide)
        framed[:, top : top + height, left : left + width] = pixels
        output = centers(torch.stack((framed, framed.flip(1))))
        maps = [(each[0][:1] + each[0][1:].flip(2)) / 2 for each in output[:2]]
        averaged = output._replace(
            heatmaps=(maps[0],), sizes=(maps[1],), offsets=(output.offsets[0][:1],)
        )
        (each,) = centers.bbox_head.predict(averaged, [(tall, wide)], [None])
        boxes.append((each.boxes - torch.tensor([left, top] * 2)) / (width / WIDTH))
        scores.append(each.scores)
    order = torch.cat(scores).argsort(descending=True)
    assert len(found) == 10
    torch.testing.assert_close(found.scores, torch.cat(scores)[order], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.boxes, torch.cat(boxes)[order], rtol=1e-3, atol=1e-2)
    about["tta"]["views"] = about["tta"]["views"][::-1]
    with pytest.raises(InputError, match="averages pairs of an image and its flipped one; got the"):
        augmented(make("toy", "1", centers, about, ()))


@pytest.mark.parametrize("flip", ["vertical", "diagonal"])
def test_other_flips(flip: str, image: np.ndarray[Any, Any], model: Any) -> None:
    """An image that is flipped beforehand gives the boxes of the image."""
    turned = {"vertical": image[::-1], "diagonal": image[::-1, ::-1]}[flip]
    flips = [{"type": "RandomFlip", "prob": 1, "direction": flip}]
    made: Any = augmented(predictor(version_3(resizes()[:1], flips), model))
    found, plain = made(turned, threshold=0.0), of_one_view(image, model, SCALES[0], False)
    expected = np.asarray(merged([plain], 0.4, 100))
    left, top, right, bottom = expected[:, 2:].T
    if flip == "diagonal":
        left, right = WIDTH - right, WIDTH - left
    expected[:, 2:] = np.stack((left, HEIGHT - bottom, right, HEIGHT - top), 1)
    np.testing.assert_allclose(rows(found), expected, rtol=1e-3, atol=0.1)


def test_padding_of_a_view_comes_after_its_flip(image: np.ndarray[Any, Any], model: Any) -> None:
    pad = [{"type": "Pad", "size": (160, 160), "pad_val": {"img": (114, 114, 114)}}]
    made: Any = augmented(predictor(version_3(resizes()[:1], FLIPS, pad), model))
    seen: list[Tensor] = []
    forward: Callable[..., Any] = model.forward
    model.forward = lambda pixels, mask=None: seen.append(pixels) or forward(pixels, mask)
    try:
        made(image, threshold=0.0)
    finally:
        model.forward = forward
    assert [each.shape for each in seen] == [(1, 3, 160, 160)] * 2
    assert torch.equal(seen[0][..., :64, :96].flip(-1), seen[1][..., :64, :96])
    gray = torch.full((96, 160), (114 - 9) / 50)
    assert all(torch.equal(each[0, 0, 64:], gray) for each in seen)


def test_without_a_declaration_the_mirror_image_is_merged(
    image: np.ndarray[Any, Any], model: Any
) -> None:
    cfg = {"model": MODEL, "test_pipeline": [{"type": "LoadImageFromFile"}, resizes()[0]]}
    found = augmented(predictor(cfg, model))(image, threshold=0.0)
    views = [of_one_view(image, model, SCALES[0], flip) for flip in (True, False)]
    np.testing.assert_allclose(rows(found), merged(views, 0.5, 100), rtol=1e-4, atol=1e-3)


def test_what_cannot_be_augmented_is_refused(model: Any) -> None:
    drawn = [{"type": "RandomFlip", "prob": 0.5}]
    made = predictor(version_3(resizes(), drawn), model)
    with pytest.raises(InputError, match=r"RandomFlip\(prob=0.5, .* draws at random; expected"):
        augmented(made)
    made = predictor(version_2(img_scale=SCALES, flip=True, flip_direction="sideways"), model)
    with pytest.raises(InputError, match="flips 'sideways'; expected one of"):
        augmented(made)
    plain = predictor(version_2(img_scale=SCALES[:1], flip=False), model)
    assert "tta" not in plain.config
    assert isinstance(augmented(plain), AugmentedPredictor)


def test_commands(tmp_path: Any) -> None:
    plain = CliRunner().invoke(app, ["predict", "rtmdet-digits", "--json"])
    both = CliRunner().invoke(app, ["predict", "rtmdet-digits", "--json", "--tta"])
    assert plain.exit_code == both.exit_code == 0 and plain.stdout != both.stdout
    masks = CliRunner().invoke(app, ["predict", "afno-navier-stokes", "--tta"])
    assert masks.exit_code == 1
