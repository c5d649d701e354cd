"""The grid of Grid R-CNN, point by point."""

import pytest
import torch

from cupola.models.grid_rcnn import GridHead, GridPoints

POINTS = GridPoints(9, 56)


def test_points_stand_column_by_column() -> None:
    assert POINTS.half == 28 and POINTS.size == 3
    assert POINTS.parts[:4] == [(0, 0), (0, 14), (0, 28), (14, 0)] and POINTS.parts[8] == (28, 28)
    assert POINTS.neighbors(0) == [1, 3] and POINTS.neighbors(4) == [1, 3, 5, 7]
    assert POINTS.neighbors(5) == [2, 4, 8]
    with pytest.raises(ValueError, match="square number"):
        GridPoints(8, 56)


def test_targets_are_circles_around_the_points() -> None:
    regions = torch.tensor([[10.0, 20, 66, 76], [0, 0, 1, 40]])
    objects = torch.tensor([[12.0, 18, 60, 80], [0, 0, 1, 40]])
    found = POINTS.targets(regions, objects, 1)
    assert found.shape == (2, 9, 28, 28) and not found[1].any()  # 2 cells wide after doubling
    left, top, side = 10 - 28, 20 - 28, 112  # twice as large
    for point in range(9):
        i, j = divmod(point, 3)
        x = int((12 + 24 * i - left) / side * 56) - POINTS.parts[point][0]
        y = int((18 + 31 * j - top) / side * 56) - POINTS.parts[point][1]
        expected = torch.zeros(28, 28)
        for a in range(28):
            for b in range(28):
                expected[b, a] = (a - x) ** 2 + (b - y) ** 2 <= 1
        assert torch.equal(found[0, point], expected) and expected.sum() == 5


def test_points_of_a_side_vote_by_their_scores() -> None:
    logits = torch.full((1, 9, 28, 28), -9.0)
    regions, scores = torch.tensor([[10.0, 20, 66, 76]]), torch.linspace(0.1, 0.9, 9)
    cells = [(10 + i % 4, 9 + i % 5) for i in range(9)]
    for point, (x, y) in enumerate(cells):
        logits[0, point, y, x] = scores[point].logit()
    xs = [(x + POINTS.parts[i][0] + 0.5) * 56 / 28 + 10 - 28 for i, (x, _) in enumerate(cells)]
    ys = [(y + POINTS.parts[i][1] + 0.5) * 56 / 28 + 20 - 28 for i, (_, y) in enumerate(cells)]

    def vote(places: list[float], which: list[int]) -> float:
        weights = [scores[i].item() for i in which]
        return sum(places[i] * w for i, w in zip(which, weights, strict=True)) / sum(weights)

    expected = [
        vote(xs, [0, 1, 2]),
        vote(ys, [0, 3, 6]),
        vote(xs, [6, 7, 8]),
        vote(ys, [2, 5, 8]),
    ]
    found = POINTS.boxes(logits, regions)[0]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-3)
    moved = POINTS.boxes(logits, regions - 300)[0]  # outside of the image, as in the original
    torch.testing.assert_close(moved, found - 300, rtol=1e-4, atol=1e-3)


def test_features_of_points_take_up_those_of_their_neighbors() -> None:
    torch.manual_seed(0)
    norm = {"type": "GN", "num_groups": 2}
    head = GridHead(4, 1, 4, in_channels=3, point_feat_channels=2, norm_cfg=norm)
    x = torch.randn(2, 8, 2, 2)
    own = [x[:, 2 * i : 2 * i + 2] for i in range(4)]
    near = [(1, 2), (0, 3), (0, 3), (1, 2)]
    first = [
        own[i] + sum(head.forder_trans[i][k](own[j]) for k, j in enumerate(near[i]))
        for i in range(4)
    ]
    second = [
        own[i] + sum(head.sorder_trans[i][k](first[j]) for k, j in enumerate(near[i]))
        for i in range(4)
    ]
    torch.testing.assert_close(head.fused(x), torch.cat(second, 1))
    regions = torch.tensor([[0.0, 0, 20, 20], [5, 5, 30, 40]])
    features = torch.randn(2, 3, 4, 4)
    convolved = head.convs(features)
    wanted = head.points.targets(regions, regions, 1)
    entropy = torch.nn.functional.binary_cross_entropy_with_logits
    expected = sum(entropy(head.maps(each), wanted) for each in (convolved, head.fused(convolved)))
    torch.testing.assert_close(head.loss(features, regions, regions, 1), 15 * expected)
