"""Learning rates that fall with the depth of a layer in a ConvNeXt.

Source: mmdet/engine/optimizers/layer_decay_optimizer_constructor.py (the scheme of BEiT, arXiv
2106.08254, section 3.1).
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from cupola import nn
from cupola.errors import BuildError

CONSTRUCTORS = ("LearningRateDecayOptimizerConstructor", "LayerDecayOptimizerConstructor")
TOKENS = ("backbone.cls_token", "backbone.mask_token", "backbone.pos_embed")
KINDS = ("layer_wise", "stage_wise")


def depth_by_layer(name: str, layers: int) -> int:
    """The depth of a parameter, 0 to layers + 1 (all that is not the backbone)."""
    part, stage, block = _place(name)
    if name in TOKENS:
        return 0
    if part == "downsample_layers":
        return (0, 2, 3, layers)[stage]
    if part == "stages":
        return (1, 2, 3 + block // 3, layers)[stage]
    return layers + 1


def depth_by_stage(name: str, layers: int) -> int:
    """The depth of a parameter: 0 before the stages, 1 to 4 in them, layers + 1 elsewhere."""
    part, stage, _ = _place(name)
    if name in TOKENS or part == "downsample_layers":
        return 0
    return stage + 1 if part == "stages" else layers + 1


def _place(name: str) -> tuple[str, int, int]:
    """The part of a ConvNeXt, and the numbers of its stage and block, that a name has."""
    top, *rest = name.split(".")
    if top != "backbone" or not rest:
        return "", 0, 0
    numbers = [int(each) if each.isdigit() else 0 for each in [*rest[1:3], "", ""][:2]]
    return rest[0], numbers[0], numbers[1]


def layer_multipliers(
    model: nn.Module, paramwise: Mapping[str, Any]
) -> dict[str, tuple[float, float]]:
    """(rate, decay) multipliers of every trainable parameter by its name.

    Vectors and biases do not decay. Raises BuildError for other backbones than ConvNeXt.
    """
    missing = [key for key in ("num_layers", "decay_rate") if key not in paramwise]
    if missing:
        raise BuildError(f"optim_wrapper.paramwise_cfg: {CONSTRUCTORS[0]} needs {missing[0]}")
    kind = paramwise.get("decay_type", "layer_wise")
    if kind not in KINDS:
        raise BuildError(
            f"optim_wrapper.paramwise_cfg: decay_type is {kind!r}; use {' or '.join(KINDS)}"
        )
    backbone = type(getattr(model, "backbone", None)).__name__
    if "ConvNeXt" not in backbone:
        raise BuildError(
            f"optim_wrapper.constructor: {CONSTRUCTORS[0]} is for ConvNeXt, the backbone is "
            f"{backbone}; remove constructor"
        )
    layers, rate = paramwise["num_layers"], paramwise["decay_rate"]
    depth = depth_by_layer if kind == "layer_wise" else depth_by_stage
    return {
        name: (rate ** (layers + 1 - depth(name, layers)), float(_decays(name, parameter)))
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.dim() != 1 and not name.endswith(".bias")
