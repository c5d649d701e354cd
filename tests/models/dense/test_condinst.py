"""CondInst and BoxInst: networks, masks, colors and losses, written out pixel by pixel."""

import math
from typing import Any

import pytest
import torch
from masked_small import BOXINST, CONDINST
from test_masked_small import NOTHING, objects
from torch import Tensor

from cupola.models.condinst.box_head import Instances
from cupola.models.condinst.boxinst import box_masks
from cupola.models.condinst.colors import neighbors, rgb_to_lab, similar_neighbors
from cupola.models.condinst.mask_head import enlarged
from cupola.registry import MODELS, build


def instances(count: int) -> Instances:
    strides = torch.tensor([8.0, 16, 8, 16, 8, 8])[:count]
    objects = torch.tensor([1, 0, 1, 1, 1, 0])[:count]
    quality = torch.tensor([0.3, 0.5, 0.9, 0.2, 0.4, 0.1])[:count]
    return Instances(
        torch.randn(count, 33) * 0.3, torch.rand(count, 2) * 60, strides, objects, quality
    )


def test_a_map_is_enlarged_by_linear_interpolation() -> None:
    torch.manual_seed(0)
    row = torch.randn(5)
    for factor in (2, 3, 4):
        found = enlarged(row.expand(1, 2, 5), factor)
        assert found.shape == (1, 2 * factor, 5 * factor)
        for x in range(5 * factor):
            place = max(x - factor // 2, 0) / factor
            low, high = int(place), min(int(place) + 1, 4)
            expected = row[low] + (place - low) * (row[high] - row[low])
            assert found[0, 0, x].item() == pytest.approx(expected.item(), abs=1e-5)


def test_networks_see_features_and_where_their_cell_is() -> None:
    torch.manual_seed(0)
    head: Any = MODELS.build(CONDINST["mask_head"])
    features, chosen = torch.randn(4, 3, 5), instances(2)
    small = torch.zeros(2, 3, 5)
    for p in range(2):
        numbers = chosen.networks[p].tolist()
        first = [numbers[6 * i : 6 * i + 6] for i in range(4)]
        second, biases = numbers[24:28], numbers[28:33]
        for y in range(3):
            for x in range(5):
                inputs = [
                    (chosen.points[p, 0].item() - (x * 8 + 4)) / (chosen.strides[p].item() * 8),
                    (chosen.points[p, 1].item() - (y * 8 + 4)) / (chosen.strides[p].item() * 8),
                    *features[:, y, x].tolist(),
                ]
                hidden = [
                    max(sum(w * v for w, v in zip(first[i], inputs, strict=True)) + biases[i], 0)
                    for i in range(4)
                ]
                small[p, y, x] = sum(w * v for w, v in zip(second, hidden, strict=True)) + biases[4]
    torch.testing.assert_close(head.masks(features, chosen), enlarged(small, 2))


def test_the_loss_of_masks_is_the_mean_of_all_that_train() -> None:
    torch.manual_seed(0)
    head: Any = MODELS.build(CONDINST["mask_head"])
    features, chosen = torch.randn(2, 4, 8, 12), instances(3)
    pair = [chosen, Instances(*(each[:0] for each in chosen))]  # type: ignore[index]
    found = head.loss(features, pair, [objects(), NOTHING], (64, 96))["loss_mask"]
    masks = head.masks(features[0], chosen).sigmoid()
    goal = objects()["masks"].float()[:, 2::4, 2::4]
    dice = []
    for mask, owner in zip(masks, [1, 0, 1], strict=True):
        want = goal[owner]
        sums = (mask**2).sum() + 5e-6 + (want**2).sum() + 5e-6
        dice.append(1 - 2 * (mask * want).sum().item() / sums.item())
    assert found.item() == pytest.approx(sum(dice) / 3, rel=1e-5)


def test_the_best_masks_of_each_object_train() -> None:
    head: Any = MODELS.build({**BOXINST["mask_head"], "topk_masks_per_img": 5})
    chosen = head.trained(instances(6)).tolist()
    assert sorted(chosen) == [1, 2, 4, 5]  # two of each: 0.5 and 0.1, 0.9 and 0.4
    random: Any = MODELS.build({**CONDINST["mask_head"], "max_masks_to_train": 4})
    assert len(set(random.trained(instances(6)).tolist())) == 4


def test_cells_near_the_center_of_mass_train() -> None:
    model: Any = build(CONDINST)
    target = objects()
    target["masks"][0, 8:28] = False  # what is left is at the bottom of the box
    centers = model.bbox_head.centers(target)
    assert centers[0].tolist() == [23.5, 28.5]
    output = model.bbox_head([torch.randn(1, 8, 8, 12), torch.randn(1, 8, 4, 6)])
    wanted = model.bbox_head.targets(output, [target])
    mine = wanted.cells.points[wanted.owners[0] == 0]
    # Within 1.5 strides of (23.5, 28.5) and inside of the box, which ends at 30.
    assert mine.tolist() == [[x, y] for y in (20.0, 28.0) for x in (12.0, 20.0, 28.0)]
    assert (wanted.labels[0][wanted.owners[0] == 1] == 2).all()


def test_colors_in_lab_space() -> None:
    image = torch.tensor(
        [[255, 0, 0, 255, 10], [0, 255, 0, 255, 20], [0, 0, 255, 255, 30]], dtype=torch.uint8
    )[:, None]
    found = rgb_to_lab(image)[:, 0].T
    expected = [
        [53.2408, 80.0923, 67.2028],
        [87.7351, -86.1815, 83.1866],
        [32.2957, 79.1880, -107.8573],
        [100.0, 0.0, 0.0],
    ]
    torch.testing.assert_close(found[:4], torch.tensor(expected), atol=0.02, rtol=0)


def test_neighbors_are_those_of_a_dilated_square() -> None:
    x = torch.arange(30.0).view(1, 1, 5, 6)
    found = neighbors(x, 3, 2)[0, 0]
    steps = [(dy, dx) for dy in (-2, 0, 2) for dx in (-2, 0, 2) if dy or dx]
    for e, (dy, dx) in enumerate(steps):
        for i in range(5):
            for j in range(6):
                inside = 0 <= i + dy < 5 and 0 <= j + dx < 6
                assert found[e, i, j] == (x[0, 0, i + dy, j + dx] if inside else 0)


def test_similar_colors() -> None:
    torch.manual_seed(0)
    lab, valid = torch.randn(3, 4, 5), torch.ones(4, 5)
    valid[3] = 0
    found = similar_neighbors(lab, valid, 3, 1)
    away = math.dist(lab[:, 1, 1].tolist(), lab[:, 0, 2].tolist())
    assert found[2, 1, 1].item() == pytest.approx(math.exp(-away / 2), rel=1e-5)
    assert not found[5:, 2].any()  # the row below is not valid
    pixels, content = torch.zeros(1, 3, 64, 64), [(48, 64)]
    head: Any = build(BOXINST).data_preprocessor
    alike = head.similar(pixels, content)[0]  # one color: whatever is valid is alike
    assert alike.shape == (8, 16, 16)
    # 10 * 48 / 64 rows of 48 are removed: rows 0 to 40, of which those at 2, 6, ... count.
    assert alike[3].any(1).tolist() == [True] * 10 + [False] * 6


def test_losses_of_boxes_alone() -> None:
    torch.manual_seed(0)
    head: Any = MODELS.build(BOXINST["mask_head"])
    head.iteration = 5  # half of the warm-up
    features, chosen = torch.randn(1, 4, 8, 12), instances(3)
    target = {**objects(), "masks": box_masks(objects()["boxes"], (64, 96))}
    similar = (torch.rand(1, 8, 16, 24) > 0.5).float()
    losses = head.box_loss(features, [chosen], [target], (64, 96), similar)
    logits = head.masks(features[0], chosen)
    goal = target["masks"][torch.tensor([1, 0, 1])][:, 2::4, 2::4].float()

    def dice(a: Tensor, b: Tensor) -> float:
        return (1 - 2 * (a * b).sum() / ((a**2).sum() + (b**2).sum() + 1e-5)).item()

    project = sum(
        dice(mask.sigmoid().amax(axis), want.amax(axis))
        for mask, want in zip(logits, goal, strict=True)
        for axis in (0, 1)
    )
    assert losses["loss_mask_project"].item() == pytest.approx(project / 3, rel=1e-4)
    steps = [(dy, dx) for dy in (-2, 0, 2) for dx in (-2, 0, 2) if dy or dx]
    pairwise, weight = 0.0, 0.0
    p = logits.sigmoid().tolist()
    for m in range(3):
        for e, (dy, dx) in enumerate(steps):
            for y in range(16):
                for x in range(24):
                    if not similar[0, e, y, x] or not goal[m, y, x]:
                        continue
                    inside = 0 <= y + dy < 16 and 0 <= x + dx < 24
                    a = p[m][y][x]
                    b = p[m][y + dy][x + dx] if inside else None
                    # Beyond the border both logarithms are 0.
                    same = a * b + (1 - a) * (1 - b) if b is not None else 1.0
                    pairwise -= math.log(same)
                    weight += 1
    expected = pairwise / weight / 2
    assert losses["loss_mask_pairwise"].item() == pytest.approx(expected, rel=1e-4)


def test_masks_of_boxes_include_the_last_pixel() -> None:
    masks = box_masks(torch.tensor([[1.6, 2.2, 4.0, 3.9], [0, 0, 8, 6]]), (6, 8))
    assert masks[0].nonzero().amin(0).tolist() == [2, 1]
    assert masks[0].nonzero().amax(0).tolist() == [3, 4] and masks[1].all()


def test_what_training_needs_is_named() -> None:
    model: Any = build(CONDINST)
    plain = {k: v for k, v in objects().items() if k != "masks"}
    with pytest.raises(ValueError, match="targets need masks"):
        model.loss({"pixels": torch.randn(1, 3, 64, 96), "targets": [plain]})
    other: Any = build({k: v for k, v in BOXINST.items() if k != "data_preprocessor"})
    with pytest.raises(ValueError, match="data_preprocessor BoxInstDataPreprocessor"):
        other.loss({"pixels": torch.randn(1, 3, 64, 96), "targets": [plain]})
    with pytest.raises(ValueError, match="mask_out_stride 3 does not divide mask_stride 8"):
        MODELS.build({**CONDINST["mask_head"], "mask_out_stride": 3})
    features = {**CONDINST["mask_head"]["mask_feature_head"], "start_level": 2}
    with pytest.raises(ValueError, match=r"start_level 2 is not in 0\.\.end_level 1"):
        MODELS.build({**CONDINST["mask_head"], "mask_feature_head": features})
