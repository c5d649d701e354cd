"""VoVNet against its definition, written with plain functions over the published keys."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.vovnet import SPECS, VoVNet

State = dict[str, Tensor]


def unit(state: State, name: str, x: Tensor, stride: int = 1, padding: int = 1) -> Tensor:
    """Convolution, batch norm on its running statistics, ReLU."""
    x = F.conv2d(x, state[f"{name}/conv.weight"], stride=stride, padding=padding)
    norm = [state[f"{name}/norm.{key}"] for key in ("running_mean", "running_var")]
    scale = [state[f"{name}/norm.{key}"] for key in ("weight", "bias")]
    return F.relu(F.batch_norm(x, *norm, *scale))


def plain_vovnet(state: State, spec: str, x: Tensor) -> list[Tensor]:
    """stage2 to stage5 (arXiv 1911.06667, figure 2 and section 3)."""
    for number, stride in ((1, 2), (2, 1), (3, 2)):
        x = unit(state, f"stem.stem_{number}", x, stride)
    stages = []
    for stage in range(2, 6):
        if stage > 2:
            x = F.max_pool2d(x, 3, 2, ceil_mode=True)
        for block in range(1, SPECS[spec].blocks[stage - 2] + 1):
            name = f"stage{stage}.OSA{stage}_{block}"
            inner, parts = x, [x]
            for layer in range(SPECS[spec].layers):
                inner = unit(state, f"{name}.layers.{layer}.OSA{stage}_{block}_{layer}", inner)
                parts.append(inner)
            out = unit(state, f"{name}.concat.OSA{stage}_{block}_concat", torch.cat(parts, 1), 1, 0)
            mean = out.mean((2, 3), keepdim=True)
            gate = F.conv2d(mean, state[f"{name}.ese.fc.weight"], state[f"{name}.ese.fc.bias"])
            out = out * F.hardsigmoid(gate)
            x = out + x if block > 1 else out
        stages.append(x)
    return stages


@pytest.mark.parametrize("spec", ["V-19-slim-eSE", "V-39-eSE"])
def test_every_stage(spec: str) -> None:
    torch.manual_seed(0)
    net = VoVNet(spec).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    x = torch.randn(2, 3, 50, 70)  # odd maps: where ceil_mode tells
    with torch.no_grad():
        expected = plain_vovnet(dict(net.state_dict()), spec, x)
        for ours, plain in zip(net(x), expected, strict=True):
            assert (ours - plain).abs().max() < 1e-5 * plain.abs().max()
