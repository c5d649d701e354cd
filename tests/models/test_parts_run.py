"""Backbones and necks of published configs on small images: gradients, types, layouts, export."""

from typing import Any

import pytest
import torch
from torch import Tensor

from cupola import nn
from cupola.registry import MODELS
from zoo_parts import KINDS, small_inputs, smallest

Inputs = Tensor | list[Tensor]
# Parameters that do not reach the outputs of the configs.
UNUSED = {"MobileNetV2": "conv2"}
LIGHT = ["BFP", "CSPNeXt", "FPN", "HRFPN", "MobileNetV2", "PyramidVisionTransformerV2", "SSDNeck"]


def smallest_part(name: str) -> tuple[nn.Module, Inputs]:
    """A module of the class and its inputs; of DyHead's blocks, one."""
    _, part, model = smallest(name)
    if name == "DyHead":
        model = [*model[:-1], {**model[-1], "num_blocks": 1}]
    return MODELS.build(model), small_inputs(part, model)


def converted(inputs: Inputs, **to: Any) -> Inputs:
    return [x.to(**to) for x in inputs] if isinstance(inputs, list) else inputs.to(**to)


def check_gradients_and_double(name: str) -> None:
    """Every trainable parameter gets a gradient, and float64 gives what float32 gives."""
    module, inputs = smallest_part(name)
    module.train()
    sum(out.square().mean() for out in module(inputs)).backward()
    trainable = {key: p for key, p in module.named_parameters() if p.requires_grad}
    without = [key for key, p in trainable.items() if p.grad is None]
    assert not [key for key in without if not key.startswith(UNUSED.get(name, "-"))]
    module.eval()
    with torch.no_grad():
        single = module(inputs)
        double = module.double()(converted(inputs, dtype=torch.float64))
    for ours, exact in zip(single, double, strict=True):
        assert exact.dtype == torch.float64
        assert (ours - exact).abs().max() <= 1e-3 * exact.abs().max()


def check_layout_and_export(name: str) -> None:
    """Channels-last inputs give the same maps, and so does the exported program."""
    module, inputs = smallest_part(name)
    module.eval()
    with torch.no_grad():
        plain = module(inputs)
        last = module(converted(inputs, memory_format=torch.channels_last))
    for ours, expected in zip(last, plain, strict=True):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()
    exported = torch.export.export(nn.to_torch(module), (inputs,))
    for ours, expected in zip(exported.module()(inputs), plain, strict=True):
        assert (ours - expected).abs().max() <= 1e-4 * expected.abs().max()


@pytest.mark.parametrize("name", LIGHT)
def test_gradients_and_double_of_light_classes(name: str) -> None:
    check_gradients_and_double(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in KINDS if name not in LIGHT])
def test_gradients_and_double(name: str) -> None:
    check_gradients_and_double(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_layout_and_export(name: str) -> None:
    check_layout_and_export(name)
