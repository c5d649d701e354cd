"""GELU as BLOOM was trained with: the tanh approximation with Megatron's rounded constants."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.parallel import by_lanes

SQRT_2_OVER_PI = 0.79788456
CUBIC = 0.044715
CUBIC_SLOPE = 0.1070322243  # 3 * CUBIC * SQRT_2_OVER_PI


class _BiasGelu(torch.autograd.Function):
    """gelu(x + bias), or gelu(x); it keeps x alone and computes tanh again in its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, bias)
        x = x if bias is None else x + bias
        return x * 0.5 * (1.0 + torch.tanh(SQRT_2_OVER_PI * x * (1 + CUBIC * x * x)))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        x, bias = ctx.saved_tensors
        x = x if bias is None else x + bias
        squared = x * x
        tanh = torch.tanh(SQRT_2_OVER_PI * x * (1 + CUBIC * squared))
        inner = 0.5 * x * (1 - tanh * tanh) * (SQRT_2_OVER_PI + CUBIC_SLOPE * squared)
        grad_x = (inner + 0.5 * (1 + tanh)) * grad
        return grad_x, None if bias is None else grad_x.flatten(0, -2).sum(0)


def bias_gelu(x: Tensor, bias: Tensor | None = None) -> Tensor:
    """[..., F] and [F] -> [..., F]. Without gradients torch's one-pass kernel, 2.4e-7 away."""
    if torch.is_grad_enabled():
        return _BiasGelu.apply(x, bias)  # type: ignore[no-untyped-call]
    return _gelu_tanh(x, bias)


def _gelu_tanh(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return by_lanes(partial(F.gelu, approximate="tanh"), x if bias is None else x + bias)


def _gelu_erf(x: Tensor, bias: Tensor | None = None) -> Tensor:
    return by_lanes(F.gelu, x if bias is None else x + bias)


GELUS: dict[str, Callable[..., Tensor]] = {
    "tanh": bias_gelu,
    "tanh_torch": _gelu_tanh,
    "erf": _gelu_erf,
}
