"""Parameter groups, precision, accumulation and clipping."""

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError
from cupola.registry import build
from cupola.train.averaging import MovingAverage
from cupola.train.distributed import TrainingRanks
from cupola.train.layer_decay import depth_by_layer, depth_by_stage
from cupola.train.optimizers import build_optimizer, load_optimizer, set_rates
from cupola.train.schedules import Rates, multi_step
from cupola.train.steps import Stepper, total_loss
from train.parts import TinyLine, TinyRegression


def test_custom_keys_make_groups() -> None:
    keys = {"backbone": {"lr_mult": 0.1, "decay_mult": 0.0}, "backbone.bias": {"lr_mult": 2.0}}
    cfg = {
        "optimizer": {"type": "AdamW", "lr": 1.0, "weight_decay": 0.5, "betas": (0.8, 0.9)},
        "paramwise_cfg": {"custom_keys": keys},
    }
    optimizer = build_optimizer(TinyRegression(), cfg)
    groups = {(g["lr"], g["weight_decay"]): len(g["params"]) for g in optimizer.param_groups}
    assert groups == {(0.1, 0.0): 1, (2.0, 0.5): 1, (1.0, 0.5): 2}
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert set_rates(optimizer, 5, Rates([multi_step([5], 0.5)])) == 1.0


def test_norm_and_bias_decay() -> None:
    cfg = {
        "optimizer": {"lr": 1.0, "weight_decay": 0.5},
        "paramwise_cfg": {"bias_decay_mult": 0.0},
    }
    optimizer = build_optimizer(TinyRegression(), cfg)
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.5]


def test_decay_goes_by_the_first_multiplier_that_is_given() -> None:
    """As in MMEngine: without norm_decay_mult a norm has a bias like others, and a flat weight."""
    model = nn.Sequential(nn.GroupNorm(1, 4), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1))

    def decays(**paramwise: float) -> list[float]:
        optimizer = {"lr": 1.0, "weight_decay": 1.0}
        groups = build_optimizer(model, {"optimizer": optimizer, "paramwise_cfg": paramwise})
        owned = {id(p): g["weight_decay"] for g in groups.param_groups for p in g["params"]}
        return [owned[id(parameter)] for parameter in model.parameters()]

    # weight and bias of each
    assert decays(bias_decay_mult=0.1) == [1, 0.1, 1, 0.1, 1, 0.1]
    assert decays(bias_decay_mult=0.1, norm_decay_mult=0.2) == [0.2, 0.2, 1, 0.1, 1, 0.1]
    assert decays(flat_decay_mult=0.3) == [0.3, 0.3, 1, 0.3, 1, 0.3]
    assert decays(dwconv_decay_mult=0.4, flat_decay_mult=0.3) == [0.3, 0.3, 0.4, 0.4, 1, 0.3]


def test_rates_fall_with_the_depth_of_a_convnext() -> None:
    """Figures of mmdet's get_layer_id_for_convnext and get_stage_id_for_convnext for 12 layers."""
    depths = {
        "backbone.downsample_layers.0.0.weight": (0, 0),
        "backbone.downsample_layers.1.1.bias": (2, 0),
        "backbone.downsample_layers.3.1.weight": (12, 0),
        "backbone.stages.0.2.gamma": (1, 1),
        "backbone.stages.1.0.norm.weight": (2, 2),
        "backbone.stages.2.8.depthwise_conv.weight": (5, 3),
        "backbone.stages.3.0.pointwise_conv1.bias": (12, 4),
        "backbone.norm3.weight": (13, 13),
        "neck.lateral_convs.0.conv.weight": (13, 13),
    }
    for name, (layer, stage) in depths.items():
        assert (depth_by_layer(name, 12), depth_by_stage(name, 12)) == (layer, stage), name
    arch = {"depths": [1, 1, 1, 1], "channels": [4, 4, 4, 4]}
    backbone = build({"type": "ConvNeXt", "arch": arch, "out_indices": [3]})

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone, self.head = backbone, nn.Linear(4, 4)

    cfg = {
        "optimizer": {"lr": 1.0, "weight_decay": 0.5},
        "constructor": "LearningRateDecayOptimizerConstructor",
        "paramwise_cfg": {"decay_rate": 0.5, "decay_type": "layer_wise", "num_layers": 6},
    }
    model = Model()
    groups = build_optimizer(model, cfg).param_groups
    owned = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    found = {name: owned[id(parameter)] for name, parameter in model.named_parameters()}
    assert found["head.weight"] == (1.0, 0.5) and found["head.bias"] == (1.0, 0.0)
    assert found["backbone.downsample_layers.0.0.weight"] == (0.5**7, 0.5)
    assert found["backbone.stages.3.0.gamma"] == (0.5, 0.0)
    with pytest.raises(BuildError, match="is for ConvNeXt, the backbone is"):
        build_optimizer(TinyRegression(), cfg)
    with pytest.raises(BuildError, match="needs num_layers"):
        build_optimizer(model, {**cfg, "paramwise_cfg": {"decay_rate": 0.5}})
    with pytest.raises(BuildError, match="decay_type is 'blocks'; use layer_wise or stage_wise"):
        build_optimizer(
            model, {**cfg, "paramwise_cfg": {**cfg["paramwise_cfg"], "decay_type": "blocks"}}
        )
    with pytest.raises(BuildError, match="constructor: 'Mine' is not available"):
        build_optimizer(model, {**cfg, "constructor": "Mine"})
    with pytest.raises(BuildError, match="unknown key 'norm_decay'; did you mean 'norm_decay_mult"):
        build_optimizer(model, {"optimizer": {"lr": 1.0}, "paramwise_cfg": {"norm_decay": 0}})


