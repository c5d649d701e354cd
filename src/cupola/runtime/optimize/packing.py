"""Linear layers with weights in the layout of oneDNN's kernels.

Without it, oneDNN reorders the weights of a layer at every call. The packed copy is kept beside the
weights and takes as much memory.
"""

from typing import Any

import torch
from torch import Tensor

from cupola import nn


class PackedLinear(nn.Linear):
    """A Linear of inference."""

    packed: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """As Linear: [..., I] -> [..., O]."""
        if not _computes(x, self.weight) or torch.compiler.is_compiling():
            return super().forward(x)
        if self.packed is None:
            self.__dict__["packed"] = torch.ops.mkldnn._reorder_linear_weight(
                self.weight.contiguous()
            )
        found: Tensor = torch.ops.mkldnn._linear_pointwise(
            x, self.packed, self.bias, "none", [], ""
        )
        return found


def _computes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's kernel takes this input: float32 on the CPU, with something in it."""
    return x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and x.numel() > 0


def pack(model: Any) -> Any:
    """Replaces the layers of a model for inference in place, and returns it."""
    for module in list(model.modules()):
        for child in module.children():
            if type(child) is nn.Linear:
                child.__class__ = PackedLinear
    return model


def packs() -> bool:
    """Whether torch has these kernels here."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    layer = pack(nn.Sequential(nn.Linear(4, 4))).eval()
    try:
        with torch.inference_mode():
            layer(torch.ones(1, 4, 4, 4))
    except (RuntimeError, AttributeError):
        return False
    return True
