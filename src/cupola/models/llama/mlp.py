"""The SwiGLU MLP (arXiv 2002.05202): silu(gate) * up, and back."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.llama.settings import LlamaSettings
from cupola.parallel import ColumnParallelLinear, Group, RowParallelLinear, by_lanes
from cupola.parallel.layers import normal


class MLP(nn.Module):
    """[..., H] -> [..., intermediate_size] -> [..., H], with one all-reduce at the end."""

    def __init__(self, settings: LlamaSettings, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, inner = settings.hidden_size, settings.intermediate_size
        options = {
            "bias": settings.mlp_bias,
            "init": normal(settings.initializer_range),
            "group": group,
            **factory,
        }
        self.gate_proj = ColumnParallelLinear(hidden, inner, **options)
        self.up_proj = ColumnParallelLinear(hidden, inner, **options)
        self.down_proj = RowParallelLinear(inner, hidden, **options)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(by_lanes(F.silu, self.gate_proj(x)) * self.up_proj(x))
        return out
