"""MaskFormer and Mask2Former against mmdet 3.3.0, in double precision on small models.

In single precision Mask2Former amplifies rounding: a cell whose mask logit is near 0 is attended to
or not. Random points of the losses are drawn from the same seed in the same order.
"""

import json
import lzma
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola import nn
from cupola.registry import build
from cupola.weights import load_weights
from golden import FOLDER, golden
from goldens import seeded
from zoo import ZooModel

GOLDEN = golden("masks_mmdet")
PUBLISHED: dict[str, Any] = json.loads(
    lzma.decompress((Path(FOLDER) / "zoo" / "published_masks.json.xz").read_bytes())
)


class Case:
    """A small model of the golden with its weights and batch, in float64."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.json = GOLDEN.json["cases"][name]
        self.model = build(self.json["model"])
        own = self.model.state_dict()
        self.keys = [[key, list(v.shape), str(v.dtype)[6:]] for key, v in own.items()]
        weights = {
            key: torch.from_numpy(seeded.seeded_weight(f"{name}.{key}", shape, "", dtype))
            * (2.5 if key.endswith("cls_embed.weight") else 1.0)
            for key, shape, dtype in self.json["keys"]
            if dtype.startswith("float")
        }
        self.model.load_state_dict({**own, **weights})
        self.model.double().eval()
        pixels = GOLDEN.image(name, self.json["image"]).double()
        mask = torch.ones(len(pixels), *pixels.shape[2:], dtype=torch.bool)
        sizes = [tuple(size) for size in self.json["sizes"]]
        for i, (h, w) in enumerate(sizes):
            mask[i, :h, :w] = False
        self.batch = {
            "pixels": pixels.masked_fill(mask[:, None], 0.0),
            "padding_mask": mask,
            "image_sizes": sizes,
            "original_sizes": [tuple(size) for size in self.json["originals"]],
            "targets": self.targets(pixels.shape[2:]),
        }

    def targets(self, size) -> list[dict[str, Tensor]]:
        head = self.json["model"]["panoptic_head"]
        found = []
        for boxes, labels in zip(self.json["boxes"], self.json["labels"], strict=True):
            masks = torch.zeros(len(boxes), *size, dtype=torch.bool)
            for mask, (left, top, right, bottom) in zip(masks, boxes, strict=True):
                mask[top:bottom, left:right] = True
            if boxes and head["num_stuff_classes"]:
                stuff = torch.zeros(2, *size, dtype=torch.bool)
                stuff[0, :8], stuff[1, 100:, :60] = True, True
                masks = torch.cat((masks, stuff))
                things = head["num_things_classes"]
                labels = [*labels, things, things + 2]
            found.append({"labels": torch.tensor(labels, dtype=torch.int64), "masks": masks})
        return found


@pytest.fixture(scope="module", params=GOLDEN.json["cases"])
def case(request: pytest.FixtureRequest) -> Iterator[Case]:
    yield Case(request.param)


def test_keys_features_and_outputs(case: Case) -> None:
    assert case.keys == case.json["keys"]
    model, batch = case.model, case.batch
    with torch.no_grad():
        for index, found in enumerate(model.extract(batch["pixels"])):
            assert GOLDEN.relative(f"{case.name}.feat.{index}", found) < 1e-9
        output = model(batch["pixels"], batch["padding_mask"])
        last = model(batch["pixels"], batch["padding_mask"], last_only=True)
    assert GOLDEN.relative(f"{case.name}.logits", output.logits) < 1e-5
    assert GOLDEN.relative(f"{case.name}.masks", output.masks) < 1e-5
    assert torch.equal(last.logits[0], output.logits[-1])
    assert (last.masks[0] - output.masks[-1]).abs().max() < 1e-9


def test_predictions_at_the_original_size(case: Case) -> None:
    for index, found in enumerate(case.model.predict(case.batch)):
        name = f"{case.name}.pred{index}"
        if f"{name}.panoptic" in GOLDEN.json["outputs"]:
            assert GOLDEN.difference(f"{name}.panoptic", found.panoptic.ids) == 0
            masks = found.panoptic.masks()
            areas = [segment.area for segment in found.panoptic.segments]
            assert masks.sum((1, 2)).tolist() == areas
        if f"{name}.scores" in GOLDEN.json["outputs"]:
            assert GOLDEN.difference(f"{name}.scores", found.scores) < 1e-5
            assert GOLDEN.difference(f"{name}.labels", found.labels) == 0
            assert GOLDEN.difference(f"{name}.boxes", found.boxes) == 0
            assert GOLDEN.difference(f"{name}.areas", found.masks.sum((1, 2))) <= 1
        else:  # the segments themselves
            assert len(found) == len(found.panoptic.segments)
            assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)


def test_losses_and_gradients_with_the_same_draws(case: Case) -> None:
    case.model.zero_grad()
    torch.manual_seed(case.json["seed"])
    losses = case.model.loss(case.batch)
    assert {name: value.item() for name, value in losses.items()} == pytest.approx(
        case.json["losses"], rel=1e-5
    )
    sum(losses.values()).backward()
    parameters = dict(case.model.named_parameters())
    for name in GOLDEN.json["outputs"]:
        of_case, _, parameter = name.partition(".grad.")
        if of_case == case.name and parameter:
            assert GOLDEN.relative(name, parameters[parameter].grad) < 1e-4


def test_batches_are_padded_to_the_divisor() -> None:
    model = build(GOLDEN.json["cases"]["maskformer_resnet"]["model"]).eval()
    pixels = torch.randn(1, 3, 60, 90)
    mask = torch.ones(1, 64, 96, dtype=torch.bool)
    mask[:, :60, :90] = False
    padded = torch.nn.functional.pad(pixels, (0, 6, 0, 4))
    target = {"labels": torch.tensor([1]), "masks": torch.ones(1, 60, 90, dtype=torch.bool)}
    losses = [
        model.loss({"pixels": each, "padding_mask": padding, "targets": [target]})["loss_mask"]
        for each, padding in ((pixels, None), (padded, mask))
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_the_keys_of_mmdet(name: str) -> None:
    """13 configs of MMDetection 3.x and 13 of 2.x, of which `keys` are mmdet's own."""
    with nn.on_meta():
        model = build(PUBLISHED[name]["model"])
    found = [[key, list(v.shape), str(v.dtype)[6:]] for key, v in model.state_dict().items()]
    assert found == PUBLISHED[name]["keys"]


