"""Norms, activations and convolutions by the aliases of configs."""

from collections.abc import Mapping
from typing import Any

from cupola import nn
from cupola.registry import MODELS, bare_type

Config = Mapping[str, Any]
# How MMCV abbreviates norms in state keys (mmcv/cnn/bricks/norm.py).
NORM_NAMES = {"GN": "gn", "LN": "ln", "IN": "in", "IN1d": "in", "IN2d": "in", "IN3d": "in"}

for alias, layer in {
    ("BN", "BN2d"): nn.BatchNorm2d,
    "BN1d": nn.BatchNorm1d,
    "SyncBN": nn.SyncBatchNorm,
    "GN": nn.GroupNorm,
    "LN": nn.LayerNorm,
    "ReLU": nn.ReLU,
    "GELU": nn.GELU,
    ("SiLU", "Swish"): nn.SiLU,
    "ReLU6": nn.ReLU6,
    "HSwish": nn.Hardswish,
    "HSigmoid": nn.Hardsigmoid,
    "LeakyReLU": nn.LeakyReLU,
    "PReLU": nn.PReLU,
    "Sigmoid": nn.Sigmoid,
    "Tanh": nn.Tanh,
    ("Conv1d",): nn.Conv1d,
    ("Conv2d", "Conv"): nn.Conv2d,
    "deconv": nn.ConvTranspose2d,
    "Linear": nn.Linear,
    "Dropout": nn.Dropout,
    "DropPath": nn.DropPath,
}.items():
    MODELS.register_module(alias)(layer)


def build_norm(cfg: Config, features: int) -> nn.Module:
    """A norm layer for `features` channels; `requires_grad` in the config freezes its affine."""
    settings = dict(cfg)
    trainable = settings.pop("requires_grad", True)
    kind = bare_type(settings)
    if kind == "GN":
        layer = MODELS.build({"num_channels": features, **settings})
    elif kind == "LN":
        layer = MODELS.build({"normalized_shape": features, **settings})
    else:
        layer = MODELS.build({"num_features": features, "eps": 1e-5, **settings})
    for parameter in layer.parameters():
        parameter.requires_grad = trainable
    return layer


def norm_name(cfg: Config) -> str:
    """The name of a norm in the state keys of a ConvModule: bn, gn, ln or in."""
    return NORM_NAMES.get(bare_type(cfg), "bn")


def add_norm(parent: nn.Module, cfg: Config, features: int, number: int) -> str:
    """Adds a norm to `parent` as bn1, gn1, ... by its type and number, and returns that name."""
    name = f"{norm_name(cfg)}{number}"
    parent.add_module(name, build_norm(cfg, features))
    return name


def build_activation(cfg: Config) -> nn.Module:
    """An activation; `inplace` is ignored by those without such a mode."""
    settings = dict(cfg)
    if bare_type(settings) in ("GELU", "PReLU", "Sigmoid", "Tanh"):
        settings.pop("inplace", None)
    return MODELS.build(settings)


def build_conv(cfg: Config | None, *args: Any, **kwargs: Any) -> nn.Module:
    """A convolution: plain 2-D without a config, otherwise of its type (DCNv2, ...).

    MMDetection 2.x spells `deform_groups` as deformable_groups.
    """
    if cfg is None:
        return nn.Conv2d(*args, **kwargs)
    settings = {k: v for k, v in cfg.items() if k not in ("type", "_scope_", "fallback_on_stride")}
    if cfg.get("fallback_on_stride"):
        raise ValueError(f"{cfg['type']}: fallback_on_stride is not supported")
    if "deformable_groups" in settings:
        settings["deform_groups"] = settings.pop("deformable_groups")
    return MODELS.get(cfg["type"])(*args, **kwargs, **settings)
