"""The MLP of a block, in slices of tokens.

Its hidden layer is four times as wide as the tokens, 200 MB for FourCastNet's grid; in slices it
stays in the cache. Letters: N tokens, C channels, D hidden.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from cupola import nn

# Tokens per slice.
SLICE = 1024


class SlicedMlp(torch.autograd.Function):
    """fc2(gelu(fc1(x))), [N, C] -> [N, C], slice by slice, forwards and backwards.

    Saves the input of GELU and recomputes its output for the gradient: half of what autograd saves.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor) -> Tensor:
        """[N, C] -> [N, C]."""
        out = x.new_empty(x.shape[0], w2.shape[0])
        hidden = []
        for part, place in zip(torch.split(x, SLICE), torch.split(out, SLICE), strict=True):
            hidden.append(torch.addmm(b1, part, w1.t()))
            torch.addmm(b2, F.gelu(hidden[-1]), w2.t(), out=place)
        ctx.save_for_backward(x, w1, w2, *hidden)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Gradients of x, w1, b1, w2 and b2."""
        x, w1, w2, *hidden = ctx.saved_tensors
        grad_x, grad_w1, grad_w2 = torch.empty_like(x), torch.zeros_like(w1), torch.zeros_like(w2)
        grad_b1 = w1.new_zeros(w1.shape[0])
        slices = (torch.split(tensor, SLICE) for tensor in (x, grad, grad_x))
        for before, (part, after, place) in zip(hidden, zip(*slices, strict=True), strict=True):
            grad_w2.addmm_(after.t(), F.gelu(before))
            inner = torch.ops.aten.gelu_backward(after @ w2, before)
            grad_w1.addmm_(inner.t(), part)
            grad_b1 += inner.sum(dim=0)
            torch.mm(inner, w1, out=place)
        return grad_x, grad_w1, grad_b1, grad_w2, grad.sum(dim=0)


class Mlp(nn.Module):
    """Two linear layers around an exact (erf) GELU: [..., C] -> [..., C].

    dtype: the type to compute in (torch.bfloat16), including weights and sums; None means the
        input's.
    """

    def __init__(
        self, features: int, hidden: int, drop: float = 0.0, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(features, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, features)
        self.drop = nn.Dropout(drop)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """[..., C] -> [..., C]."""
        if self.dtype is not None:
            with torch.autocast(x.device.type, dtype=self.dtype):
                return self._plain(x).to(x.dtype)
        if torch.compiler.is_exporting():
            return self._plain(x)
        if not torch.is_grad_enabled():
            return self.drop(self.fc2(self.drop(torch.ops.aten.gelu_(self.fc1(x)))))
        dropping = self.training and self.drop.p > 0
        if x.device.type != "cpu" or dropping or torch.is_autocast_enabled("cpu"):
            return self._plain(x)
        weights = (self.fc1.weight, self.fc1.bias, self.fc2.weight, self.fc2.bias)
        sliced: Any = SlicedMlp.apply
        return sliced(x.reshape(-1, x.shape[-1]), *weights).view(x.shape)

    def _plain(self, x: Tensor) -> Tensor:
        return self.drop(self.fc2(self.drop(self.act(self.fc1(x)))))