def test_a_resumed_optimizer_takes_the_configs_rate() -> None:
    model = TinyRegression()
    old = build_optimizer(model, {"optimizer": {"lr": 1.0}})
    new = build_optimizer(model, {"optimizer": {"lr": 3.0}})
    load_optimizer(new, old.state_dict())
    assert new.param_groups[0]["base_lr"] == 3.0


def test_errors_of_an_optimizer_config() -> None:
    with pytest.raises(BuildError, match="unknown optimizer 'AdamV'; did you mean 'Adam'"):
        build_optimizer(TinyRegression(), {"optimizer": {"type": "AdamV", "lr": 1}})
    with pytest.raises(BuildError, match="needs lr"):
        build_optimizer(TinyRegression(), {"optimizer": {"type": "AdamW"}})
    model = TinyRegression()
    for parameter in model.parameters():
        parameter.requires_grad = False
    with pytest.raises(BuildError, match="no trainable parameter"):
        build_optimizer(model, {"optimizer": {"lr": 1}})
    with pytest.raises(BuildError, match=r"no entry with 'loss' in its name: \['error'\]"):
        total_loss({"error": torch.zeros(())})


def gradients(batch_size: int, pieces: int, **settings: object) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = TinyRegression(dropout=0.0)
    optimizer = build_optimizer(model, {"optimizer": {"type": "SGD", "lr": 0.0}})
    stepper = Stepper(
        model, optimizer, {"accumulative_counts": pieces, **settings}, TrainingRanks()
    )
    data = TinyLine()
    order = iter(range(64))
    batches = (
        TinyLine.collate([data[next(order)] for _ in range(batch_size)]) for _ in range(pieces)
    )
    stepper.step(batches)
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_accumulated_batches_equal_one_large_batch() -> None:
    for whole, summed in zip(gradients(16, 1), gradients(4, 4), strict=True):
        torch.testing.assert_close(whole, summed)


def test_clipping_bounds_the_norm() -> None:
    clipped = gradients(8, 1, clip_grad={"max_norm": 0.01})
    assert torch.cat([g.flatten() for g in clipped]).norm() == pytest.approx(0.01, rel=1e-3)
    by_value = {"type": "value", "clip_value": 0.003}
    rows = zip(gradients(8, 1), gradients(8, 1, clip_grad=by_value), strict=True)
    assert all(torch.equal(cut, whole.clip(-0.003, 0.003)) for whole, cut in rows)
    with pytest.raises(BuildError, match="clip_grad: expected max_norm and norm_type, got"):
        gradients(8, 1, clip_grad={"max_nrm": 1})


def test_bfloat16_is_close_to_float32() -> None:
    half = gradients(16, 1, type="AmpOptimWrapper", dtype="bfloat16")
    for exact, rough in zip(gradients(16, 1), half, strict=True):
        assert rough.dtype == torch.float32
        torch.testing.assert_close(exact, rough, rtol=0.1, atol=0.05)


def test_the_moving_average_is_swapped_in_and_out() -> None:
    model = TinyRegression()
    average = MovingAverage(model, decay=0.5)
    before = model.head.bias.detach().clone()
    with torch.no_grad():
        model.head.bias.add_(1.0)
    average.update()  # first decay: (1 + 1) / (10 + 1)
    with average.in_place():
        torch.testing.assert_close(model.head.bias.detach(), before + 1 - 2 / 11)
    torch.testing.assert_close(model.head.bias.detach(), before + 1)
