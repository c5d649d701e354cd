"""Convolution, activation and the addition of a shortcut in one call of oneDNN, for inference.

The weights stay where they are, so processes that map them from one file still share them, unless
copies in oneDNN's own order are asked for. Results differ from separate steps' in rounding only.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.backbones.residual import BasicBlock, Bottleneck, ResidualBlock
from cupola.models.layers import ConvModule
from cupola.runtime.optimize.folding import fold_batch_norms

FEW = 400  # cells; a convolution of 1x1 over fewer spends its time on the order of its weights


class Activation(NamedTuple):
    """An activation by the name that oneDNN's fused kernels have for it."""

    name: str
    apply: Callable[[Tensor], Tensor]
    scalars: Sequence[float] = ()


NONE = Activation("none", lambda x: x)
RELU = Activation("relu", F.relu)
ACTIVATIONS = {
    nn.ReLU: RELU,
    nn.SiLU: Activation("swish", F.silu),
    nn.Hardswish: Activation("hardswish", F.hardswish),
    nn.Sigmoid: Activation("sigmoid", torch.sigmoid),
    nn.Tanh: Activation("tanh", torch.tanh),
}


class FusedConv2d(nn.Conv2d):
    """A Conv2d, the addition of another tensor, and an activation.

    With `packs` it keeps a copy of its weight in the order of the kernel for inputs of the shape
    that it sees first. For some other shapes that order would be slower than none.
    """

    activation = NONE
    packs = False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """x [B, C, H, W], other as the result -> activation(conv(x) + other) [B, C', H', W']."""
        weight = self._kernel_weight(x) if self._fits(x, other) else None
        if weight is None:
            out = super().forward(x)
            return self.activation.apply(out if other is None else out + other)
        name, scalars = self.activation.name, list(self.activation.scalars)
        settings = (self.padding, self.stride, self.dilation, self.groups)
        fused: Any = torch.ops.mkldnn._convolution_pointwise
        result: Tensor
        if other is None:
            result = fused(x, weight, self.bias, *settings, name, scalars, "")
        else:
            after = None if name == "none" else name
            sum_settings = ("add", 1.0, after, scalars, "")
            result = fused.binary(x, other, weight, self.bias, *settings, *sum_settings)
        return result

    def _fits(self, x: Tensor, other: Tensor | None) -> bool:
        """Whether the fused kernel takes this input."""
        if torch.compiler.is_compiling() or torch.compiler.is_exporting():
            return False
        if torch.is_grad_enabled() and (x.requires_grad or self.weight.requires_grad):
            return False
        if torch.is_autocast_enabled("cpu") or x.ndim != 4:
            return False
        if not (_plain(x) and _plain(self.weight)):
            return False
        return other is None or (_plain(other) and tuple(other.shape) == self._result_shape(x))

    def _kernel_weight(self, x: Tensor) -> Tensor | None:
        """The weight for the fused kernel; None where separate steps are faster."""
        if self.packs:
            shape, packed = self._packed(x)
            if shape == x.shape:
                return packed
        cells = x.shape[0] * x.shape[2] * x.shape[3]
        return None if self.kernel_size == (1, 1) and cells < FEW else self.weight

    def _packed(self, x: Tensor) -> tuple[torch.Size, Tensor]:
        """The shape that the packed copy of the weight is for, and the copy."""
        weight, kept = self.weight, self.__dict__.get("packed")
        version = 0 if weight.is_inference() else weight._version
        if kept is None or kept[0] is not weight or kept[1] != version:
            pack = torch.ops.mkldnn._reorder_convolution_weight
            settings = (self.padding, self.stride, self.dilation, self.groups)
            kept = (weight, version, x.shape, pack(weight.detach(), *settings, list(x.shape)))
            self.__dict__["packed"] = kept
        return kept[2], kept[3]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles pack their own weights."""
        return {key: value for key, value in super().__getstate__().items() if key != "packed"}

    def _result_shape(self, x: Tensor) -> tuple[int, ...]:
        sides = []
        for axis in (0, 1):
            before, step = int(self.padding[axis]), self.stride[axis]
            covered = self.dilation[axis] * (self.kernel_size[axis] - 1) + 1
            sides.append((x.shape[2 + axis] + 2 * before - covered) // step + 1)
        return (x.shape[0], self.out_channels, *sides)


def _plain(tensor: Tensor) -> bool:
    return tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.numel() > 0


class FusedBottleneck(Bottleneck):
    """A Bottleneck of three FusedConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        """As Bottleneck: [B, C, H, W] -> [B, C', H / stride, W / stride]."""
        out: Tensor = self.conv3(self.conv2(self.conv1(x)), self.shortcut(x))
        return out


