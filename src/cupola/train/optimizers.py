"""Optimizers with parameter groups, from MMEngine's `optim_wrapper` config."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from cupola import nn
from cupola.errors import BuildError, did_you_mean
from cupola.registry import without_scope
from cupola.train.schedules import Schedule, scheduled_rate

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
}


def _multipliers(name: str, shape_rank: int, paramwise: Mapping[str, Any]) -> tuple[float, float]:
    """(rate, decay) multipliers of a parameter, by the longest matching custom key."""
    custom = paramwise.get("custom_keys", {})
    for key in sorted(custom, key=lambda key: (-len(key), key)):
        if key in name:
            return custom[key].get("lr_mult", 1.0), custom[key].get("decay_mult", 1.0)
    decay = 1.0
    if shape_rank == 1:
        norm_or_bias = "bias_decay_mult" if name.endswith("bias") else "norm_decay_mult"
        decay = paramwise.get(norm_or_bias, 1.0)
    return 1.0, decay


def parameter_groups(
    model: nn.Module, rate: float, decay: float, paramwise: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by their multipliers; each group keeps its `base_lr`."""
    members: dict[tuple[float, float], list[torch.Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            multipliers = _multipliers(name, parameter.dim(), paramwise or {})
            members.setdefault(multipliers, []).append(parameter)
    if not members:
        raise BuildError("the model has no trainable parameter")
    return [
        {
            "params": parameters,
            "lr": rate * rate_multiplier,
            "base_lr": rate * rate_multiplier,
            "weight_decay": decay * decay_multiplier,
        }
        for (rate_multiplier, decay_multiplier), parameters in members.items()
    ]


def build_optimizer(
    model: nn.Module, optim_wrapper: Mapping[str, Any], factor: float = 1.0
) -> Optimizer:
    """The optimizer that `optim_wrapper` describes for `model`'s parameters; rates times `factor`.

    Raises BuildError for an unknown type, or if `lr` is missing.
    """
    arguments = without_scope(optim_wrapper.get("optimizer") or {})
    kind = arguments.pop("type", "AdamW")
    if kind not in OPTIMIZERS:
        raise BuildError(f"unknown optimizer {kind!r}{did_you_mean(str(kind), OPTIMIZERS)}")
    if "lr" not in arguments:
        raise BuildError("optim_wrapper.optimizer needs lr")
    rate, decay = factor * arguments.pop("lr"), arguments.pop("weight_decay", 0.0)
    groups = parameter_groups(model, rate, decay, optim_wrapper.get("paramwise_cfg"))
    try:
        return OPTIMIZERS[kind](groups, lr=rate, weight_decay=decay, **arguments)
    except TypeError as error:
        raise BuildError(f"optim_wrapper.optimizer {kind}: {error}") from None


def load_optimizer(optimizer: Optimizer, state: Mapping[str, Any]) -> None:
    """Restores moments and step counts, and keeps the learning rates and decays of the config.

    A run resumed with another rate therefore uses it.
    """
    mine = [dict(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    for group, configured in zip(optimizer.param_groups, mine, strict=True):
        group.update({key: configured[key] for key in ("base_lr", "weight_decay")})


def set_rates(optimizer: Optimizer, step: int, schedules: Sequence[Schedule]) -> float:
    """Sets every group's rate for `step`; returns the largest."""
    for group in optimizer.param_groups:
        group["lr"] = scheduled_rate(group["base_lr"], step, schedules)
    return float(max(group["lr"] for group in optimizer.param_groups))
