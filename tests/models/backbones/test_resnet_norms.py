"""ResNet with the norms that configs name: batch norm, also synchronized; frozen statistics."""

from pathlib import Path

import pytest
import torch

import cupola
import cupola.models
from cupola import nn
from cupola.models.backbones.resnet import ResNet
from cupola.models.layers import build_norm

PUBLISHED = Path(cupola.__file__).parent / "configs" / "detr" / "detr_r50.py"


def sync_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]


def test_configs_can_use_sync_bn() -> None:
    layer = build_norm({"type": "SyncBN", "requires_grad": False}, 8)
    assert isinstance(layer, nn.SyncBatchNorm)
    assert layer.weight is not None and not layer.weight.requires_grad


def test_a_published_config_builds_with_sync_bn() -> None:
    model = cupola.Config.load(PUBLISHED).model.to_dict()
    model["backbone"]["norm_cfg"] = {"type": "SyncBN", "requires_grad": True}
    assert len(sync_norms(cupola.build(model))) == 53  # every norm of ResNet-50


@pytest.mark.parametrize("kind", ["BN", "SyncBN"])
def test_training_does_not_change_batch_norm_statistics(kind: str) -> None:
    net = ResNet(18, norm_cfg={"type": kind}, norm_eval=True).train()
    before = net.bn1.running_mean.clone()
    net(torch.randn(2, 3, 32, 32))
    assert torch.equal(net.bn1.running_mean, before)
    assert net.training and not net.layer4[1].bn2.training


def test_sync_bn_equals_batch_norm_in_one_process() -> None:
    plain = ResNet(18, norm_cfg={"type": "BN"}, norm_eval=False)
    synced = ResNet(18, norm_cfg={"type": "SyncBN"}, norm_eval=False)
    synced.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for ours, theirs in zip(synced(x), plain(x), strict=True):
        torch.testing.assert_close(ours, theirs)
