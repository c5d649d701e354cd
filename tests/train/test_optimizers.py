"""Parameter groups, precision, accumulation and clipping."""

import pytest
import torch

from cupola.errors import BuildError
from cupola.train.averaging import MovingAverage
from cupola.train.distributed import TrainingRanks
from cupola.train.optimizers import build_optimizer, load_optimizer, set_rates
from cupola.train.schedules import multi_step
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
    assert set_rates(optimizer, 5, [multi_step([5], 0.5)]) == 1.0


def test_norm_and_bias_decay() -> None:
    cfg = {
        "optimizer": {"lr": 1.0, "weight_decay": 0.5},
        "paramwise_cfg": {"bias_decay_mult": 0.0},
    }
    optimizer = build_optimizer(TinyRegression(), cfg)
    assert sorted(g["weight_decay"] for g in optimizer.param_groups) == [0.0, 0.5]


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
