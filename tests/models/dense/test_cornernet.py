"""CornerNet and CentripetalNet: pooling, targets, losses and pairs of corners, written out."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola.models.cornernet.embedding import AssociativeEmbeddingLoss
from cupola.models.cornernet.pairing import Corners, pairs
from cupola.models.cornernet.pooling import corner_pool
from cupola.models.cornernet.targets import corner_targets
from cupola.registry import MODELS, build
from cupola.runtime.export import export
from cupola.runtime.predictors.detection import make
from cupola.runtime.predictors.detection_program import program

HOURGLASS = {
    "type": "HourglassNet",
    "downsample_times": 1,
    "num_stacks": 2,
    "stage_channels": [8, 8],
    "stage_blocks": [1, 1],
    "feat_channel": 8,
    "norm_cfg": {"type": "BN"},
}
TEST = {
    "corner_topk": 12,
    "local_maximum_kernel": 3,
    "distance_threshold": 5.0,
    "max_per_img": 10,
    "nms": {"type": "soft_nms", "iou_threshold": 0.5, "method": "gaussian"},
}
HEAD = {"num_classes": 3, "in_channels": 8, "num_feat_levels": 2}
KINDS: dict[str, tuple[dict[str, Any], set[str]]] = {
    "corner": (
        {**HEAD, "type": "CornerHead", "corner_emb_channels": 1},
        {"det_loss", "off_loss", "pull_loss", "push_loss"},
    ),
    "centripetal": (
        {**HEAD, "type": "CentripetalHead", "corner_emb_channels": 0},
        {"det_loss", "off_loss", "guiding_loss", "centripetal_loss"},
    ),
}
OBJECTS = {
    "boxes": torch.tensor([[9.0, 6, 41, 31], [4, 2, 90, 59]]),
    "labels": torch.tensor([0, 2]),
}
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


def model(kind: str) -> Any:
    config = {"type": "CornerNet", "backbone": HOURGLASS, "neck": None, "test_cfg": TEST}
    return build({**config, "bbox_head": KINDS[kind][0]})


@pytest.mark.parametrize("kind", KINDS)
def test_training_lowers_the_losses(kind: str) -> None:
    torch.manual_seed(0)
    built = model(kind)
    batch = {"pixels": torch.randn(2, 3, 64, 96), "targets": [OBJECTS, NOTHING]}
    optimizer = torch.optim.Adam(built.parameters(), 2e-3)
    totals = []
    for _ in range(6):
        losses = built.loss(batch)
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert set(losses) == KINDS[kind][1]
    assert totals[-1].item() < 0.97 * totals[0].item()
    empty = built.loss({"pixels": torch.randn(1, 3, 64, 96), "targets": [NOTHING]})
    assert empty.pop("det_loss") > 0 and not any(empty.values())


@pytest.mark.parametrize("kind", KINDS)
def test_boxes_are_pairs_of_corners(kind: str) -> None:
    torch.manual_seed(0)
    built = model(kind).eval()
    built.bbox_head.test_cfg |= {"distance_threshold": 1e9, "corner_topk": 300}
    pixels = torch.randn(2, 3, 64, 96)
    inputs = {"pixels": pixels, "image_sizes": [(64, 96)] * 2}
    found = built.predict({**inputs, "scale_factors": [(2.0, 2.0), (0.5, 0.5)]})
    alone = built.predict({"pixels": pixels[:1], "image_sizes": [(64, 96)]})[0]
    assert torch.allclose(alone.boxes / 2, found[0].boxes, atol=1e-3)
    assert len(alone) == 10 or kind == "centripetal"
    assert (alone.boxes[:, 2:] > alone.boxes[:, :2]).all() and (alone.scores.diff() <= 0).all()
    inner = built.predict({**inputs, "corner": (20, 30)})[0].boxes  # none reaches into the padding
    assert not len(inner) or (inner[:, 0::2].min() >= 30 and inner[:, 1::2].min() >= 20)
    scores, boxes = built.scored_boxes(pixels)
    assert scores.shape == (2, 1000, 3) and boxes.shape == (2, 1000, 4)
    if len(alone):
        assert torch.allclose(scores[0].max(), alone.scores[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_exported_program_scores_pairs(kind: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    built = model(kind).eval()
    predictor = make("m", "1", built, {"preprocess": {"resize": {"exact": [64, 96]}}}, ())
    export(program(predictor, (64, 96)), tmp_path / "m.pt2", "torch")
    pixels, mask = torch.randn(1, 3, 64, 96), torch.zeros(1, 64, 96, dtype=torch.bool)
    found = torch.export.load(tmp_path / "m.pt2").module()(pixels, mask)
    for ours, expected in zip(found, built.scored_boxes(pixels), strict=True):
        assert torch.allclose(ours, expected, atol=1e-2)


def test_pooling_keeps_the_largest_so_far() -> None:
    x = torch.tensor([[1.0, 5, 2], [4, 3, 6]])[None, None]
    expected = {
        "right": [[1, 5, 5], [4, 4, 6]],
        "left": [[5, 5, 2], [6, 6, 6]],
        "bottom": [[1, 5, 2], [4, 5, 6]],
        "top": [[4, 5, 6], [4, 3, 6]],
    }
    for direction, values in expected.items():
        assert corner_pool(x, direction)[0, 0].tolist() == values


def test_targets_of_both_corners() -> None:
    like = torch.zeros(2, 3, 16, 24)
    kinds = corner_targets([OBJECTS, NOTHING], like, (64, 96))
    for kind, first in zip(kinds, (0, 2), strict=True):
        assert not kind.heat[1].any() and (kind.heat == 1).sum() == 2
        for box, label in zip(OBJECTS["boxes"].tolist(), [0, 2], strict=True):
            x, y = box[first] / 4, box[first + 1] / 4
            column, row = int(min(x, 23)), int(min(y, 15))
            assert kind.heat[0, label, row, column] == 1
            center = ((box[0] + box[2]) / 8, (box[1] + box[3]) / 8)
            sign = 1 if first == 0 else -1
            for axis, (corner, cell) in enumerate([(x, column), (y, row)]):
                at = (0, axis, row, column)
                assert kind.offset[at].item() == pytest.approx(corner - cell)
                assert kind.guiding[at].item() == pytest.approx(sign * (center[axis] - cell))
                away = math.log(sign * (center[axis] - corner))
                assert kind.centripetal[at].item() == pytest.approx(away, rel=1e-5)
        assert kind.mask.sum() == 2 and [len(cells) for cells in kind.cells] == [2, 0]


def test_embeddings_are_pulled_together_and_pushed_apart() -> None:
    first = [torch.tensor([[0.2], [0.5], [3.0]]), torch.zeros(0, 1), torch.tensor([[1.0]])]
    second = [torch.tensor([[0.4], [0.1], [3.2]]), torch.zeros(0, 1), torch.tensor([[2.0]])]
    pull, push = AssociativeEmbeddingLoss(0.1, 0.3)(first, second)
    expected = (2 * 0.1**2 + 2 * 0.2**2 + 2 * 0.1**2) / 3 + 2 * 0.5**2
    assert pull.item() == pytest.approx(0.1 * expected)
    # The means are 0.3, 0.3 and 3.1: the first two are less than 1 apart.
    assert push.item() == pytest.approx(0.3 * 2 * 1 / 6)


def test_corners_that_fit_are_paired() -> None:
    first = Corners(
        torch.tensor([0.9, 0.5]),
        torch.tensor([1, 0]),
        torch.tensor([[10.0, 10], [-3, 5]]),
        torch.tensor([[0.1], [0.4]]),
    )
    second = Corners(
        torch.tensor([0.8, 0.7, 0.6]),
        torch.tensor([1, 0, 1]),
        torch.tensor([[30.0, 40], [20, 20], [5, 50]]),
        torch.tensor([[0.3], [0.5], [0.1]]),
    )
    boxes, scores, labels = pairs(first, second, 0.25, 5, False)
    assert scores.tolist() == pytest.approx([0.85, 0.6, -1, -1, -1])
    assert boxes[:2].tolist() == [[10, 10, 30, 40], [0, 5, 20, 20]]
    assert labels[:2].tolist() == [1, 0]
    inner = pairs(first, second, 0.25, 5, False, (2, 12))[0]  # of an image in padding
    assert inner[:2].tolist() == [[10, 12, 30, 40], [2, 12, 20, 20]]


@pytest.mark.parametrize("side", [40.0, 80.0])
def test_centers_of_corners_agree_within_the_box(side: float) -> None:
    half = side / (2.1 if side**2 > 3500 else 2.4) / 2  # of the central region
    low, high, middle = torch.zeros(1, 2), torch.full((1, 2), side), side / 2

    def score(one: float, other: float, threshold: float = 0.5) -> float:
        corners = [
            Corners(torch.ones(1), torch.zeros(1).long(), point, torch.full((1, 2), center))
            for point, center in ((low, one), (high, other))
        ]
        return pairs(*corners, threshold, 1, True)[1].item()

    assert score(middle - half + 0.1, middle) == 1
    assert score(middle - half - 0.1, middle) == -1
    assert score(middle, middle + half + 0.1) == -1
    near = 2 * half * 0.69  # 0.69^2 is less than a half, 0.72^2 more
    assert score(middle - near / 2, middle + near / 2) == 1
    far = 2 * half * 0.72
    assert score(middle - far / 2, middle + far / 2) == -1


def test_settings_that_are_not_supported_are_named() -> None:
    with pytest.raises(ValueError, match="corner_emb_channels is 1 for CornerHead"):
        MODELS.build({**KINDS["corner"][0], "corner_emb_channels": 0})
    with pytest.raises(ValueError, match="shifts of CentripetalHead have 2 channels"):
        MODELS.build({**KINDS["centripetal"][0], "guiding_shift_channels": 3})