class FusedBasicBlock(BasicBlock):
    """A BasicBlock of two FusedConv2d."""

    def forward(self, x: Tensor) -> Tensor:
        """As BasicBlock: [B, C, H, W] -> [B, C', H / stride, W / stride]."""
        out: Tensor = self.conv2(self.conv1(x), self.shortcut(x))
        return out


FUSED_BLOCKS: dict[type[ResidualBlock], type[ResidualBlock]] = {
    Bottleneck: FusedBottleneck,
    BasicBlock: FusedBasicBlock,
}


def fold(model: Any, pack: bool = False) -> Any:
    """A copy of a model for inference: batch norms folded, activations and shortcuts fused."""
    return fuse(fold_batch_norms(model), pack)


def fuse(model: Any, pack: bool = False) -> Any:
    """Fuses activations and shortcuts into the convolutions of a model in place; returns it.

    For inference only; the batch norms should be folded. Names and values of the state dict stay
    as they are. `pack` keeps a second copy of the weights, in the order of the kernels for the
    first input's size. Where the kernels are missing nothing changes.
    """
    if not available():
        return model
    modules = list(model.modules())
    owners = Counter(id(child) for module in modules for child in module.children())
    for module in modules:
        convs = [each for each in module.children() if _fusable(each)]
        if any(owners[id(each)] > 1 for each in convs):
            continue  # of several parents, each with its own activation
        if isinstance(module, ConvModule):
            _fuse_conv_module(module)
        elif type(module) in FUSED_BLOCKS:
            _fuse_block(module)
    for module in modules:
        if _fusable(module):
            module.__class__ = FusedConv2d
        if isinstance(module, FusedConv2d):
            module.packs = pack
    return model


def available() -> bool:
    """Whether torch has these kernels for this processor."""
    if not hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
        return False
    layer = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False)
    layer.__class__ = FusedConv2d
    with torch.inference_mode():
        x = torch.ones(1, 8, 4, 4)
        try:
            layer(x, x)
        except RuntimeError:
            return False
    return True


def _fusable(conv: Any) -> bool:
    """Whether a module is a plain convolution whose padding oneDNN computes."""
    return (
        type(conv) is nn.Conv2d
        and conv.padding_mode == "zeros"
        and not isinstance(conv.padding, str)
    )


def _fuse_conv_module(module: ConvModule) -> None:
    activation = ACTIVATIONS.get(type(module.activate))
    norm = getattr(module, module.norm_name) if module.norm_name else None
    in_order = [step for step in module.order if step != "norm"] == ["conv", "act"]
    folded = norm is None or isinstance(norm, nn.Identity)
    if activation is not None and in_order and folded and _fusable(module.conv):
        module.conv.__class__ = FusedConv2d
        module.conv.activation = activation
        module.activate = nn.Identity()


def _fuse_block(block: Any) -> None:
    convs = [each for name, each in block.named_children() if name.startswith("conv")]
    norms = [each for name, each in block.named_children() if name.startswith("bn")]
    folded = len(norms) == len(convs) and all(isinstance(each, nn.Identity) for each in norms)
    if folded and not any(getattr(block, "plugins", ())) and all(map(_fusable, convs)):
        for conv in convs:
            conv.__class__ = FusedConv2d
            conv.activation = RELU
        block.__class__ = FUSED_BLOCKS[type(block)]
