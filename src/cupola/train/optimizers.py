"""Optimizers with parameter groups, from MMEngine's `optim_wrapper` config."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.optim import Optimizer

from cupola import nn
from cupola.errors import BuildError, did_you_mean
from cupola.nn.layers.norm import AffineNorm
from cupola.registry import without_scope
from cupola.train.layer_decay import CONSTRUCTORS, layer_multipliers
from cupola.train.schedules import Rates

OPTIMIZERS: dict[str, Callable[..., Optimizer]] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": torch.optim.SGD,
}
DEFAULT_CONSTRUCTORS = ("", "DefaultOptimWrapperConstructor", "DefaultOptimizerConstructor")
PARAMWISE = (
    *("custom_keys", "bias_lr_mult", "bias_decay_mult", "norm_decay_mult", "dwconv_decay_mult"),
    *("flat_decay_mult", "dcn_offset_lr_mult", "bypass_duplicate"),
)
# Modules whose weights and biases `norm_decay_mult` is for, as in MMEngine.
NORMS = (
    AffineNorm,
    torch.nn.modules.batchnorm._NormBase,
    torch.nn.GroupNorm,
    torch.nn.LayerNorm,
    torch.nn.RMSNorm,
)


def _multipliers(
    name: str, module: nn.Module, parameter: torch.Tensor, paramwise: Mapping[str, Any]
) -> tuple[float, float]:
    """(rate, decay) multipliers of a parameter, by the longest matching custom key.

    Source: mmengine's DefaultOptimWrapperConstructor.
    """
    custom = paramwise.get("custom_keys") or {}
    for key in sorted(custom, key=lambda key: (-len(key), key)):
        if key in name:
            return custom[key].get("lr_mult", 1.0), custom[key].get("decay_mult", 1.0)
    path, _, own = name.rpartition(".")
    offset, norm = path.endswith("conv_offset"), isinstance(module, NORMS)
    rate = 1.0
    if offset:  # of a deformable convolution
        rate = paramwise.get("dcn_offset_lr_mult", 1.0)
    elif own == "bias" and not norm:
        rate = paramwise.get("bias_lr_mult", 1.0)
    depthwise = isinstance(module, nn.Conv2d) and module.in_channels == module.groups
    kinds = {
        "norm": norm,
        "bias": own == "bias" and not offset,  # of a norm, too, without norm_decay_mult
        "dwconv": depthwise,
        "flat": parameter.dim() == 1 and not offset,
    }
    given = (paramwise.get(f"{kind}_decay_mult") for kind, applies in kinds.items() if applies)
    return rate, next((each for each in given if each is not None), 1.0)


def multipliers(
    model: nn.Module, paramwise: Mapping[str, Any], constructor: str = ""
) -> dict[str, tuple[float, float]]:
    """(rate, decay) multipliers of every trainable parameter by its name.

    constructor: MMEngine's default, or that of rates that fall with the depth of a layer. Raises
    BuildError for another one, and for unknown keys of paramwise_cfg.
    """
    kind = constructor.rpartition(".")[2]
    if kind in CONSTRUCTORS:
        return layer_multipliers(model, paramwise)
    if kind not in DEFAULT_CONSTRUCTORS:
        known = (DEFAULT_CONSTRUCTORS[1], CONSTRUCTORS[0])
        raise BuildError(
            f"optim_wrapper.constructor: {kind!r} is not available"
            f"{did_you_mean(kind, known)}; use {' or '.join(known)}"
        )
    for key in paramwise:
        if key not in PARAMWISE:
            raise BuildError(
                f"optim_wrapper.paramwise_cfg: unknown key {key!r}{did_you_mean(key, PARAMWISE)}"
            )
    owners = dict(model.named_modules())
    return {
        name: _multipliers(name, owners[name.rpartition(".")[0]], parameter, paramwise)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def parameter_groups(
    model: nn.Module,
    rate: float,
    decay: float,
    paramwise: Mapping[str, Any] | None = None,
    constructor: str = "",
) -> list[dict[str, Any]]:
    """Trainable parameters grouped by their multipliers; each group keeps its `base_lr`.

    A parameter that several modules share counts once, as with `bypass_duplicate`.
    """
    members: dict[tuple[float, float], list[torch.Tensor]] = {}
    parameters = dict(model.named_parameters())
    for name, pair in multipliers(model, paramwise or {}, constructor).items():
        members.setdefault(pair, []).append(parameters[name])
    if not members:
        raise BuildError("the model has no trainable parameter")
    return [
        {
            "params": tensors,
            "lr": rate * rate_multiplier,
            "base_lr": rate * rate_multiplier,
            "weight_decay": decay * decay_multiplier,
        }
        for (rate_multiplier, decay_multiplier), tensors in members.items()
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
    constructor = str(optim_wrapper.get("constructor") or "")
    paramwise = optim_wrapper.get("paramwise_cfg")
    groups = parameter_groups(model, rate, decay, paramwise, constructor)
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


def set_rates(optimizer: Optimizer, step: int, rates: Rates) -> float:
    """Sets every group's rate for `step`; returns the largest."""
    for group in optimizer.param_groups:
        group["lr"] = rates(group["base_lr"], step)
    return float(max(group["lr"] for group in optimizer.param_groups))
