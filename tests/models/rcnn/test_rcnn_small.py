"""Small detectors of the R-CNN line: training, prediction, and parts against their rules."""

from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.models.rcnn.mask_head import mask_targets
from cupola.models.rcnn.masks import with_padded_masks
from cupola.models.rcnn.pasting import paste_masks
from cupola.models.rcnn.roi_extractor import roi_levels
from cupola.models.rcnn.sampling import RoISample
from cupola.models.rpn.head import of_version_3
from cupola.registry import MODELS, build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from models.rcnn.rcnn_small import BOXES, PROPOSALS, model

KINDS: dict[str, dict[str, bool]] = {
    "faster": {},
    "mask": {"masks": True},
    "cascade": {"cascade": True},
    "cascade mask": {"cascade": True, "masks": True},
    "htc cascade mask": {"cascade": True, "masks": True, "htc": True},
    "scoring mask": {"masks": True, "scoring": True},
}
NOTHING = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "masks": torch.zeros(0, 64, 96, dtype=torch.bool),
}


def batch() -> dict[str, Any]:
    boxes = torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]])
    masks = torch.zeros(2, 64, 96, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    first = {"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks}
    return {"pixels": torch.randn(2, 3, 64, 96), "targets": [first, NOTHING]}


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_losses(kind: str) -> None:
    torch.manual_seed(0)
    built, data = MODELS.build(model(**KINDS[kind])), batch()
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    totals = []
    for _ in range(12):
        losses = built.loss(data)
        totals.append(sum(value for name, value in losses.items() if "loss" in name))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    expected = {"loss_rpn_cls", "loss_rpn_bbox"}
    for stage in ("s0.", "s1.") if "cascade" in kind else ("",):
        expected |= {f"{stage}{name}" for name in ("loss_cls", "acc", "loss_bbox")}
        expected |= {f"{stage}loss_mask"} if "mask" in kind else set()
        expected |= {"loss_mask_iou"} if "scoring" in kind else set()
    assert set(losses) == expected
    assert totals[-1].item() < 0.9 * totals[0].item()


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_several_sizes_in_one_batch(kind: str) -> None:
    torch.manual_seed(0)
    built = build(model(**KINDS[kind])).eval()
    pixels = torch.randn(2, 3, 64, 96)
    pixels[1, :, 48:], pixels[1, :, :, 64:] = 0, 0
    found = built.predict(
        {
            "pixels": pixels,
            "image_sizes": [(64, 96), (48, 64)],
            "scale_factors": [(2.0, 2.0), (0.5, 0.5)],
            "original_sizes": [(32, 48), (96, 128)],
        }
    )
    for each, (height, width) in zip(found, [(32, 48), (96, 128)], strict=True):
        assert len(each) == 10 and (each.scores.diff() <= 0).all()
        assert (each.boxes >= 0).all()
        assert (each.boxes[:, 2] <= width).all() and (each.boxes[:, 3] <= height).all()
        assert (each.masks is not None) == built.predicts_masks == ("mask" in kind)
        if each.masks is not None:
            assert each.masks.shape == (10, height, width)
    alone = built.predict({"pixels": pixels[:1], "image_sizes": [(64, 96)]})[0]
    assert torch.allclose(alone.boxes / 2, found[0].boxes, atol=1e-3)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("form", ["torch", "onnx"])
@pytest.mark.parametrize("cascade", [False, True])
def test_the_exported_program_scores_the_proposals(
    cascade: bool, form: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    built = build(model(cascade=cascade)).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [64, 96]}}}, ())
    export(program(predictor, None), tmp_path / "m", form)
    pixels, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    if form == "torch":
        scores, boxes = torch.export.load(tmp_path / "m").module()(pixels, mask)
    else:
        runtime = pytest.importorskip("onnxruntime")
        session = runtime.InferenceSession(tmp_path / "m", providers=["CPUExecutionProvider"])
        given = {"pixels": pixels.numpy(), "padding_mask": mask.numpy()}
        found = session.run(None, {each.name: given[each.name] for each in session.get_inputs()})
        scores, boxes = (torch.from_numpy(each) for each in found)
    assert scores.shape == (1, 40, 3) and boxes.shape == (1, 40, 3, 4)
    best = built.predict({"pixels": pixels, "image_sizes": [(64, 96)]})[0]
    assert torch.allclose(scores.max(), best.scores[0], atol=1e-4)
    place = (scores[0] == scores.max()).nonzero()[0]
    assert torch.allclose(boxes[0, place[0], place[1]], best.boxes[0], atol=1e-2)
    with torch.inference_mode():
        wanted, _ = built.scored_boxes(pixels, mask)
    assert torch.allclose(scores.sort(1).values, wanted.sort(1).values, atol=1e-4)


