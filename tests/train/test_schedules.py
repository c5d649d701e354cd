"""Schedules against torch's, and their errors."""

import math

import pytest
import torch

from cupola.errors import BuildError
from cupola.train.schedules import Rates, build_schedule, scheduled_rate

STEPS = 40


def peer_rates(make: object) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    scheduler = make(optimizer)  # type: ignore[operator]
    rates = []
    for _ in range(STEPS):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("cfg", "peer"),
    [
        (
            {"type": "CosineAnnealingLR", "T_max": 40, "eta_min": 0.01},
            lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.01),
        ),
        (
            {"type": "MultiStepLR", "milestones": [10, 25], "gamma": 0.1},
            lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [10, 25], 0.1),
        ),
        (
            {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 13},
            lambda o: torch.optim.lr_scheduler.LinearLR(o, 0.1, total_iters=12),
        ),
        (
            {"type": "StepLR", "step_size": 7, "gamma": 0.5},
            lambda o: torch.optim.lr_scheduler.StepLR(o, 7, 0.5),
        ),
        (
            {"type": "ExponentialLR", "gamma": 0.9},
            lambda o: torch.optim.lr_scheduler.ExponentialLR(o, 0.9),
        ),
        (
            {"type": "PolyLR", "power": 2.0},
            lambda o: torch.optim.lr_scheduler.PolynomialLR(o, STEPS - 1, 2.0),
        ),
    ],
)
def test_rates_equal_torch_s(cfg: dict[str, object], peer: object) -> None:
    schedule = build_schedule({**cfg, "by_epoch": False}, 1, STEPS)
    mine = [schedule(0.5, step) for step in range(STEPS)]
    assert mine == pytest.approx(peer_rates(peer), abs=1e-7)


def test_epochs_are_converted_to_steps() -> None:
    schedule = build_schedule({"type": "MultiStepLR", "milestones": [2]}, 10, 40)
    assert [schedule(1.0, step) for step in (0, 19, 20, 39)] == pytest.approx([1, 1, 0.1, 0.1])


def test_warm_up_then_cosine() -> None:
    cfgs = [
        {"type": "LinearLR", "start_factor": 0.5, "begin": 0, "end": 10, "by_epoch": False},
        {"type": "CosineAnnealingLR", "begin": 10, "end": 40, "by_epoch": False},
    ]
    schedules = [build_schedule(cfg, 1, 40) for cfg in cfgs]
    rates = [scheduled_rate(1.0, step, schedules) for step in (0, 5, 9, 10, 25, 39)]
    last = (1 + math.cos(math.pi * 29 / 30)) / 2
    assert rates == pytest.approx([0.5, 7 / 9, 1.0, 1.0, 0.5, last])


# What mmengine 0.10.7 gives for 12 steps, 3 in an epoch.
MMENGINE = [
    (
        {"type": "LinearLR", "start_factor": 0.5, "begin": 0, "end": 5, "by_epoch": False},
        [0.5, 0.625, 0.75, 0.875, 1, 1, 1, 1, 1, 1, 1, 1],
    ),
    (
        {"type": "LinearLR", "start_factor": 0.5, "begin": 3, "end": 6, "by_epoch": False},
        [1, 1, 1, 0.5, 0.75, 1, 1, 1, 1, 1, 1, 1],
    ),
    (
        {"type": "ConstantLR", "factor": 0.1, "begin": 0, "end": 5, "by_epoch": False},
        [0.1, 0.1, 0.1, 0.1, 1, 1, 1, 1, 1, 1, 1, 1],
    ),
    (
        {"type": "CosineAnnealingLR", "begin": 0, "end": 4, "by_epoch": True},
        [1, 1, 1, 0.8536, 0.8536, 0.8536, 0.5, 0.5, 0.5, 0.1464, 0.1464, 0.1464],
    ),
    (
        {
            "type": "CosineAnnealingLR",
            "begin": 2,
            "end": 4,
            "T_max": 2,
            "by_epoch": True,
            "convert_to_iter_based": True,
        },
        [1, 1, 1, 1, 1, 1, 1, 0.933, 0.75, 0.5, 0.25, 0.067],
    ),
    (
        {
            "type": "MultiStepLR",
            "begin": 1,
            "end": 4,
            "milestones": [2],
            "gamma": 0.1,
            "by_epoch": True,
        },
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 0.1, 0.1, 0.1],
    ),
    (
        {"type": "PolyLR", "begin": 0, "end": 12, "by_epoch": False},
        [1, 0.9091, 0.8182, 0.7273, 0.6364, 0.5455, 0.4545, 0.3636, 0.2727, 0.1818, 0.0909, 0],
    ),
]


