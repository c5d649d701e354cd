"""RTMDet-Ins: the golden at full size, masks by predicted networks, and their loss."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from dense_small import CELLS, POINTS, QUALITY, SOFT, model
from torch import Tensor

from cupola.models.dense import ImageSizes
from cupola.models.rtmdet.masks import DynamicLayers
from cupola.registry import build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from zoo import ZooModel

HEAD = {
    **POINTS,
    "type": "RTMDetInsSepBNHead",
    "anchor_generator": CELLS,
    "bbox_coder": {"type": "DistancePointBBoxCoder"},
    "norm_cfg": {"type": "BN"},
    "loss_cls": QUALITY,
}


def small() -> dict[str, Any]:
    plain = model("rtmdet")
    test = {**plain["test_cfg"], "mask_thr_binary": 0.5}
    return {**plain, "bbox_head": HEAD, "train_cfg": SOFT, "test_cfg": test}


def targets(height: int = 64, width: int = 96) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[8.0, 8, 40, 30], [4, 2, 90, 60]])
    masks = torch.zeros(2, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    full = {"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks}
    return [full, {key: value[:0] for key, value in full.items()}]


def test_training_lowers_the_losses() -> None:
    torch.manual_seed(0)
    built = build(small())
    batch = {"pixels": torch.randn(2, 3, 60, 90), "targets": targets(60, 90)}
    optimizer = torch.optim.Adam(built.parameters(), 2e-3)
    totals = []
    for _ in range(8):
        losses = built.loss(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == {"loss_cls", "loss_bbox", "loss_mask"}
    assert totals[-1].item() < 0.95 * totals[0].item()
    nothing = built.loss({"pixels": batch["pixels"][:1], "targets": targets()[1:]})
    assert nothing["loss_mask"] == nothing["loss_bbox"] == 0 < nothing["loss_cls"]
    with pytest.raises(ValueError, match="with_mask"):
        unmasked = [{k: v for k, v in each.items() if k != "masks"} for each in targets()]
        built.loss({**batch, "targets": unmasked})


def test_masks_are_in_pixels_of_the_original_images() -> None:
    torch.manual_seed(0)
    built = build(small()).eval()
    for layer in built.bbox_head.rtm_reg:
        torch.nn.init.ones_(layer.bias)  # as initialized, so that no box is empty
    assert built.predicts_masks
    sizes, originals = [(60, 90), (48, 64)], [(30, 45), (96, 128)]
    batch = {"pixels": torch.randn(2, 3, 60, 90), "image_sizes": sizes}  # padded to 64 x 96
    found = built.predict(
        {**batch, "scale_factors": [(2.0, 2.0), (0.5, 0.5)], "original_sizes": originals}
    )
    plain = built.predict(batch)
    for each, size, same in zip(found, originals, plain, strict=True):
        assert len(each) == 10 and each.masks.shape == (10, *size)
        assert torch.allclose(each.scores, same.scores)
    assert plain[1].masks.shape == (10, 48, 64)
    assert torch.equal(plain[0].masks.any((1, 2)), found[0].masks.any((1, 2)))


def test_a_network_equals_convolutions() -> None:
    torch.manual_seed(0)
    layers = DynamicLayers(4, 3, 3)
    assert layers.size == 6 * 3 + 9 + 3 + 3 + 3 + 1
    kernels, x = torch.randn(2, layers.size), torch.randn(2, 6, 20)
    for kernel, inputs, found in zip(kernels, x, layers(kernels, x), strict=True):
        first, second, third = kernel[:18].view(3, 6), kernel[18:27].view(3, 3), kernel[27:30]
        hidden = (first @ inputs + kernel[30:33, None]).relu()
        hidden = (second @ hidden + kernel[33:36, None]).relu()
        assert torch.allclose(found, third @ hidden + kernel[36], atol=1e-5)


def test_the_mask_loss_equals_its_formula() -> None:
    torch.manual_seed(0)
    built = build(small())
    head, target = built.bbox_head, targets()[:1]
    output = built(torch.randn(1, 3, 64, 96))
    chosen: list[Any] = []
    more = head.more_losses
    head.more_losses = lambda *parts: chosen.append(parts) or more(*parts)
    losses = head.loss(output, target, ImageSizes([(64, 96)], [(64, 96)]))
    wanted = chosen[0][1]
    total, places = 0.0, wanted.positive[0].nonzero()[:, 0].tolist()
    rows = torch.cat([each[0].flatten(1).T for each in output.kernels])
    grid = torch.stack(torch.meshgrid(torch.arange(12) * 8, torch.arange(8) * 8, indexing="xy"))
    for place, number in zip(places, wanted.objects.tolist(), strict=True):
        stride = 8 if place < 96 else 16
        cell = place if place < 96 else place - 96
        row, column = divmod(cell, 96 // stride)
        point = torch.tensor([column, row]) * stride
        away = (point[:, None, None] - grid) / (stride * 8)
        x = torch.cat((away, output.features[0])).flatten(1)
        logits = head.layers(rows[place][None], x[None]).view(1, 1, 8, 12)
        p = F.interpolate(logits, scale_factor=2, mode="bilinear")[0, 0].sigmoid()
        goal = target[0]["masks"][number][2::4, 2::4].float()
        total += 2 * (1 - 2 * (p * goal).sum() / (p.square().sum() + goal.sum() + 1e-5))
    assert len(places) > 1
    assert torch.allclose(losses["loss_mask"], total / len(places), rtol=1e-4)


@pytest.mark.slow
def test_the_exported_program_gives_boxes_networks_and_prototypes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = build(small()).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [96, 160]}}}, ())
    export(program(predictor, (96, 160)), tmp_path / "m.pt2", "torch")
    pixels, mask = torch.randn(1, 3, 128, 192), torch.zeros(1, 128, 192, dtype=torch.bool)
    found = torch.export.load(tmp_path / "m.pt2").module()(pixels, mask)
    for ours, theirs in zip(found, built.exported(pixels), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-3)


@pytest.mark.slow
def test_features_outputs_and_predictions_equal_the_golden() -> None:
    zoo = ZooModel("rtmdet-ins_tiny_8xb32-300e_coco")
    built, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for level, feature in enumerate(built.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{level}", feature) < 1e-4
        zoo.check_raw(built(batch["pixels"]))
        for index, found in enumerate(built.predict(batch)):
            zoo.check_predictions(index, found)
            zoo.check_mask_areas(index, found)
