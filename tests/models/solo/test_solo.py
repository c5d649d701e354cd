"""SOLO and SOLOv2: the golden at full size, training, and parts against their rules."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.solo.matrix_nms import matrix_nms, point_nms
from cupola.models.solo.targets import grid_targets, smaller_masks
from cupola.registry import build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program
from zoo import ZooModel

HEAD: dict[str, Any] = {
    "num_classes": 3,
    "in_channels": 8,
    "feat_channels": 8,
    "stacked_convs": 2,
    "strides": [8, 8, 16],
    "scale_ranges": [[1, 24], [12, 48], [24, 512]],
    "num_grids": [10, 6, 4],
    "norm_cfg": {"type": "GN", "num_groups": 2},
}
PRODUCT = {"type": "DiceLoss", "use_sigmoid": True, "activate": False, "loss_weight": 3.0}
FEATURES = {
    "feat_channels": 8,
    "start_level": 0,
    "end_level": 2,
    "out_channels": 4,
    "mask_stride": 4,
    "norm_cfg": {"type": "GN", "num_groups": 2},
}
HEADS: dict[str, dict[str, Any]] = {
    "SOLOHead": {},
    "DecoupledSOLOHead": {"loss_mask": PRODUCT},
    "DecoupledSOLOLightHead": {"loss_mask": PRODUCT, "dcn_cfg": {"type": "DCNv2"}},
    "SOLOV2Head": {"mask_feature_head": FEATURES, "dynamic_conv_size": 1},
}


def model(kind: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": "SOLOv2" if kind == "SOLOV2Head" else "SOLO",
        "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [0, 1, 2]},
        "neck": {"type": "FPN", "in_channels": [8, 16, 32], "out_channels": 8, "num_outs": 3},
        "mask_head": {**HEAD, "type": kind, **HEADS[kind], **settings},
        "test_cfg": {
            "nms_pre": 500,
            "score_thr": 0.0,
            "mask_thr": 0.2,
            "filter_thr": 0.0,
            "kernel": "gaussian",
            "sigma": 2.0,
            "max_per_img": 10,
        },
    }


def targets(height: int = 64, width: int = 96) -> list[dict[str, Tensor]]:
    boxes = torch.tensor([[8.0, 8, 40, 30], [50, 30, 90, 60], [4, 40, 14, 50]])
    masks = torch.zeros(3, height, width, dtype=torch.bool)
    for mask, (left, top, right, bottom) in zip(masks, boxes.int().tolist(), strict=True):
        mask[top:bottom, left:right] = True
    full = {"boxes": boxes, "labels": torch.tensor([0, 2, 1]), "masks": masks}
    return [full, {key: value[:0] for key, value in full.items()}]


@pytest.mark.parametrize("kind", HEADS)
def test_training_lowers_the_losses(kind: str) -> None:
    torch.manual_seed(0)
    built = build(model(kind))
    batch = {"pixels": torch.randn(2, 3, 60, 90), "targets": targets(60, 90)}  # padded to 64 x 96
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    totals = []
    for _ in range(5):
        losses = built.loss(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == {"loss_mask", "loss_cls"}
    assert totals[-1].item() < 0.97 * totals[0].item()
    assert all(each.grad is not None for each in built.mask_head.parameters())


@pytest.mark.parametrize("kind", HEADS)
def test_images_without_objects_have_a_class_loss_only(kind: str) -> None:
    built = build(model(kind))
    losses = built.loss({"pixels": torch.randn(1, 3, 64, 96), "targets": targets()[1:]})
    sum(losses.values()).backward()
    assert losses["loss_mask"] == 0 < losses["loss_cls"]


@pytest.mark.parametrize("kind", HEADS)
def test_masks_are_in_pixels_of_the_original_images(kind: str) -> None:
    torch.manual_seed(0)
    built = build(model(kind)).eval()
    found = built.predict(
        {
            "pixels": torch.randn(2, 3, 64, 96),
            "image_sizes": [(64, 96), (48, 64)],
            "original_sizes": [(32, 48), (96, 128)],
        }
    )
    for each, size in zip(found, [(32, 48), (96, 128)], strict=True):
        assert len(each) == 10 and (each.scores.diff() <= 0).all()
        assert each.masks.shape == (10, *size) and each.labels.max() < 3
    odd = {"pixels": torch.randn(1, 3, 61, 93), "image_sizes": [(61, 93)]}
    if kind != "SOLOV2Head":  # which adds maps of several levels, so that it needs padding
        same = built.mask_head.predict(built(odd["pixels"]), odd["image_sizes"], [(61, 93)])[0]
        assert torch.equal(built.predict(odd)[0].scores, same.scores)
    assert built.predict(odd)[0].masks.shape == (10, 61, 93)
    built.mask_head.test_cfg["score_thr"] = 1.0
    nothing = built.predict({"pixels": torch.randn(1, 3, 64, 96), "image_sizes": [(64, 96)]})[0]
    assert len(nothing) == 0 and nothing.masks.shape == (0, 64, 96)


def plain_cells(box: Tensor, mask: Tensor, grid: int, scale: float = 0.2) -> set[tuple[int, int]]:
    """Positive cells (row, column), as section 3.3.1 of SOLO has them."""
    H, W = mask.shape
    y, x = (each.double().mean() for each in mask.nonzero(as_tuple=True))
    half_w, half_h = scale * (box[2] - box[0]) / 2, scale * (box[3] - box[1]) / 2

    def between(middle: Tensor, half: Tensor, side: int) -> range:
        low = max(int((middle - half) / side * grid), int(middle / side * grid) - 1, 0)
        high = min(int((middle + half) / side * grid), int(middle / side * grid) + 1, grid - 1)
        return range(low, high + 1)

    return {(i, j) for i in between(y, half_h, H) for j in between(x, half_w, W)}


def test_cells_around_the_center_of_mass_are_positive() -> None:
    target = targets()[0]
    found = grid_targets(target, (64, 96), [10, 6, 40], [[1, 24], [12, 48], [24, 512]], 0.2, 3)
    magnitudes = [26.5, 34.6, 10.0]
    for level, grid, (low, high) in zip(
        found, (10, 6, 40), [(1, 24), (12, 48), (24, 512)], strict=True
    ):
        expected = set()
        labels = torch.full((grid, grid), 3)
        for number, magnitude in enumerate(magnitudes):
            if low <= magnitude <= high:
                for i, j in plain_cells(target["boxes"][number], target["masks"][number], grid):
                    expected.add((i * grid + j, number))
                    labels[i, j] = target["labels"][number]
        assert set(zip(level.cells.tolist(), level.objects.tolist(), strict=True)) == expected
        assert torch.equal(level.labels, labels)
        cells, owners = level.last()
        assert torch.equal(target["labels"][owners], labels.flatten()[cells])
    assert len(found[2].cells) > len(found[1].cells) > 0


def test_the_last_object_claims_a_cell() -> None:
    same = {key: value[[0, 0]] for key, value in targets()[0].items()}
    same["labels"] = torch.tensor([0, 2])
    (level,) = grid_targets(same, (64, 96), [10], [[1, 512]], 0.2, 3)
    cells, owners = level.last()
    assert len(level.cells) == 2 * len(cells) and (owners == 1).all()


def test_losses_equal_their_formulas() -> None:
    torch.manual_seed(0)
    head = build(model("SOLOV2Head")).mask_head
    target = targets()
    maps = [torch.randn(2, 8, 16 >> i, 24 >> i) for i in range(3)]
    output = head(maps)
    losses = head.loss(output, target, (64, 96))
    wanted = head.targets(target[0], (64, 96))
    small = smaller_masks(target[0]["masks"], (64, 96), 4).float()
    dice, count = 0.0, sum(len(level.last()[0]) for level in wanted)
    for level, pairs in enumerate(wanted):
        for cell, number in zip(pairs.cells.tolist(), pairs.objects.tolist(), strict=True):
            kernel = output.kernels[level][0].flatten(1)[:, cell]
            mask = torch.einsum("d,dhw->hw", kernel, output.features[0]).sigmoid()
            goal = small[number]
            sums = mask.square().sum() + goal.square().sum() + 2e-3
            dice += 3 * (1 - 2 * (mask * goal).sum() / sums)
    assert torch.allclose(losses["loss_mask"], dice / count, rtol=1e-5)
    logits = torch.cat([each[0].flatten(1).T for each in output.classes])
    labels = torch.cat([level.labels.flatten() for level in wanted])
    goal = F.one_hot(labels, 4)[:, :3].float()
    empty = torch.cat([each[1].flatten(1).T for each in output.classes])
    goal, logits = torch.cat((goal, torch.zeros_like(empty))), torch.cat((logits, empty))
    entropy = F.binary_cross_entropy_with_logits(logits, goal, reduction="none")
    p = logits.sigmoid()
    weight = torch.where(goal > 0, 0.25 * (1 - p) ** 2, 0.75 * p**2)
    assert torch.allclose(losses["loss_cls"], (entropy * weight).sum() / (count + 1), rtol=1e-5)


def test_smaller_masks_are_true_where_the_mean_is_half() -> None:
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, 1, 1:3] = mask[0, 5, 5] = True  # two and one of the four pixels in the middle
    assert smaller_masks(mask, (8, 8), 4).tolist() == [[[True, False], [False, False]]]
    assert smaller_masks(mask[:, :6, :6], (8, 16), 4).shape == (1, 2, 4)


@pytest.mark.parametrize("kernel", ["gaussian", "linear"])
def test_matrix_nms_equals_its_formula(kernel: str) -> None:
    torch.manual_seed(0)
    masks = torch.rand(12, 6, 6) > 0.4
    labels, scores = torch.randint(2, (12,)), torch.rand(12)
    order = scores.argsort(descending=True)[:10]

    def iou(i: int, j: int) -> float:
        if labels[i] != labels[j]:
            return 0.0
        return float((masks[i] & masks[j]).sum() / (masks[i] | masks[j]).sum())

    def f(value: float) -> float:
        return float(torch.tensor(-2 * value**2).exp()) if kernel == "gaussian" else 1 - value

    expected = {}
    for place, j in enumerate(order.tolist()):
        decays = [1.0]
        for other, i in enumerate(order.tolist()[:place]):
            most = max((iou(k, i) for k in order.tolist()[:other]), default=0.0)
            decays.append(f(iou(i, j)) / f(most))
        if scores[j] * min(decays) >= 0.1:
            expected[j] = float(scores[j] * min(decays))
    kept, lowered = matrix_nms(masks, labels, scores, 10, 4, 0.1, kernel, 2.0)
    best = sorted(expected.items(), key=lambda each: -each[1])[:4]
    assert kept.tolist() == [j for j, _ in best]
    assert torch.allclose(lowered, torch.tensor([value for _, value in best]), atol=1e-5)
    with pytest.raises(ValueError, match="kernel of matrix NMS"):
        matrix_nms(masks, labels, scores, kernel="cubic")


def test_neighbors_before_a_cell_suppress_it() -> None:
    scores = torch.tensor([[0.9, 0.8, 0.3], [0.2, 0.1, 0.85]])[None, None]
    assert point_nms(scores)[0, 0].gt(0).tolist() == [[True, False, False], [False, False, True]]


@pytest.mark.slow
@pytest.mark.parametrize("kind", HEADS)
def test_the_exported_program_gives_scores_and_masks_of_cells(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = build(model(kind)).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [96, 160]}}}, ())
    assert predictor.masks
    export(program(predictor, (96, 160)), tmp_path / "m.pt2", "torch")
    pixels, mask = torch.randn(1, 3, 96, 160), torch.zeros(1, 96, 160, dtype=torch.bool)
    found = torch.export.load(tmp_path / "m.pt2").module()(pixels, mask)
    expected = built.exported(pixels)
    assert len(found) == len(expected) == len(built.exported_names)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)
    assert found[0].shape == (1, 10**2 + 6**2 + 4**2, 3)


@pytest.mark.slow
def test_features_outputs_and_masks_equal_the_golden() -> None:
    zoo = ZooModel("solov2-light_r18_fpn_ms-3x_coco")
    built, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for level, feature in enumerate(built.maps(batch["pixels"])):
            assert zoo.relative(f"feat.{level}", feature) < 1e-4
        zoo.check_raw(built(batch["pixels"]), "raw.0")
        for index, found in enumerate(built.predict(batch)):
            scores, labels, areas = (
                torch.from_numpy(zoo.tensors[f"out.pred{index}.{part}"]).flatten()
                for part in ("scores", "labels", "mask_area")
            )
            assert len(found) == len(scores)
            assert ((found.scores - scores).abs() < 1e-3).float().mean() > 0.97
            ours = found.masks.sum((1, 2)).float()
            near = (found.labels == labels[:, None]) & (
                (found.scores - scores[:, None]).abs() < 1e-3
            )
            near &= (ours - areas[:, None]).abs() <= 2 + 0.01 * areas[:, None]
            assert near.any(1).float().mean() > 0.97