@pytest.mark.slow
def test_published_maskformer_at_full_size() -> None:
    zoo = ZooModel("maskformer_r50_ms-16xb1-75e_coco")
    model, batch = zoo.model, zoo.batch
    with torch.no_grad():
        for index, found in enumerate(model.extract(batch["pixels"])):
            assert zoo.relative(f"feat.{index}", found) < 1e-4
        output = model(batch["pixels"], batch["padding_mask"])
    assert zoo.relative("raw.0", output.logits) < 1e-4
    assert zoo.relative("raw.1", output.masks) < 1e-4
    for index, found in enumerate(model.predict(batch)):
        assert zoo.relative(f"pred{index}.panoptic", found.panoptic.ids[None]) == 0


@pytest.mark.slow
def test_published_mask2former_at_full_size() -> None:
    """Up to the second layer; then mmdet itself differs from its golden on another processor."""
    zoo = ZooModel("mask2former_r50_8xb2-lsj-50e_coco-panoptic")
    with torch.no_grad():
        output = zoo.model(zoo.batch["pixels"], zoo.batch["padding_mask"])
    for layer in range(2):
        assert zoo.relative(f"raw.0.{layer}", output.logits[layer]) < 1e-4
        assert zoo.relative(f"raw.1.{layer}", output.masks[layer]) < 1e-4
    for index, found in enumerate(zoo.model.predict(zoo.batch)):
        assert zoo.relative(f"pred{index}.panoptic", found.panoptic.ids[None]) == 0
        stored = torch.from_numpy(zoo.tensors[f"out.pred{index}.scores"])
        assert abs(len(found) - len(stored)) < 12


def in_2x(model: dict[str, Any]) -> dict[str, Any]:
    """The model's config as MMDetection 2.x spells it."""

    def layers(cfg: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
        layer = cfg["layer_cfg"]
        deformable = "num_points" in layer["self_attn_cfg"]
        kind = "MultiScaleDeformableAttention" if deformable else "MultiheadAttention"
        attention = {**layer["self_attn_cfg"], "type": kind, "batch_first": False}
        order = [step for name in names for step in (name, "norm")]
        transformerlayers = {
            "type": "BaseTransformerLayer",
            "attn_cfgs": attention,
            "ffn_cfgs": layer["ffn_cfg"],
            "operation_order": order,
        }
        return {"num_layers": cfg["num_layers"], "transformerlayers": transformerlayers}

    head = dict(model["panoptic_head"])
    positions = {"type": "SinePositionalEncoding", **head["positional_encoding"]}
    decoder = ("self_attn", "cross_attn", "ffn")
    if head["type"] == "Mask2FormerHead":
        decoder = ("cross_attn", "self_attn", "ffn")
    encoder = layers(head["pixel_decoder"]["encoder"], ("self_attn", "ffn"))
    head |= {
        "positional_encoding": positions,
        "pixel_decoder": {
            **head["pixel_decoder"],
            "positional_encoding": positions,
            "encoder": {"type": "DetrTransformerEncoder", **encoder},
        },
        "transformer_decoder": {
            "type": "DetrTransformerDecoder",
            "return_intermediate": True,
            **layers(head["transformer_decoder"], decoder),
        },
    }
    cls, mask, dice = model["train_cfg"]["assigner"]["match_costs"]
    assigner = {
        "type": "MaskHungarianAssigner",
        "cls_cost": cls,
        "mask_cost": mask,
        "dice_cost": dice,
    }
    training = {**model["train_cfg"], "assigner": assigner}
    return {**model, "panoptic_head": head, "train_cfg": training}


@pytest.mark.parametrize("name", ["maskformer_resnet", "mask2former_resnet_panoptic"])
def test_configs_of_2x_compute_the_same(name: str) -> None:
    case = Case(name)
    old = build(in_2x(case.json["model"])).eval()
    assert load_weights(old, case.model.float().state_dict()).dialect == "masks_mmdet3"
    case.model.double()
    old.double()
    with torch.no_grad():
        ours = case.model(case.batch["pixels"], case.batch["padding_mask"])
        theirs = old(case.batch["pixels"], case.batch["padding_mask"])
    assert (ours.logits - theirs.logits).abs().max() < 1e-9
    assert (ours.masks - theirs.masks).abs().max() < 1e-9
    torch.manual_seed(0)
    losses = case.model.loss(case.batch)
    torch.manual_seed(0)
    others = old.loss(case.batch)
    assert {k: v.item() for k, v in losses.items()} == pytest.approx(
        {k: v.item() for k, v in others.items()}
    )
