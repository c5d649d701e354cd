"""Grouped-query self-attention (arXiv 2305.13245): several query heads share one key-value head.

Letters: H hidden, N query heads and G key-value heads on this rank, D head size; "..." is [B, S],
or [T] when the new tokens of many requests are laid end to end.
"""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.generation import AttentionContext, Heads
from cupola.models.llama.rotary import RotaryEmbedding, rotate
from cupola.models.llama.settings import LlamaSettings
from cupola.parallel import SINGLE, ColumnParallelLinear, Group, RowParallelLinear, copy_to_ranks
from cupola.parallel.layers import normal


class SelfAttention(nn.Module):
    """[..., H] -> [..., H].

    Where there are fewer key-value heads than ranks, every rank computes all of them and uses the
    one that its query heads share.
    """

    def __init__(self, settings: LlamaSettings, layer: int, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, size = settings.hidden_size, settings.head_size
        queries, shared = settings.num_attention_heads, settings.key_value_heads
        self.layer, self.group = layer, group
        self.replicated = shared < group.size and group.size % shared == 0
        own = 1 if self.replicated else group.share(shared, "num_key_value_heads")
        self.heads = Heads(group.share(queries, "num_attention_heads"), own, size)
        self.rotary = RotaryEmbedding(size, settings.rope)
        options = {"init": normal(settings.initializer_range), **factory}
        columns = {"bias": settings.query_key_value_bias, **options}
        self.q_proj = ColumnParallelLinear(hidden, queries * size, group=group, **columns)
        few = SINGLE if self.replicated else group
        self.k_proj = ColumnParallelLinear(hidden, shared * size, group=few, **columns)
        self.v_proj = ColumnParallelLinear(hidden, shared * size, group=few, **columns)
        if self.replicated:
            self.k_proj.shard_dims = self.v_proj.shard_dims = {}
        self.o_proj = RowParallelLinear(
            queries * size, hidden, bias=settings.attention_bias, group=group, **options
        )

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        query = self.q_proj(x).unflatten(-1, (self.heads.query, self.heads.size))  # [..., N, D]
        key = self._own_heads(self.k_proj(x))  # [..., G, D]
        value = self._own_heads(self.v_proj(x))  # [..., G, D]
        cos, sin = self.rotary(context.positions, x.dtype)
        mixed = context.attend(self.layer, rotate(query, cos, sin), rotate(key, cos, sin), value)
        out: Tensor = self.o_proj(mixed.flatten(-2))  # [..., H]
        return out

    def _own_heads(self, x: Tensor) -> Tensor:
        """This rank's key-value heads [..., G, D]."""
        heads = x.view(*x.shape[:-1], -1, self.heads.size)
        if not self.replicated:
            return heads
        first = self.group.rank * heads.shape[-2] // self.group.size
        return copy_to_ranks(heads, self.group)[..., first : first + 1, :]
