"""Deformable DETR and its successors: 2.x configs, padding, distinct queries, denoising, errors."""

from typing import Any

import pytest
import torch

from cupola.errors import BuildError, InputError
from cupola.models.ddq.distinct import DistinctSelection, distinct_mask
from cupola.models.deformable_detr.queries import anchors
from cupola.models.dino import CdnQueryGenerator
from cupola.models.layers import FeatureLevels
from cupola.registry import build
from cupola.structures.boxes import cxcywh_to_xyxy
from cupola.weights import load_weights
from models.deformable_detr.small import (
    ddq_config,
    deformable_config,
    dino_config,
    nested_config,
)

SIZES = [(64, 80), (48, 50)]
TARGETS = [
    {"boxes": torch.tensor([[4.0, 6, 40, 60], [30, 10, 78, 33]]), "labels": torch.tensor([2, 0])},
    {"boxes": torch.tensor([[5.0, 5, 45, 40]]), "labels": torch.tensor([1])},
]
CONFIGS = {
    "plain": deformable_config(),
    "refine": deformable_config(refine=True),
    "two-stage": deformable_config(refine=True, two_stage=True),
    "nested": nested_config(refine=True, two_stage=True),
    "dino": dino_config(),
    "ddq": ddq_config(),
}


def made(config: dict[str, Any], seed: int = 0) -> Any:
    """A model whose parameters are away from their initial values, in eval mode."""
    torch.manual_seed(seed)
    model = build(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model.eval()


def batch(images: int = 2) -> dict[str, Any]:
    torch.manual_seed(1)
    pixels, mask = torch.randn(2, 3, 64, 80), torch.ones(2, 64, 80, dtype=torch.bool)
    for i, (h, w) in enumerate(SIZES):
        mask[i, :h, :w] = False
    pixels = pixels.masked_fill(mask[:, None], 0.0)
    return {
        "pixels": pixels[:images],
        "padding_mask": mask[:images],
        "image_sizes": SIZES[:images],
        "targets": TARGETS[:images],
    }


@pytest.mark.parametrize(("refine", "two_stage"), [(False, False), (True, False), (True, True)])
def test_both_spellings_are_the_same_model(refine: bool, two_stage: bool) -> None:
    modern, nested = (
        made(deformable_config(refine, two_stage)),
        build(nested_config(refine, two_stage)),
    )
    assert load_weights(nested, modern.state_dict()).dialect == "mmdet3-deformable-detr"
    nested.eval()
    again = build(deformable_config(refine, two_stage)).eval()
    assert load_weights(again, nested.state_dict()).dialect == "mmdet2-deformable-detr"
    for key, value in modern.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    given = batch()
    for mask in (given["padding_mask"], None):
        found, expected = nested(given["pixels"], mask), modern(given["pixels"], mask)
        torch.testing.assert_close(found.logits, expected.logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(found.boxes, expected.boxes, atol=1e-6, rtol=0)
    assert nested.loss(given).keys() == modern.loss(given).keys()


@pytest.mark.parametrize("name", CONFIGS)
def test_every_parameter_learns(name: str) -> None:
    model = made(CONFIGS[name]).train()
    losses = model.loss(batch())
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()
    without = [key for key, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []


@pytest.mark.parametrize("name", CONFIGS)
def test_images_without_objects(name: str) -> None:
    nothing = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    model = made(CONFIGS[name]).train()
    losses = model.loss({**batch(), "targets": [nothing, nothing]})
    assert all(value.isfinite() for value in losses.values())
    sum(losses.values()).backward()


@pytest.mark.parametrize("name", [n for n in CONFIGS if n != "ddq"])
def test_an_image_alone_gives_the_same_as_in_a_padded_batch(name: str) -> None:
    """Up to the rounding of feature maps at the border, where the other image begins."""
    model, given = made(CONFIGS[name]), batch()
    both = model(given["pixels"], given["padding_mask"])
    alone = model(given["pixels"][:1], given["padding_mask"][:1])
    torch.testing.assert_close(both.logits[:, :1], alone.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(both.boxes[:, :1], alone.boxes, atol=1e-4, rtol=0)


def test_a_small_image_is_an_error_where_proposals_are_needed() -> None:
    model = made(dino_config(queries=40))
    with pytest.raises(InputError, match=r"proposes 40 boxes.*only 21 cells; use a larger image"):
        model(torch.randn(1, 3, 32, 32))


def test_anchors_lie_on_the_image_and_not_on_its_padding() -> None:
    padding = torch.zeros(1, 2, 4, dtype=torch.bool)
    padding[:, :, 3:] = True
    cells = torch.zeros(1, 8, 4)
    ratios = torch.tensor([[[0.75, 1.0]]])
    levels = FeatureLevels(cells, cells, padding.flatten(1), ((2, 4),), ratios)
    boxes, valid = anchors(levels)
    assert valid.flatten().tolist() == [True, True, True, False] * 2
    expected = torch.tensor([0.5, 1.5, 2.5]) / 3
    torch.testing.assert_close(boxes[0, :3, 0], expected)
    assert boxes[0, :4, 1].unique().tolist() == [0.25]
    assert boxes[..., 2:].unique().tolist() == pytest.approx([0.05])


class TestDenoising:
    generator = staticmethod(
        lambda **settings: CdnQueryGenerator(num_classes=5, embed_dims=4, **settings)
    )

    def test_queries_are_the_objects_with_noise(self) -> None:
        """Two groups for at most two objects: positives, then negatives, of each group."""
        generator = self.generator(group_cfg={"num_dn_queries": 4})
        torch.manual_seed(0)
        made = generator(TARGETS, SIZES)
        assert (made.groups, made.count, made.content.shape) == (2, 8, (2, 8, 4))
        assert made.targets.labels.tolist() == [[2, 0, 5, 5, 2, 0, 5, 5], [1, 5, 5, 5, 1, 5, 5, 5]]
        assert made.content[1, 1].eq(0).all()  # the second image has one object only
        assert made.boxes[1, 3].eq(0).all()
        wanted = made.targets.boxes[0, :2]
        size = torch.tensor([80, 64, 80, 64])
        corners = TARGETS[0]["boxes"] / size
        torch.testing.assert_close(wanted[:, 2:], corners[:, 2:] - corners[:, :2])

    def test_corners_move_by_up_to_half_the_size_and_for_negatives_by_more(self) -> None:
        corners = torch.tensor([[0.4, 0.4, 0.6, 0.6]]).repeat(50, 1)
        torch.manual_seed(0)
        noisy = cxcywh_to_xyxy(self.generator().noisy_boxes(corners, groups=3))
        moved = (noisy - 0.5).abs().sub(0.1).div(0.1)  # of half the size, outwards
        steps = moved.view(3, 2, 200)
        assert steps[:, 0].abs().max() <= 1.001
        outwards = steps[:, 1][steps[:, 1] > 0]
        assert outwards.min() >= 0.999
        assert 1.9 < outwards.max() <= 2.001

    def test_labels_change_with_half_the_probability(self) -> None:
        generator = self.generator(label_noise_scale=0.5)
        labels = torch.full((20_000,), 3)
        torch.manual_seed(0)
        changed = (generator.noisy_labels(labels) != 3).float().mean()
        assert changed == pytest.approx(0.25 * 4 / 5, abs=0.01)  # one in five draws the same label

    def test_groups_are_blind_to_each_other_and_hidden_from_matching_queries(self) -> None:
        made = self.generator(group_cfg={"num_dn_queries": 4})(TARGETS, SIZES)
        mask = made.mask(queries=3)
        assert mask.shape == (11, 11)
        assert mask[:4, :4].sum() == 0
        assert mask[:4, 4:8].all()
        assert mask[4:8, :4].all()
        assert mask[8:, :8].all()
        assert not mask[:, 8:].any()

    def test_fixed_groups_and_errors(self) -> None:
        generator = self.generator(group_cfg={"dynamic": False, "num_groups": 3})
        assert generator(TARGETS, SIZES).groups == 3
        with pytest.raises(ValueError, match="group_cfg needs num_groups with dynamic=False"):
            self.generator(group_cfg={"dynamic": False})
        with pytest.raises(ValueError, match="should be positive"):
            self.generator(box_noise_scale=0.0)


def test_distinct_queries_see_and_are_seen() -> None:
    selection = DistinctSelection.from_config({"type": "nms", "iou_threshold": 0.8})
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    before = torch.ones(1, 3, dtype=torch.bool)
    kept, candidates = selection.visible(boxes[None], scores, before)
    assert kept.tolist() == [[False, True, True]]
    assert candidates.tolist() == kept.tolist()
    mask = distinct_mask(torch.zeros(4, 4, dtype=torch.bool), kept, start=1, heads=2)
    assert mask.shape == (2, 4, 4)
    hidden = mask[0].nonzero().tolist()
    assert hidden == [[1, 1]]
    kept, candidates = selection.visible(boxes[None], torch.tensor([[0.9, 0.1, 0.5]]), before)
    assert kept[0, 0]
    assert candidates.all()  # the original's rule: the first query is kept, so all stay candidates


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dino_config(as_two_stage=False), "DINO needs with_box_refine=True and as_two_stage=True"),
        ({**deformable_config(), "encoder": None}, "DeformableDETR needs `encoder` and `decoder`"),
        (ddq_config(dqs_cfg={"type": "soft_nms"}), r"dqs_cfg should be dict\(type='nms'"),
    ],
)
def test_errors(config: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, BuildError), match=message):
        build(config)
