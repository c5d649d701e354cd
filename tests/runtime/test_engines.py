"""A prepared model answers as the plain one does."""

import pytest
import torch

import cupola
from cupola import nn
from cupola.runtime.optimize.folding import fold_batch_norms
from cupola.runtime.optimize.onnx_engines import spinning

DCN = {"dcn": {"type": "DCNv2", "deform_groups": 1}, "stage_with_dcn": (False, False, True, True)}


@pytest.mark.parametrize("more", [{}, DCN], ids=["plain", "deformable"])
def test_folding_changes_rounding_only(more: dict) -> None:
    torch.manual_seed(0)
    cfg = {"type": "ResNet", "depth": 50, "base_channels": 8, "stem_channels": 8, **more}
    model = cupola.build(cfg)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        if name.endswith("conv_offset"):
            nn.init.normal_(module.weight, std=0.05)
    model.eval()
    prepared = fold_batch_norms(model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in prepared.modules())
    assert sum(isinstance(m, nn.BatchNorm2d) for m in model.modules()) == 53
    assert all(each.requires_grad for each in model.parameters())
    assert not any(each.requires_grad for each in prepared.parameters())
    assert model.conv1.weight.is_contiguous()  # channels last are the copy's alone
    x = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        for ours, plain in zip(prepared(x), model(x), strict=True):
            assert (ours - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.parametrize("share", [False, True])
def test_weights_that_folding_does_not_change_may_be_shared(share: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model = nn.ModuleList([model, nn.Linear(4, 4), nn.Conv2d(4, 4, 3)]).eval()
    folded = fold_batch_norms(model, share)
    assert folded[1].weight is not model[1].weight and model[1].weight.requires_grad
    assert not any(each.requires_grad for each in folded.parameters())
    assert (folded[1].weight.data_ptr() == model[1].weight.data_ptr()) == share
    assert folded[0][0].weight.data_ptr() != model[0][0].weight.data_ptr()
    assert model[2].weight.is_contiguous()  # channels last are the copy's alone


def test_each_norm_of_a_shared_convolution_is_folded_into_its_own_copy() -> None:
    torch.manual_seed(0)
    shared = nn.Conv2d(3, 4, 3, bias=False)
    levels = [nn.Sequential(shared, nn.BatchNorm2d(4)) for _ in range(3)]
    for scale, level in enumerate(levels, start=1):
        level[1].running_mean.fill_(0.1 * scale)
        level[1].running_var.fill_(scale)
    model = nn.ModuleList(levels).eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.inference_mode():
        for ours, plain in zip(fold_batch_norms(model), model, strict=True):
            torch.testing.assert_close(ours(x), plain(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("version", ["1.20.1", "1.31.0", "0.9", "unknown"])
def test_threads_of_an_older_onnxruntime_do_not_spin(version: str) -> None:
    assert spinning(version) == {"intra_op.allow_spinning": "0"}


@pytest.mark.parametrize("version", ["1.32.0", "1.33.0.dev1", "2.0"])
def test_threads_of_onnxruntime_spin_for_a_while_within_a_run(version: str) -> None:
    assert spinning(version) == {"intra_op.spin_duration_us": "50", "force_spinning_stop": "1"}
