"""VoVNet: shapes, strides, state keys, freezing."""

import pytest
import torch
from torch.export import Dim

from cupola import nn
from cupola.models.backbones.vovnet import SPECS, VoVNet


@pytest.mark.parametrize("name", ["V-19-slim-dw-eSE", "V-19-slim-eSE"])
def test_shapes(name: str) -> None:
    net = VoVNet(name, out_features=("stem", "stage2", "stage5")).eval()
    with torch.no_grad():
        stem, stage2, stage5 = net(torch.randn(1, 3, 64, 96))
    assert stem.shape[-2:] == stage2.shape[-2:] == (16, 24)
    assert stage5.shape == (1, 512, 2, 3)


def test_v99_has_the_published_keys() -> None:
    state = VoVNet("V-99-eSE").state_dict()
    assert "stem.stem_1/conv.weight" in state
    assert "stage2.OSA2_1.layers.4.OSA2_1_4/norm.running_mean" in state
    assert "stage4.OSA4_9.concat.OSA4_9_concat/conv.weight" in state
    assert "stage5.OSA5_3.ese.fc.bias" in state
    assert sum(v.numel() for k, v in state.items() if "running" not in k) > 65e6


def test_freezing_and_eval_norms_survive_train() -> None:
    net = VoVNet("V-19-slim-eSE", frozen_stages=1).train()
    assert not any(p.requires_grad for p in net.stem.parameters())
    assert not any(p.requires_grad for p in net.stage2.parameters())
    assert all(p.requires_grad for p in net.stage3.parameters())
    assert not any(m.training for m in net.modules() if type(m).__name__ == "BatchNorm2d")


def test_an_unknown_spec_is_an_error() -> None:
    with pytest.raises(ValueError, match="spec_name is one of"):
        VoVNet("V-1000")
    assert "V-99-eSE" in SPECS


@pytest.mark.slow
def test_it_is_exported_for_any_size() -> None:
    net = VoVNet("V-19-slim-eSE", out_features=("stage4", "stage5")).eval()
    images, axes = torch.rand(2, 3, 64, 96), ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    with torch.no_grad():
        sizes = ((64, 96), (100, 132), (96, 236))
        expected = {size: net(torch.full((2, 3, *size), 0.5)) for size in sizes}
        traced = torch.export.export(nn.to_torch(net), (images,), dynamic_shapes=axes).module()
        for size, maps in expected.items():
            torch.testing.assert_close(traced(torch.full((2, 3, *size), 0.5)), maps)
