"""Convolutions fused with activations and shortcuts equal the separate steps."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cupola import nn
from cupola.models.backbones import ResNet
from cupola.models.layers import ConvModule
from cupola.runtime.optimize.folding import fold_batch_norms
from cupola.runtime.optimize.fusing import FEW, FusedConv2d, available, fold, fuse

needs_kernels = pytest.mark.skipif(not available(), reason="torch has no oneDNN here")


def with_statistics(model):
    """The model in eval mode, with batch norms that do something."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    return model.eval()


@needs_kernels
@pytest.mark.parametrize("pack", [False, True])
@settings(max_examples=25, deadline=None)
@given(
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    groups=st.sampled_from([1, 8]),
    act=st.sampled_from(["ReLU", "SiLU", "HSwish", "Sigmoid", "Tanh", "LeakyReLU", None]),
    norm=st.sampled_from(["BN", "GN", None]),
    sizes=st.lists(
        st.tuples(st.integers(1, 3), st.integers(5, 30), st.integers(5, 30)), min_size=2, max_size=3
    ),
)
def test_a_fused_conv_module_equals_the_plain_one(pack, kernel, stride, groups, act, norm, sizes):
    norms = {"GN": {"type": "GN", "num_groups": 4}, "BN": {"type": "BN"}, None: None}
    model = with_statistics(
        ConvModule(
            8,
            16,
            kernel,
            stride,
            kernel // 2,
            groups=groups,
            norm_cfg=norms[norm],
            act_cfg={"type": act} if act else None,
        )
    )
    fused = fold(model, pack)
    assert isinstance(fused.conv, FusedConv2d)
    for batch, height, width in sizes:  # the packed weights are those of the first size
        x = torch.randn(batch, 8, height, width)
        with torch.inference_mode():
            torch.testing.assert_close(fused(x), model(x), rtol=1e-4, atol=1e-5)


@needs_kernels
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.parametrize("pack", [False, True])
def test_a_fused_resnet_equals_the_plain_one_in_every_stage(depth, pack):
    model = with_statistics(ResNet(depth, base_channels=16, out_indices=(0, 1, 2, 3)))
    fused, x = fold(model, pack), torch.randn(2, 3, 96, 64)
    with torch.inference_mode():
        for ours, plain in zip(fused(x), model(x), strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
    assert any("Fused" in type(each).__name__ for each in fused.layer1)
    assert fused.state_dict().keys() == fold_batch_norms(model).state_dict().keys()


@needs_kernels
def test_a_convolution_of_two_parents_keeps_the_activation_of_each():
    first = ConvModule(4, 4, 3, padding=1, act_cfg={"type": "SiLU"})
    second = ConvModule(4, 4, 3, padding=1, act_cfg={"type": "SiLU"})
    second.conv = first.conv
    plain = nn.Sequential(first, second).eval().requires_grad_(False)
    fused, x = fuse(copy.deepcopy(plain)), torch.randn(1, 4, 9, 9)
    torch.testing.assert_close(fused(x), plain(x))


@needs_kernels
def test_changed_weights_are_packed_again_and_copies_pack_their_own():
    model = nn.Sequential(nn.Conv2d(8, 8, 3)).eval().requires_grad_(False)
    fused, x = fold(model, pack=True), torch.randn(1, 8, 32, 32)
    fused(x)
    copied = copy.deepcopy(fused)
    for changed in (fused, copied):
        changed[0].weight.mul_(2)
        changed[0].bias.mul_(2)
        torch.testing.assert_close(changed(x), 2 * model(x))
    fused.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(fused(x), model(x))


@needs_kernels
def test_what_the_kernels_do_not_take_goes_the_plain_way():
    model = nn.Sequential(ConvModule(8, 8, 1)).eval().requires_grad_(False)
    fused = fold(model)
    small, double = torch.randn(1, 8, 3, FEW // 4), torch.randn(1, 8, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(fused(small), model(small))
    torch.testing.assert_close(fused.double()(double), model.double()(double))
    x = torch.randn(1, 8, 32, 32, requires_grad=True)
    fused.float()(x).sum().backward()
    assert x.grad is not None
    program = torch.export.export(nn.to_torch(fused), (x.detach(),))
    assert not any("mkldnn" in str(node.target) for node in program.graph.nodes)


def test_a_model_that_was_exported_folds_its_batch_norms_too():
    model = with_statistics(ResNet(18, base_channels=8))
    x = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        expected = nn.to_torch(model)(x)
        folded = fold(model)
        assert not any(isinstance(each, nn.BatchNorm2d) for each in folded.modules())
        assert isinstance(model, torch.nn.Module)  # the model itself stays as it is
        for ours, plain in zip(folded(x), expected, strict=True):
            torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4)
