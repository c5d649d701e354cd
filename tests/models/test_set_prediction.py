"""What DETR and its relatives share: targets per layer, losses and their normalizers."""

import math

import pytest
import torch

from cupola.models.losses import CrossEntropyLoss, FocalLoss, QualityFocalLoss
from cupola.models.losses.reduction import EPS
from cupola.models.set_prediction import (
    QueryTargets,
    best_pairs,
    box_normalizer,
    class_loss,
    name_by_layer,
    query_targets,
    targets_by_layer,
)
from cupola.parallel import Mesh
from ranks import RankPool

ASSIGNED = torch.tensor([[-1, 1, 0], [0, -1, 1]])  # 2 layers, 3 queries, 2 objects
LABELS = torch.tensor([4, 2])
BOXES = torch.tensor([[0.1, 0.2], [0.3, 0.4]])


def some_targets() -> QueryTargets:
    """One image, three queries, the second of which has an object of class 1."""
    positive = torch.tensor([[False, True, False]])
    return QueryTargets(torch.tensor([[2, 1, 2]]), positive, torch.zeros(1, 3, 4))


def test_targets_follow_the_assignment_of_each_layer() -> None:
    targets = query_targets(ASSIGNED, LABELS, BOXES, num_classes=7)
    assert targets.labels.tolist() == [[7, 2, 4], [4, 7, 2]]
    assert targets.positive.tolist() == [[False, True, True], [True, False, True]]
    assert torch.equal(targets.boxes[0, 1], BOXES[1])
    assert torch.equal(targets.boxes[1, 0], BOXES[0])
    assert targets.boxes[0, 0].eq(0).all()


def test_an_image_without_objects_is_all_background() -> None:
    nothing = torch.full((2, 3), -1)
    targets = query_targets(nothing, LABELS[:0], BOXES[:0], num_classes=7)
    assert targets.labels.eq(7).all()
    assert not targets.positive.any()


def test_layers_gather_the_targets_of_all_images() -> None:
    one = query_targets(ASSIGNED, LABELS, BOXES, 7)
    other = query_targets(ASSIGNED.flip(0), LABELS, BOXES, 7)
    first, second = targets_by_layer([one, other])
    assert torch.equal(first.labels, torch.stack((one.labels[0], other.labels[0])))
    assert torch.equal(second.boxes, torch.stack((one.boxes[1], other.boxes[1])))


def test_names_of_the_layers_before_the_last_are_numbered() -> None:
    losses = [{"loss_cls": torch.tensor(float(layer))} for layer in range(3)]
    named = name_by_layer(losses)
    assert {k: v.item() for k, v in named.items()} == {
        "d0.loss_cls": 0.0,
        "d1.loss_cls": 1.0,
        "loss_cls": 2.0,
    }


@pytest.mark.parametrize(("background", "factor"), [(0.0, 1.0), (0.1, 1.2), (1.0, 3.0)])
def test_background_counts_in_the_average_by_its_weight(background: float, factor: float) -> None:
    logits = torch.randn(1, 3, 2)
    summed = FocalLoss()(logits[0], torch.tensor([2, 1, 2]), avg_factor=1.0) * (1 + EPS)
    loss = class_loss(FocalLoss(), logits, some_targets(), background)
    torch.testing.assert_close(loss, summed / factor)


def test_the_box_normalizer_is_the_number_of_positives_and_never_0() -> None:
    targets = some_targets()
    assert box_normalizer(targets) == 1.0
    assert box_normalizer(QueryTargets(targets.labels, targets.labels > 0, targets.boxes)) == 3.0
    assert box_normalizer(QueryTargets(targets.labels, targets.labels < 0, targets.boxes)) == 1.0


def test_quality_focal_loss_by_its_formula() -> None:
    logits = torch.randn(1, 3, 2, dtype=torch.float64)
    quality = torch.tensor([0.7])
    total = 0.0
    for query in range(3):
        for label in range(2):
            wanted = 0.7 if (query, label) == (1, 1) else 0.0
            p = 1 / (1 + math.exp(-logits[0, query, label].item()))
            entropy = -wanted * math.log(p) - (1 - wanted) * math.log(1 - p)
            total += abs(wanted - p) ** 2 * entropy
    loss = class_loss(QualityFocalLoss(loss_weight=2.0), logits, some_targets(), quality=quality)
    assert loss.item() == pytest.approx(2 * total, rel=1e-6)


def test_quality_focal_loss_without_a_quality_says_what_to_use() -> None:
    with pytest.raises(ValueError, match="use FocalLoss"):
        class_loss(QualityFocalLoss(), torch.zeros(1, 3, 2), some_targets())


@pytest.mark.parametrize("kind", [FocalLoss, QualityFocalLoss])
def test_focal_losses_refuse_softmax(kind: type) -> None:
    with pytest.raises(ValueError, match="is defined on sigmoid scores"):
        kind(use_sigmoid=False)


def test_binary_cross_entropy_by_its_formula() -> None:
    logits = torch.randn(1, 3, 2, dtype=torch.float64)
    target = torch.zeros(3, 2, dtype=torch.float64)
    target[1, 1] = 1
    p = logits[0].sigmoid()
    expected = -(target * p.log() + (1 - target) * (1 - p).log()).sum()
    loss = class_loss(CrossEntropyLoss(use_sigmoid=True), logits, some_targets())
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


def test_best_pairs_may_name_a_query_twice() -> None:
    logits = torch.tensor([[3.0, 2.0], [-1.0, 1.0], [-5.0, -6.0]])
    scores, labels, queries = best_pairs(logits, 3)
    assert queries.tolist() == [0, 0, 1]
    assert labels.tolist() == [0, 1, 1]
    torch.testing.assert_close(scores, torch.tensor([3.0, 2.0, 1.0]).sigmoid())
    assert len(best_pairs(logits, 100)[0]) == 6


def normalizers(mesh: Mesh) -> tuple[float, float]:
    """Box normalizer and class loss over data ranks that see rank + 1 positive queries each."""
    positive = torch.arange(6)[None] <= mesh.data.rank
    targets = QueryTargets(positive.long().neg() + 1, positive, torch.zeros(1, 6, 4))
    loss = class_loss(_factor, torch.zeros(1, 6, 1), targets, 0.5, group=mesh.data)
    return box_normalizer(targets, mesh.data), float(loss)


def _factor(logits: torch.Tensor, labels: torch.Tensor, avg_factor: float) -> torch.Tensor:
    return torch.tensor(avg_factor)


def test_normalizers_are_means_over_the_data_ranks_only(ranks: RankPool) -> None:
    data = ranks.world // 2  # the other half of the ranks holds the rest of the same models
    positives = (data + 1) / 2
    for boxes, classes in ranks.run(normalizers, tensor=2):
        assert boxes == positives
        assert classes == positives + 0.5 * (6 - positives)