def test_images_without_objects_train_the_background() -> None:
    built = build(model(masks=True))
    losses = built.loss({"pixels": torch.randn(1, 3, 64, 96), "targets": [NOTHING]})
    sum(value for name, value in losses.items() if "loss" in name).backward()
    assert losses["loss_bbox"] == losses["loss_mask"] == 0 < losses["loss_cls"]


def test_masks_of_a_smaller_image_end_at_its_edge() -> None:
    """A region that leaves its image for the padding of the batch sees no object there."""
    target = {"masks": torch.ones(1, 8, 8, dtype=torch.bool)}
    region = torch.tensor([[0.0, 0, 8, 16]])
    sample = RoISample(region, *torch.zeros(2, 1, dtype=torch.int64), region, torch.zeros(1))
    padded = with_padded_masks([target, {}], torch.zeros(2, 3, 16, 12))
    assert padded[0]["masks"].shape == (1, 16, 12) and not padded[1]
    found = mask_targets([sample], padded[:1], (4, 2))[0]
    assert found.tolist() == [[1, 1], [1, 1], [0, 0], [0, 0]]


def test_what_is_missing_is_named() -> None:
    plain = model()
    untrained = build({k: v for k, v in plain.items() if k != "train_cfg"})
    with pytest.raises(ValueError, match="train_cfg is missing"):
        untrained.loss(batch())
    fast = build({k: v for k, v in plain.items() if k != "rpn_head"} | {"type": "FastRCNN"}).eval()
    with pytest.raises(ValueError, match="needs proposals"):
        fast(torch.randn(1, 3, 64, 96))
    given = [torch.tensor([[0.0, 0, 30, 30], [10, 10, 60, 50]])]
    logits, deltas = fast(torch.randn(1, 3, 64, 96), proposals=given)
    assert logits.shape == (2, 4) and deltas.shape == (2, 12)
    with pytest.raises(Exception, match="no setting 'num_shared_layers'"):
        MODELS.build({**BOXES, "num_shared_layers": 2})
    masked = build(model(masks=True))
    target = {k: v for k, v in batch()["targets"][0].items() if k != "masks"}
    with pytest.raises(ValueError, match="with_mask"):
        masked.loss({"pixels": torch.randn(1, 3, 64, 96), "targets": [target]})


def test_settings_of_proposals_in_the_spelling_of_2x() -> None:
    old = {"nms_across_levels": False, "nms_pre": 60, "nms_thr": 0.7, "max_num": 40}
    expected = {k: v for k, v in PROPOSALS.items() if k != "min_bbox_size"}
    assert of_version_3(old) == expected


def test_regions_come_from_the_level_of_their_size() -> None:
    sides = torch.tensor([10.0, 111, 112, 223, 224, 448, 2000])
    rois = torch.stack([sides * 0, sides * 0, sides * 0, sides, sides], 1)
    assert roi_levels(rois, 56, 4).tolist() == [0, 0, 1, 1, 2, 3, 3]
    inside_out = torch.tensor([[0.0, 50, 10, 20, 90], [0, 50, 90, 20, 10]])
    assert roi_levels(inside_out, 56, 4).tolist() == [-1, 0]


def test_masks_are_pasted_where_their_box_is() -> None:
    masks = torch.ones(3, 4, 4)
    masks[1, :, 2:] = 0
    boxes = torch.tensor([[2.0, 3, 10, 9], [0, 0, 16, 8], [-8, 20, 4, 40]])
    pasted = paste_masks(masks, boxes, (24, 20))
    assert pasted[0].sum() == 8 * 6 and pasted[0, 3:9, 2:10].all()
    assert pasted[1, 1:7, 1:8].all() and not pasted[1, :, 8:].any()  # corners are interpolated
    assert pasted[2, 21:, :3].all() and not pasted[2, :20].any() and not pasted[2, :, 4:].any()
    assert not paste_masks(masks[:1], torch.tensor([[30.0, 5, 30, 9]]), (24, 20)).any()
    soft = paste_masks(masks * 0.5, boxes, (24, 20), threshold=-1)
    assert soft.dtype == torch.uint8 and soft.max() == 127
    assert torch.equal(soft == 127, paste_masks(masks, boxes, (24, 20), 0.999))