CHAINED = [
    (  # schedules that overlap change each other's rates
        [
            {"type": "LinearLR", "start_factor": 0.5, "begin": 0, "end": 5, "by_epoch": False},
            {"type": "CosineAnnealingLR", "eta_min": 0.2, "convert_to_iter_based": True},
        ],
        [
            0.5,
            0.6178,
            0.7138,
            0.7789,
            0.8064,
            0.7089,
            0.6043,
            0.4996,
            0.4021,
            0.3184,
            0.2542,
            0.2138,
        ],
    ),
    (  # a cosine rises again after T_max, and keeps its last rate after its end
        [{"type": "CosineAnnealingLR", "T_max": 2, "end": 3, "by_epoch": True}],
        [1, 1, 1, 0.5, 0.5, 0.5, 0, 0, 0, 0, 0, 0],
    ),
    (
        [{"type": "CosineAnnealingLR", "T_max": 4, "end": 7, "eta_min": 0.1, "by_epoch": False}],
        [1, 0.8682, 0.55, 0.2318, 0.1, 0.2318, 0.55, 0.55, 0.55, 0.55, 0.55, 0.55],
    ),
    (
        [{"type": "OneCycleLR", "eta_max": 2.0, "total_steps": 12, "by_epoch": False}],
        [0.08, 0.6996, 1.7586, 1.9888, 1.866, 1.6235, 1.2948, 0.9253, 0.5661, 0.267, 0.0691, 0],
    ),
]


@pytest.mark.parametrize(("cfgs", "rates"), CHAINED)
def test_chained_rates_are_mmengine_s(cfgs: list[dict[str, object]], rates: list[float]) -> None:
    made = Rates([build_schedule(cfg, 3, 12) for cfg in cfgs])
    assert [made(1.0, step) for step in range(12)] == pytest.approx(rates, abs=1e-4)
    assert [made(1.0, step) for step in (11, 2)] == pytest.approx([rates[11], rates[2]], abs=1e-4)


@pytest.mark.parametrize(("cfg", "rates"), MMENGINE)
def test_rates_are_mmengine_s(cfg: dict[str, object], rates: list[float]) -> None:
    schedule = build_schedule(cfg, 3, 12)
    assert [schedule(1.0, step) for step in range(12)] == pytest.approx(rates, abs=1e-4)


def test_unknown_schedules_and_arguments_are_errors() -> None:
    with pytest.raises(BuildError, match=r"type 'MultistepLR'; did you mean 'MultiStepLR'"):
        build_schedule({"type": "MultistepLR"}, 1, 1)
    with pytest.raises(BuildError, match="unexpected keyword argument 'speed'"):
        build_schedule({"type": "PolyLR", "speed": 2}, 1, 1)
    for cfg, message in (
        ({"type": "MultiStepLR"}, "MultiStepLR: needs milestones"),
        ({"type": "LinearLR", "begin": 3, "end": 3}, "end is 3, not above begin, 3"),
        ({"type": "CosineAnnealingLR", "eta_min": 1, "eta_min_ratio": 1}, "not both"),
        ({"type": "OneCycleLR", "total_steps": 5}, "total_steps is 5, and the run has 9 steps"),
        ({"type": "OneCycleLR", "anneal_strategy": "x"}, "'x'; use cos or linear"),
    ):
        with pytest.raises(BuildError, match=message):
            build_schedule(cfg, 1, 9)
