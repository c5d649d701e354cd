"""Batch norms folded into the convolutions before them, for inference.

Convolutions are also laid out channels-last. Results differ from the plain model's in rounding
only.
"""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch.nn.utils.fusion import fuse_conv_bn_weights

from cupola import nn
from cupola.models.layers import (
    DeformConv2d,
    DeformConv2dPack,
    ModulatedDeformConv2d,
    ModulatedDeformConv2dPack,
)

# Layers that are linear in their weights, so that a scale can be folded into them.
DEFORMABLE = (DeformConv2d, DeformConv2dPack, ModulatedDeformConv2d, ModulatedDeformConv2dPack)
FOLDED = (nn.Conv2d, *DEFORMABLE)


def fold_batch_norms(model: Any, share: bool = False) -> Any:
    """A copy of a model for inference; the model itself is not changed.

    The copy has Cupola's layers, also of a model that an export has bridged to torch's. With
    `share`, weights that folding does not change have the same memory in both: faster, for models
    whose weights nobody changes any more.
    """
    copied = _sharing_copy(model) if share else copy.deepcopy(model)
    folded = nn.from_torch(copied).eval().requires_grad_(False)
    for parent, conv, norm in list(_pairs(folded)):
        # A copy, because several norms may share a convolution, as in RTMDet's head.
        own = _sharing_copy(getattr(parent, conv))
        _fold(own, getattr(parent, norm))
        setattr(parent, conv, own)
        setattr(parent, norm, nn.Identity())
    for module in folded.modules():
        if isinstance(module, FOLDED):
            module.weight.data = module.weight.data.to(memory_format=torch.channels_last)
    return folded


def _sharing_copy(model: Any) -> Any:
    """A copy with parameters of its own, in the memory of the model's."""
    copies: dict[int, Any] = {
        id(each): nn.Parameter(each.detach(), requires_grad=False) for each in model.parameters()
    }
    return copy.deepcopy(model, copies)


def foldable(model: Any) -> bool:
    """Whether there is a batch norm to fold."""
    return next(_pairs(model), None) is not None


def _pairs(model: Any) -> Iterator[tuple[Any, str, str]]:
    """(parent, name of a convolution, name of the batch norm that follows it).

    They are siblings: convN and bnN, conv and bn, or 0 and 1 of a Sequential.
    """
    for parent in model.modules():
        children = dict(parent.named_children())
        for name, conv in children.items():
            if type(conv) not in FOLDED:
                continue
            following = "1" if name == "0" and len(children) == 2 else name.replace("conv", "bn")
            norm = children.get(following)
            if (
                following != name
                and isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm))
                and norm.num_features == conv.out_channels
                and norm.running_var is not None
            ):
                yield parent, name, following


def _fold(conv: Any, norm: Any) -> None:
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    conv.weight = weight
    conv.bias = bias
