"""DETR against facebookresearch/detr and transformers: weights are loaded by dialect."""

import copy
from typing import Any

import pytest
import torch

from cupola.models import detr, detr3d, layers
from cupola.models.detr import nested
from cupola.registry import MODELS, build
from cupola.structures import pad_images
from cupola.structures.boxes import cxcywh_to_xyxy, scale
from cupola.weights import load_weights
from golden import Golden, golden

MMDET = golden("detr_mmdet").config["model"]


def facebook_config(queries: int, dc5_prenorm: bool = False) -> dict[str, Any]:
    cfg = copy.deepcopy(MMDET)
    cfg["num_queries"] = queries
    cfg["bbox_head"]["num_classes"] = 91
    cfg["test_cfg"] = {"max_per_img": None, "clamp": False}
    if dc5_prenorm:
        cfg["backbone"].update(strides=(1, 2, 2, 1), dilations=(1, 1, 1, 2))
        cfg["backbone"]["dilate_first_block"] = False
        for part in ("encoder", "decoder"):
            cfg[part]["layer_cfg"]["pre_norm"] = True
    return cfg


def joined(images: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    batch = pad_images(images)
    assert batch.padding_mask is not None
    return batch.pixels, batch.padding_mask


def targets(reference: Golden, sizes: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
    return [
        {
            "boxes": scale(cxcywh_to_xyxy(reference.stored(f"gt_boxes{i}")), size),
            "labels": reference.stored(f"gt_labels{i}"),
        }
        for i, size in enumerate(sizes)
    ]


@pytest.mark.parametrize(
    "name", [pytest.param("detr_facebook", marks=pytest.mark.slow), "detr_facebook_dc5_prenorm"]
)
def test_facebook(name: str) -> None:
    reference = golden(name)
    queries = reference.config["num_queries"]
    model = build(facebook_config(queries, reference.config["pre_norm"])).eval()
    report = load_weights(model, reference.weights())
    assert report.dialect == "facebook"
    assert not report.unexpected

    shapes = [reference.json["inputs"][f"image{i}"]["shape"] for i in range(2)]
    images = [reference.image(f"image{i}", [1, *shape])[0] for i, shape in enumerate(shapes)]
    sizes = [(shape[1], shape[2]) for shape in shapes]
    pixels, mask = joined(images)
    output = model(pixels, mask)
    assert reference.difference("all_pred_logits", output.logits) < 1e-3
    assert reference.difference("all_pred_boxes", output.boxes) < 1e-4

    losses = model.bbox_head.loss(output, targets(reference, sizes), sizes)
    for layer in range(6):
        ours, theirs = (f"d{layer}.", f"_{layer}") if layer < 5 else ("", "")
        for our_name, their_name, weight in (
            ("loss_cls", "loss_ce", 1),
            ("loss_bbox", "loss_bbox", 5),
            ("loss_iou", "loss_giou", 2),
        ):
            expected = weight * float(reference.output(f"loss/{their_name}{theirs}"))
            assert losses[ours + our_name].item() == pytest.approx(expected, rel=1e-4)

    originals = reference.stored("target_sizes").tolist()
    batch = {
        "pixels": pixels,
        "padding_mask": mask,
        "image_sizes": [tuple(size) for size in originals],
    }
    for i, found in enumerate(model.predict(batch)):
        assert reference.difference(f"post{i}_boxes", found.boxes) < 0.1
        assert reference.difference(f"post{i}_scores", found.scores) < 1e-3
        assert reference.difference(f"post{i}_labels", found.labels) == 0


@pytest.mark.slow
def test_transformers() -> None:
    reference = golden("detr_hf")
    model = build(facebook_config(100)).eval()
    report = load_weights(model, reference.weights())
    assert report.dialect == "hf-detr"
    pixels = reference.image("image", [2, 3, 512, 640])
    sizes = [tuple(shape) for shape in reference.json["inputs"]["shapes"]]
    mask = torch.ones(2, 512, 640, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    pixels[mask[:, None].expand_as(pixels)] = 0
    output = model(pixels, mask)
    assert reference.difference("all_logits", output.logits) < 1e-3
    assert reference.difference("all_pred_boxes", output.boxes) < 1e-4

    wanted = targets(reference, sizes)
    losses = model.bbox_head.loss(output, wanted, sizes)
    total = sum(losses[name] for name in ("loss_cls", "loss_bbox", "loss_iou"))
    assert total.item() == pytest.approx(float(reference.output("loss")), rel=1e-4)
    total.backward()
    named = dict(model.named_parameters())
    # Our float32 and float64 gradients of the first two differ by 3e-3 of the largest value: they
    # pass through every layer, and ReLUs flip. The last two do not.
    for theirs, ours, bound in (
        ("model.query_position_embeddings.weight", "query_embedding.weight", 1e-2),
        ("model.input_projection.bias", "neck.convs.0.conv.bias", 1e-2),
        ("model.decoder.layernorm.weight", "decoder.post_norm.weight", 1e-3),
        ("class_labels_classifier.weight", "bbox_head.fc_cls.weight", 1e-3),
    ):
        assert reference.relative(f"grad/{theirs}", named[ours].grad) < bound


NESTED_2X = {
    "type": "DETR",
    "backbone": MMDET["backbone"],
    "bbox_head": {
        "type": "DETRHead",
        "num_classes": 80,
        "in_channels": 2048,
        "transformer": {
            "type": "Transformer",
            "encoder": {
                "type": "DetrTransformerEncoder",
                "num_layers": 6,
                "transformerlayers": {
                    "type": "BaseTransformerLayer",
                    "attn_cfgs": [
                        {"type": "MultiheadAttention", "embed_dims": 256, "num_heads": 8}
                    ],
                    "feedforward_channels": 2048,
                    "ffn_dropout": 0.1,
                    "operation_order": ("self_attn", "norm", "ffn", "norm"),
                },
            },
            "decoder": {
                "type": "DetrTransformerDecoder",
                "return_intermediate": True,
                "num_layers": 6,
                "transformerlayers": {
                    "type": "DetrTransformerDecoderLayer",
                    "attn_cfgs": {
                        "type": "MultiheadAttention",
                        "embed_dims": 256,
                        "num_heads": 8,
                        "dropout": 0.1,
                    },
                    "feedforward_channels": 2048,
                    "ffn_dropout": 0.1,
                    "operation_order": ("self_attn", "norm", "cross_attn", "norm", "ffn", "norm"),
                },
            },
        },
        "positional_encoding": {
            "type": "SinePositionalEncoding",
            "num_feats": 128,
            "normalize": True,
        },
        "loss_cls": MMDET["bbox_head"]["loss_cls"],
        "loss_bbox": MMDET["bbox_head"]["loss_bbox"],
        "loss_iou": MMDET["bbox_head"]["loss_iou"],
    },
    "train_cfg": {
        "assigner": {
            "type": "HungarianAssigner",
            "cls_cost": {"type": "ClassificationCost", "weight": 1.0},
            "reg_cost": {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
            "iou_cost": {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
        }
    },
    "test_cfg": {"max_per_img": 100},
}


def test_configs_of_both_versions_build_the_same_model() -> None:
    """The 2.x build loads a 3.x checkpoint, and has the same outputs and checkpoint."""
    weights = golden("detr_mmdet").weights()
    ours, theirs = build(MMDET).eval(), build(NESTED_2X).eval()
    assert load_weights(ours, weights).dialect == "cupola"
    assert load_weights(theirs, weights).dialect == "mmdet3"
    pixels = torch.randn(1, 3, 96, 128, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(1, 96, 128, dtype=torch.bool)
    mask[:, :, 100:] = True
    with torch.no_grad():
        a, b = ours(pixels, mask), theirs(pixels, mask)
    torch.testing.assert_close(a.logits, b.logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(a.boxes, b.boxes, rtol=0, atol=1e-6)

    state = theirs.state_dict()
    assert "bbox_head.transformer.decoder.layers.5.attentions.1.attn.in_proj_weight" in state
    assert load_weights(ours, state).dialect == "mmdet2"
    for key, value in ours.state_dict().items():
        torch.testing.assert_close(value, weights[key], rtol=0, atol=0)


def test_a_registered_name_is_the_exported_class_of_that_name() -> None:
    for module in (detr, detr3d, layers):
        for name in module.__all__:
            found = MODELS.find(name)
            nested = found is not None and found.__module__.endswith(".nested")  # 2.x only
            assert nested or found in (None, getattr(module, name)), name
    assert MODELS.get("DetrTransformerEncoder") is detr.DetrTransformerEncoder
    encoder = build({"type": "DetrTransformerEncoder", **MMDET["encoder"]})
    assert encoder.state_dict().keys() == build(MMDET).encoder.state_dict().keys()


@pytest.mark.parametrize("prefix", ["", "mmdet."])
def test_inside_a_transformer_the_names_are_those_of_mmdetection_2(prefix: str) -> None:
    cfg = copy.deepcopy(NESTED_2X["bbox_head"]["transformer"])
    for part in ("encoder", "decoder"):
        cfg[part]["type"] = prefix + cfg[part]["type"]
    transformer = build(cfg)
    assert type(transformer.encoder) is nested.NestedEncoder
    assert type(transformer.decoder) is nested.NestedDecoder
