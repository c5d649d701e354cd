"""What published trainings of RTMDet and YOLOX ask of the trainer."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from cupola import nn
from cupola.errors import BuildError
from cupola.train.averaging import build_average
from cupola.train.hooks import published_average, published_switches
from cupola.train.intervals import ValidationPlan
from cupola.train.loading import grouped
from cupola.train.optimizers import parameter_groups
from cupola.train.schedules import build_schedule
from cupola.train.sections import without_effect
from cupola.train.trainer import Trainer
from train.parts import tiny_config


class Normed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.bn = nn.BatchNorm2d(4)
        self.scale = nn.Parameter(torch.ones(4))
        self.head = self.shared = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.bn(self.depthwise(x)))


def test_paramwise_multipliers_are_for_norms_biases_and_depthwise_convolutions() -> None:
    model = Normed()
    paramwise = {
        "norm_decay_mult": 0.0,
        "bias_decay_mult": 0.1,
        "dwconv_decay_mult": 0.2,
        "flat_decay_mult": 0.3,
        "bias_lr_mult": 2.0,
        "bypass_duplicate": True,
    }
    groups = parameter_groups(model, 1.0, 1.0, paramwise)
    names = {id(value): name for name, value in model.named_parameters()}
    found = {
        names[id(each)]: (group["lr"], group["weight_decay"])
        for group in groups
        for each in group["params"]
    }
    assert found == {
        "depthwise.weight": (1.0, 0.2),
        "depthwise.bias": (2.0, 0.1),
        "bn.weight": (1.0, 0.0),
        "bn.bias": (1.0, 0.0),
        "scale": (1.0, 0.3),
        "head.weight": (1.0, 1.0),
        "head.bias": (2.0, 0.1),
    }


def test_quadratic_warm_up() -> None:
    cfg = {"type": "mmdet.QuadraticWarmupLR", "begin": 0, "end": 2, "convert_to_iter_based": True}
    schedule = build_schedule(cfg, 5, 100)
    rate, expected = 0.0, []
    for step in range(10):  # mmdet adds (2 t + 1) / T^2 at each step
        rate += (2 * step + 1) / 10**2
        expected.append(rate)
    assert [schedule(1.0, step) for step in range(12)] == pytest.approx([*expected, 1, 1])


@pytest.mark.parametrize(
    ("cfg", "momentum"),
    [
        ({"type": "ExponentialMovingAverage", "momentum": 0.1}, lambda n: 0.1),
        (
            {"type": "ExpMomentumEMA", "momentum": 0.1, "gamma": 5},
            lambda n: 0.9 * math.exp(-(1 + n) / 5) + 0.1,
        ),
        ({"type": "MomentumAnnealingEMA", "momentum": 0.1, "gamma": 3}, lambda n: 3 / (3 + n)),
        ({"type": "StochasticWeightAverage"}, lambda n: 1 / (n + 1)),
    ],
)
def test_averages_of_mmengine(cfg: dict[str, Any], momentum: Any) -> None:
    model = Normed()
    average = build_average(model, {**cfg, "update_buffers": True})
    expected = None
    for n in range(6):
        with torch.no_grad():
            model.bn.weight.fill_(float(n))
            model.bn.running_mean.fill_(float(-n))
        average.update()
        part = max(0.1, momentum(n)) if cfg["type"] == "MomentumAnnealingEMA" else momentum(n)
        expected = float(n) if expected is None else expected + (n - expected) * part
    with average.in_place():
        assert model.bn.weight[0].item() == pytest.approx(expected)
        assert float(model.bn.running_mean[0]) == pytest.approx(-expected)
    assert float(model.bn.running_mean[0]) == -5.0


def test_an_average_begins_later_and_skips_steps() -> None:
    model = nn.Linear(1, 1)
    average = build_average(
        model, {"type": "ExponentialMovingAverage", "momentum": 0.5, "begin": 2, "interval": 2}
    )
    seen = []
    for n in range(8):
        with torch.no_grad():
            model.weight.fill_(float(n))
        average.update()
        with average.in_place():
            seen.append(model.weight.item())
    # before the begin all steps copy, and so does 2, the first; then 4 and 6 update
    assert seen == [0, 1, 2, 2, 3, 3, 4.5, 4.5]


def test_momenta_that_fall_go_by_steps_means_by_updates() -> None:
    """As in MMEngine, whose averages count every step, updated or not."""
    model = nn.Linear(1, 1)
    kinds = {
        "MomentumAnnealingEMA": {"momentum": 0.1, "gamma": 3},
        "StochasticWeightAverage": {},
    }
    averages = [build_average(model, {"type": k, "interval": 3, **v}) for k, v in kinds.items()]
    for n in range(7):
        with torch.no_grad():
            model.weight.fill_(float(n))
        for average in averages:
            average.update()
    falling = 3 * 3 / (3 + 3)
    values = []
    for average in averages:
        with average.in_place():
            values.append(model.weight.item())
    assert values == pytest.approx([falling + (6 - falling) * 3 / (3 + 6), (0 + 3 + 6) / 3])


def test_errors_of_an_average() -> None:
    with pytest.raises(BuildError, match="unknown type 'ExpMomentEMA'; did you mean"):
        build_average(nn.Linear(1, 1), {"type": "ExpMomentEMA"})
    with pytest.raises(BuildError, match=r"ema ExpMomentumEMA: .*decay"):
        build_average(nn.Linear(1, 1), {"type": "ExpMomentumEMA", "decay": 0.9})


def test_hooks_of_averages_are_ema_sections() -> None:
    hook = {"type": "EMAHook", "ema_type": "ExpMomentumEMA", "momentum": 0.0002, "priority": 49}
    later = {**hook, "update_buffers": True, "begin_epoch": 3}  # the third, after two of 10 steps
    found = published_average({"custom_hooks": [{"type": "NumClassCheckHook"}, later]}, 10)
    assert found == {
        "type": "ExpMomentumEMA",
        "momentum": 0.0002,
        "update_buffers": True,
        "begin": 20,
    }
    old = {"type": "ExpMomentumEMAHook", "resume_from": None, "momentum": 0.0001, "priority": 49}
    assert published_average({"custom_hooks": [old]}, 10) == {
        "type": "ExpMomentumEMA",
        "momentum": 0.0001,
        "gamma": 2000,
        "update_buffers": True,
    }
    assert published_average({"custom_hooks": []}, 10) is None
    cfg = {"train_dataloader": {}, "custom_hooks": [old, hook, {"type": "YOLOXModeSwitchHook"}]}
    assert without_effect(cfg) == []


def test_mode_switches_come_at_their_epoch(tmp_path: Path) -> None:
    switch = {"type": "PipelineSwitchHook", "switch_epoch": 2, "switch_pipeline": [{"type": "A"}]}
    trainer = Trainer(tiny_config(custom_hooks=[switch]), tmp_path, quiet=True)
    seen: list[Any] = []
    trainer.stream.dataset.set_pipeline = seen.append  # type: ignore[attr-defined]
    batches = trainer.stream.batches(0)
    for _ in range(trainer.stream.batches_per_epoch * 2):
        next(batches)
    assert not seen
    next(batches)
    assert seen == [[{"type": "A"}]]


def test_errors_of_mode_switches(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="PipelineSwitchHook: needs switch_pipeline"):
        published_switches({"custom_hooks": [{"type": "PipelineSwitchHook", "switch_epoch": 1}]}, 9)
    assert (
        published_switches({"custom_hooks": [{"type": "YOLOXModeSwitchHook"}]}, 300)[0].epoch == 284
    )
    hook = {"type": "mmdet.YOLOXModeSwitchHook", "num_last_epochs": 100}
    trainer = Trainer(tiny_config(custom_hooks=[hook]), tmp_path, quiet=True)
    with pytest.raises(BuildError, match="YOLOXModeSwitchHook: TinyLine has no pipeline to change"):
        next(trainer.stream.batches(0))


def test_training_from_scratch_begins_with_the_published_initialization(tmp_path: Path) -> None:
    cfg = tiny_config(train_cfg={"max_iters": 0}, ema=None)
    trainer = Trainer(cfg, tmp_path, quiet=True)
    trainer.model.init_cfg = {"type": "Constant", "layer": "Linear", "val": 0.25}
    trainer.run()
    assert all(each.weight.min().item() == 0.25 for each in (trainer.model.head,))


@pytest.mark.parametrize(
    ("train_cfg", "due"),
    [
        ({"max_epochs": 9, "val_interval": 4}, [4, 8, 9]),
        ({"max_epochs": 9, "val_interval": 4, "dynamic_intervals": [(7, 1)]}, [4, 6, 7, 8, 9]),
        ({"max_epochs": 9, "val_interval": 2, "val_begin": 5}, [6, 8, 9]),
        ({"max_iters": 9, "val_interval": 5, "dynamic_intervals": [(6, 9)]}, [9]),
        ({"max_epochs": 9}, []),
    ],
)
def test_validation_intervals(train_cfg: dict[str, Any], due: list[int]) -> None:
    cfg = {"train_cfg": train_cfg, "val_dataloader": {"dataset": {}}}
    unit = 1 if "max_iters" in train_cfg else 3
    plan = ValidationPlan(cfg, 3, 9 * unit)
    assert [step / unit for step in range(1, 9 * unit + 1) if plan.is_due(step)] == due
    plan.end(7)
    assert plan.is_due(7) == bool(due)


def test_errors_of_validation_intervals() -> None:
    cfg = {"val_dataloader": {"dataset": {}}}
    for wrong, words in (
        ({"dynamic_intervals": [5]}, r"expected pairs \(epoch, interval\), got \[5\]"),
        ({"dynamic_intervals": [(9, 1), (5, 1)]}, "its epochs ascend"),
        ({"val_interval": 0}, "are 1 or more"),
    ):
        with pytest.raises(BuildError, match=words):
            ValidationPlan({**cfg, "train_cfg": {"val_interval": 1, **wrong}}, 3, 9)


def test_batches_have_images_of_one_aspect_ratio() -> None:
    order = torch.tensor([4, 0, 3, 1, 2, 6, 5])
    portrait = torch.tensor([True, False, True, False, False, True, False])
    assert grouped(order, portrait, 2).tolist() == [4, 3, 0, 2, 1, 6, 5]
    assert sorted(grouped(order, portrait, 3).tolist()) == list(range(7))
    assert without_effect(
        {"train_dataloader": {"batch_sampler": {"type": "mmdet.AspectRatioBatchSampler"}}}
    ) == []  # fmt: skip
    (note,) = without_effect({"train_dataloader": {"batch_sampler": {"type": "Other"}}})
    assert "batch_sampler Other" in note
