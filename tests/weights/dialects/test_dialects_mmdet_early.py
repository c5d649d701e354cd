"""Checkpoints with names that MMDetection has given up."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from cupola.errors import CheckpointError
from cupola.registry import build
from cupola.weights import load_weights
from cupola.weights.loading import translate
from models.rcnn.rcnn_families import cascade_rpn, point_proposals
from models.rcnn.rcnn_small import RPN, model

State = dict[str, Tensor]
FCOS: dict[str, Any] = {
    "type": "FCOS",
    "backbone": {"type": "ResNet", "depth": 18, "base_channels": 8, "out_indices": [1, 2]},
    "neck": {"type": "FPN", "in_channels": [16, 32], "out_channels": 8, "num_outs": 2},
    "bbox_head": {**point_proposals()["rpn_head"], "num_classes": 3},
}


def check(config: dict[str, Any], early: State, dialect: str, wanted: State) -> None:
    """A model loads `early` and has the weights `wanted`."""
    made = build(config)
    assert load_weights(made, early).dialect == dialect
    for key, value in made.state_dict().items():
        assert torch.equal(value, wanted[key]), key


def random_state(config: dict[str, Any]) -> State:
    torch.manual_seed(0)
    state = build(config).state_dict()
    return {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in state.items()}


def with_background(key: str, value: Tensor) -> Tensor:
    """A layer of 1.x: the background is class 0 and has its own box and mask."""
    if ".fc_cls." in key:
        return torch.cat((value[-1:], value[:-1]))
    rows = 4 if ".fc_reg." in key and len(value) == 12 else 1 if ".conv_logits." in key else 0
    return torch.cat((torch.full_like(value[:rows], 9.0), value)) if rows else value


@pytest.mark.parametrize("options", [{}, {"masks": True}, {"masks": True, "cascade": True}])
def test_two_stages_of_1_x(options: dict[str, bool]) -> None:
    config = model(**options)
    wanted = random_state(config)
    early = {k.removeprefix("roi_head."): with_background(k, v) for k, v in wanted.items()}
    check(config, early, "mmdet-1", wanted)
    # and of other classes the first of them is not taken for the background
    layer = next(key for key in early if key.endswith("fc_reg.weight"))
    early[layer] = torch.ones(28, 8)
    with pytest.raises(CheckpointError, match=r"fc_reg.weight: shape \(28, 8\) in the checkpoint"):
        load_weights(build(config), early)


@pytest.mark.parametrize("name", ["fcos", "fovea"])
def test_points(name: str) -> None:
    wanted = random_state(FCOS)
    early = {
        k.replace(".conv_", f".{name}_") if "bbox_head" in k else k: v for k, v in wanted.items()
    }
    early = {k.replace(f".{name}_centerness", ".centerness"): v for k, v in early.items()}
    assert early.keys() != wanted.keys()
    check(FCOS, early, "mmdet-early-points", wanted)


@pytest.mark.parametrize("given", ["rpn_head", "bbox_head"])
@pytest.mark.parametrize("head", [RPN, cascade_rpn()["rpn_head"]], ids=["plain", "cascade"])
def test_the_head_of_an_rpn_has_either_name(given: str, head: dict[str, Any]) -> None:
    """It is bbox_head in 3.x, rpn_head in 2.x."""
    settings = {key: value for key, value in model().items() if key in ("backbone", "neck")}
    config = {"type": "RPN", **settings, "rpn_head": head, "test_cfg": model()["test_cfg"]["rpn"]}
    wanted = random_state(config)
    early = {re.sub("^(rpn|bbox)_head", given, key): value for key, value in wanted.items()}
    made = build(config)
    report = load_weights(made, early)
    assert report.dialect == ("cupola" if early.keys() == wanted.keys() else "mmdet-rpn")
    for key, value in made.state_dict().items():
        assert torch.equal(value, wanted[key]), key


def test_offsets_of_deformable_convolutions() -> None:
    deformable = {"type": "DCNv2", "deform_groups": 1, "fallback_on_stride": False}
    backbone = {"depth": 50, "dcn": deformable, "stage_with_dcn": (False, True, True, True)}
    config = {**FCOS, "backbone": {**FCOS["backbone"], **backbone}}
    config["neck"] = {**FCOS["neck"], "in_channels": [64, 128]}
    wanted = random_state(config)
    early = {k.replace("conv2.conv_offset.", "conv2_offset."): v for k, v in wanted.items()}
    assert "backbone.layer2.0.conv2_offset.weight" in early
    check(config, early, "cupola", wanted)


def test_ssd_before_2_14() -> None:
    """Names alone: the numbers stand for tensors."""
    early = {
        "backbone.features.0.weight": "backbone.features.0.weight",
        "backbone.extra.0.weight": "neck.extra_layers.0.0.conv.weight",
        "backbone.extra.3.bias": "neck.extra_layers.1.1.conv.bias",
        "backbone.extra.10.weight": "neck.extra_layers.5.0.conv.weight",
        "backbone.l2_norm.weight": "neck.l2_norm.weight",
        "bbox_head.cls_convs.0.weight": "bbox_head.cls_convs.0.0.weight",
        "bbox_head.reg_convs.5.bias": "bbox_head.reg_convs.5.0.bias",
    }
    numbers = {key: torch.tensor(i) for i, key in enumerate(early)}
    own = {key: torch.tensor(0) for key in early.values()}
    dialect, found = translate(numbers, own)
    assert dialect == "mmdet-early-ssd"
    assert found == {early[key]: value for key, value in numbers.items()}
