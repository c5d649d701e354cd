"""Published FCOS configs, options, and a small model through prediction and export."""

import json
import lzma
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.models.dense import Candidates, suppress
from cupola.registry import MODELS, build
from cupola.runtime.building import without_pretrained
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from models.fcos.small import HEAD, MODEL
from zoo import FOLDER

with lzma.open(FOLDER / "fcos_keys.json.xz", "rt") as file:
    PUBLISHED: dict[str, Any] = json.load(file)
OPTIONS = (
    {},
    {"norm_on_bbox": True, "centerness_on_reg": True, "center_sampling": True},
    {"dcn_on_last_conv": True, "conv_bias": True, "loss_bbox": {"type": "GIoULoss"}},
)


@pytest.mark.parametrize("config", PUBLISHED)
def test_keys_and_shapes_of_every_published_config(config: str) -> None:
    with nn.on_meta():
        model = build(without_pretrained(PUBLISHED[config]["model"]))
    found = [[key, list(value.shape)] for key, value in model.state_dict().items()]
    assert found == PUBLISHED[config]["keys"]


@pytest.mark.parametrize("options", OPTIONS)
def test_a_step_of_training_lowers_every_loss(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = MODELS.build({**MODEL, "bbox_head": {**HEAD, **options}})
    batch = {
        "pixels": torch.randn(2, 3, 64, 96),
        "targets": [
            {
                "boxes": torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]]),
                "labels": torch.tensor([0, 2]),
            },
            {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
        ],
    }
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    totals = []
    for _ in range(12):
        losses = model.loss(batch)
        assert set(losses) == {"loss_cls", "loss_bbox", "loss_centerness"}
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert totals[-1].item() < 0.8 * totals[0].item()


def test_images_without_objects_have_a_class_loss_only() -> None:
    model = MODELS.build(MODEL)
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    losses = model.loss({"pixels": torch.randn(1, 3, 64, 64), "targets": [nothing]})
    sum(losses.values()).backward()
    assert losses["loss_bbox"] == losses["loss_centerness"] == 0 < losses["loss_cls"]


def test_predicted_boxes_are_inside_the_image_and_scaled_back() -> None:
    torch.manual_seed(0)
    model = MODELS.build(MODEL).eval()
    pixels = torch.randn(1, 3, 64, 96)
    plain, scaled = (
        model.predict({"pixels": pixels, "image_sizes": [(60, 90)], "scale_factors": factors})[0]
        for factors in (None, [(2.0, 4.0)])
    )
    assert len(plain) == 10 and (plain.scores.diff() <= 0).all()
    assert (plain.boxes >= 0).all() and (plain.boxes[:, 2] <= 90).all()
    assert (plain.boxes[:, 3] <= 60).all()
    # The factor changes the aspect of boxes, so NMS may keep others; the best is the same.
    assert torch.allclose(scaled.boxes[0] * torch.tensor([2, 4, 2, 4]), plain.boxes[0])


def test_nms_of_the_config() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 8], [5, 5, 5, 9]])
    found = Candidates(boxes, torch.tensor([0.9, 0.8, 0.7, 0.6]), torch.tensor([0, 0, 1, 1]))
    nms = {"type": "nms", "iou_threshold": 0.5}
    by_class = suppress(found, {"nms": nms, "min_bbox_size": 0, "max_per_img": 5})
    assert by_class.labels.tolist() == [0, 1]  # the box without width is dropped
    assert len(suppress(found, {"nms": {**nms, "class_agnostic": True}})) == 2
    soft = suppress(found, {"nms": {"type": "soft_nms", "iou_threshold": 0.3, "min_score": 0.05}})
    assert soft.scores.tolist() == pytest.approx([0.9, 0.7, 0.6, 0.08])
    without = suppress(found, {"nms": None, "max_per_img": 3})
    assert without.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
    # From split_thr boxes on mmcv suppresses within classes, whatever class_agnostic says.
    split = {**nms, "class_agnostic": True, "split_thr": 4}
    assert suppress(found, {"nms": split}).labels.tolist() == [0, 1, 1]
    assert len(suppress(found, {"nms": {**nms, "max_num": -1}})) == 3
    assert len(suppress(found, {"nms": {**nms, "score_threshold": 0.65}})) == 2
    wrongs = (
        {"type": "nms", "iou_threshold": 0.5, "sigma": 1},
        {"type": "other"},
        {"type": "soft_nms", "max_num": 5},
    )
    for wrong in wrongs:
        with pytest.raises(ValueError, match="nms t"):
            suppress(found, {"nms": wrong})


@pytest.mark.slow
def test_an_export_has_the_scored_boxes_of_all_cells(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = MODELS.build(MODEL).eval()
    predictor = make("fcos", "1", model, {"preprocess": {"resize": {"exact": [96, 160]}}}, ())
    path = tmp_path / "fcos.pt2"
    export(program(predictor, None), path, "torch")
    pixels = torch.randn(1, 3, 128, 192)
    mask = torch.zeros(1, 128, 192, dtype=torch.bool)
    scores, boxes = torch.export.load(path).module()(pixels, mask)
    expected = model.scored_boxes(pixels)
    assert scores.shape == (1, 16 * 24 + 8 * 12, 3)
    assert torch.allclose(scores, expected[0], atol=1e-5)
    assert torch.allclose(boxes, expected[1], atol=1e-3)


def test_settings_that_fcos_does_not_have_are_named() -> None:
    with pytest.raises(Exception, match="DistancePointBBoxCoder"):
        MODELS.build({**HEAD, "bbox_coder": {"type": "DeltaXYWHBBoxCoder"}})
    with pytest.raises(Exception, match="use_sigmoid"):
        MODELS.build({**HEAD, "loss_cls": {"type": "CrossEntropyLoss"}})
