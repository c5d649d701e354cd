"""A prepared model answers as the plain one does."""

import torch

import cupola
from cupola import nn
from cupola.runtime.engines import prepare


def test_folding_changes_rounding_only() -> None:
    torch.manual_seed(0)
    model = cupola.build({"type": "ResNet", "depth": 50, "base_channels": 8, "stem_channels": 8})
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    model.eval()
    prepared = prepare(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in prepared.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 53
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, plain in zip(prepared(x), model(x), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)
