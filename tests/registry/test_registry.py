"""Registry: names, scopes, building, and errors that name the path."""

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError
from cupola.registry import MODELS, Registry, build, default_scope
from cupola.registry.registries import build_sequential


@pytest.fixture
def parts() -> Registry:
    """A registry with a model of three levels and a child of scope `other`."""
    registry = Registry("models", list_builder=build_sequential)

    @registry.register_module(["Loss", "FocalLoss"])
    class Loss(nn.Module):
        def __init__(self, gamma: float = 2.0) -> None:
            super().__init__()
            self.gamma = gamma

    @registry.register_module()
    class Head(nn.Module):
        def __init__(self, dim: int, loss_cls: Mapping[str, Any], extra: Any = None) -> None:
            super().__init__()
            self.fc = nn.Linear(dim, dim)
            self.loss_cls = registry.build(loss_cls)
            if isinstance(loss_cls, dict):
                loss_cls.pop("type")  # as careless constructors do

    @registry.register_module()
    class Detector(nn.Module):
        def __init__(self, bbox_head: Mapping[str, Any]) -> None:
            super().__init__()
            self.bbox_head = registry.build({**bbox_head, "extra": 1})

    other = Registry("models", parent=registry, scope="other")

    @other.register_module("Loss")
    class OtherLoss(Loss):
        pass

    return registry


def config(**loss: Any) -> dict[str, Any]:
    head = {"type": "Head", "dim": 4, "loss_cls": {"type": "FocalLoss", **loss}}
    return {"type": "Detector", "bbox_head": head}


def test_building_does_not_change_the_config_and_repeats_under_one_seed(parts: Registry) -> None:
    cfg = config(gamma=1.0)
    before = copy.deepcopy(cfg)
    torch.manual_seed(0)
    first = parts.build(cfg)
    torch.manual_seed(0)
    second = parts.build(cfg)
    assert cfg == before
    assert torch.equal(first.bbox_head.fc.weight, second.bbox_head.fc.weight)
    assert first.bbox_head.loss_cls.gamma == 1.0


def test_an_unexpected_argument_deep_inside_names_the_whole_path(parts: Registry) -> None:
    message = r"model\.bbox_head\.loss_cls: unexpected argument 'gama', did you mean 'gamma'\?"
    with pytest.raises(BuildError, match=message):
        parts.build(config(gama=1.0))


def test_a_missing_argument_names_the_path_and_the_class(parts: Registry) -> None:
    cfg = config()
    del cfg["bbox_head"]["dim"]
    with pytest.raises(BuildError, match=r"model\.bbox_head: Head needs 'dim'"):
        parts.build(cfg)


def test_an_error_inside_a_constructor_names_the_path(parts: Registry) -> None:
    cfg = config()
    cfg["bbox_head"]["dim"] = "four"
    with pytest.raises(BuildError, match=r"model\.bbox_head: Head: TypeError: "):
        parts.build(cfg)


def test_a_miss_names_the_nearest_name_and_its_file() -> None:
    message = (
        r"model: 'DETRHaed' is not in the registry models; "
        r"did you mean 'DETRHead', from cupola/models/detr/head\.py\?"
    )
    with pytest.raises(BuildError, match=message):
        build({"type": "DETRHaed"})


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"dim": 1}, "model: a config to build needs a 'type'"),
        ({"type": 3}, "model: type is 3, neither a name nor a callable"),
        ("Head", "model: expected a dict to build from, got 'Head'"),
        ({"type": "os.system", "command": "true"}, "dotted paths are never imported"),
    ],
)
def test_what_cannot_be_built(cfg: Any, message: str) -> None:
    with pytest.raises(BuildError, match=message):
        MODELS.build(cfg)


def test_scopes(parts: Registry) -> None:
    assert parts.get("mmdet.Loss") is parts.get("Loss")
    assert parts.get("other.Loss") is not parts.get("Loss")
    assert parts.get("other.Head") is parts.get("Head")  # what a child lacks, its parent has
    assert type(parts.build({"type": "Loss", "_scope_": "other"})) is parts.get("other.Loss")
    with default_scope("other"):
        assert parts.get("Loss") is parts.get("other.Loss")
    with pytest.raises(KeyError, match="already has a child of scope 'other'"):
        Registry("models", parent=parts, scope="other")


def test_names_are_overwritten_only_when_forced(parts: Registry) -> None:
    with pytest.raises(KeyError, match="'Head' is already registered in models"):
        parts.register_module("Head", module=dict)
    parts.register_module("Head", module=dict, force=True)
    assert parts.get("Head") is dict
    assert "Head" in parts and "Heed" not in parts


def test_classes_and_callables_as_type_and_lists_as_sequential(parts: Registry) -> None:
    assert parts.build({"type": nn.Linear, "in_features": 2, "out_features": 3}).out_features == 3
    assert parts.build({"type": lambda a, b: a + b, "a": 1}, b=2) == 3
    chain = parts.build([{"type": "Loss"}, {"type": "FocalLoss", "gamma": 3}])
    assert isinstance(chain, nn.Sequential)
    assert chain[1].gamma == 3


def test_defaults_give_way_to_the_config(parts: Registry) -> None:
    assert parts.build({"type": "Loss", "gamma": 5}, gamma=1).gamma == 5
    assert parts.build({"type": "Loss"}, gamma=1).gamma == 1


def test_registries_describe_themselves(parts: Registry) -> None:
    assert repr(parts) == "Registry('models', scope='cupola', 4 names)"
    assert parts.children["other"].names() == ["Detector", "FocalLoss", "Head", "Loss"]
