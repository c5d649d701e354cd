"""Options of Conditional DETR and DAB-DETR that the published configs do not use, and errors."""

import copy
from typing import Any

import pytest
import torch

from cupola.errors import BuildError
from cupola.registry import build
from models.conditional_detr.small import conditional_config, dab_config

PIXELS = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
TARGETS = [
    {"boxes": torch.tensor([[4.0, 8.0, 40.0, 50.0]]), "labels": torch.tensor([1])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]
BATCH = {"pixels": PIXELS, "image_sizes": [(64, 96)] * 2, "targets": TARGETS}


@pytest.mark.parametrize("config", [conditional_config(), dab_config()])
def test_every_parameter_gets_a_gradient(config: dict[str, Any]) -> None:
    model = build(config).train()
    losses = model.loss(BATCH)
    assert list(losses) == [
        "d0.loss_cls", "d0.loss_bbox", "d0.loss_iou", "loss_cls", "loss_bbox", "loss_iou"
    ]  # fmt: skip
    sum(losses.values()).backward()
    still = [name for name, value in model.named_parameters() if value.grad is None]
    assert still == []


@pytest.mark.parametrize("config", [conditional_config(), dab_config(num_patterns=2)])
def test_groups_of_queries_are_matched_separately(config: dict[str, Any]) -> None:
    """With equal groups the loss is that of one group, so the groups do not attend to another."""
    one = build(config)
    three = build({**config, "training_groups": 3})
    state = one.state_dict()
    queries = state["query_embedding.weight"]
    three.load_state_dict({**state, "further_query_embedding.weight": queries.repeat(2, 1)})
    with torch.no_grad():
        expected, found = one.train().loss(BATCH), three.train().loss(BATCH)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "channels"),
    [
        ({"query_scale_type": "cond_scalar"}, None),
        ({"query_scale_type": "fix_elewise"}, None),
        ({"query_dim": 2, "with_modulated_hw_attn": False}, 2),
        ({"return_intermediate": False}, None),
    ],
)
def test_forms_of_the_anchors(options: dict[str, Any], channels: int | None) -> None:
    config = dab_config()
    config["decoder"] |= options
    model = build(config).eval()
    if channels:
        assert model.query_embedding.weight.shape[1] == channels
    layers = 2 if options.get("return_intermediate", True) else 1
    with torch.no_grad():
        whole, boxes = model(PIXELS)
        alone, _ = model(PIXELS[:1])
    assert whole.shape[:3] == boxes.shape[:3] == (layers, 2, 7)
    torch.testing.assert_close(whole[:, :1], alone, rtol=0, atol=1e-4)


def test_random_reference_points_begin_uniformly() -> None:
    torch.manual_seed(0)
    model = build({**dab_config(), "with_random_refpoints": True, "num_queries": 2000})
    centers = model.query_embedding.weight[:, :2].sigmoid()
    assert (centers.quantile(0.25) - 0.25).abs() < 0.03


@pytest.mark.parametrize("config", [conditional_config(), dab_config()])
def test_what_a_query_attended_to(config: dict[str, Any]) -> None:
    seen = build(config).inspect(PIXELS[:1])
    assert seen["attention"].shape == (7, 2, 3)
    torch.testing.assert_close(seen["attention"].sum((1, 2)), torch.ones(7))
    assert seen["scores"].shape == (7, 3)


@pytest.mark.parametrize(
    ("part", "options", "message"),
    [
        ("decoder", {"query_dim": 3}, r"query_dim is 4 \(anchor boxes\) or 2 \(points\), got 3"),
        ("decoder", {"query_scale_type": "x"}, "query_scale_type is one of .*cond_elewise"),
        ("decoder", {"query_dim": 2}, "with_modulated_hw_attn needs anchors with sides"),
        ("attention", {"batch_first": False}, "batch_first is always True"),
        ("attention", {"num_heads": 5}, "embed_dims 16 is not divisible by num_heads 5"),
    ],
)
def test_errors(part: str, options: dict[str, Any], message: str) -> None:
    config = copy.deepcopy(dab_config())
    decoder = config["decoder"]
    where = decoder if part == "decoder" else decoder["layer_cfg"]["cross_attn_cfg"]
    where |= options
    with pytest.raises(BuildError, match=message):
        build(config)


def test_there_is_no_2x_form() -> None:
    config = conditional_config()
    config["bbox_head"]["transformer"] = {"type": "Transformer"}
    with pytest.raises(BuildError, match="unexpected keyword argument 'transformer'"):
        build(config)
