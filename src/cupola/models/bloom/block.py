"""The parts of one BLOOM block: self-attention, MLP, and the two residuals around them.

Letters: H hidden, N heads on this rank, D head size, P ranks; "..." is [B, S], or [T] when the new
tokens of many requests are laid end to end.
"""

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.generation import AttentionContext, Heads
from cupola.models.bloom.gelu import GELUS
from cupola.models.bloom.settings import BloomSettings
from cupola.parallel import ColumnParallelLinear, Group, RowParallelLinear, checkpoint
from cupola.parallel.layers import normal


class SelfAttention(nn.Module):
    """[..., H] -> [..., H]. The rows of query_key_value are (head, [q, k, v], D)."""

    def __init__(self, settings: BloomSettings, layer: int, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, std = settings.hidden_size, settings.initializer_range
        self.layer = layer
        heads = group.share(settings.n_head, "n_head")
        self.heads = Heads(heads, heads, settings.head_dim)
        self.query_key_value = ColumnParallelLinear(
            hidden, 3 * hidden, init=normal(std), group=group, **factory
        )
        self.dense = RowParallelLinear(
            hidden,
            hidden,
            init=normal(std / math.sqrt(2 * settings.n_layer)),
            group=group,
            **factory,
        )

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        fused = self.query_key_value(x)  # [..., 3 H/P]
        fused = fused.unflatten(-1, (self.heads.query, 3, self.heads.size))  # [..., N, 3, D]
        query, key, value = fused.unbind(-2)
        mixed = context.attend(self.layer, query, key, value)  # [..., N, D]
        out: Tensor = self.dense(mixed.flatten(-2))  # [..., H]
        return out


class MLP(nn.Module):
    """[..., H] -> [..., 4 H] -> [..., H], with one all-reduce at the end."""

    def __init__(self, settings: BloomSettings, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, std = settings.hidden_size, settings.initializer_range
        self.gelu = GELUS[settings.gelu]
        self.dense_h_to_4h = ColumnParallelLinear(
            hidden, 4 * hidden, init=normal(std), group=group, **factory
        )
        self.dense_4h_to_h = RowParallelLinear(
            4 * hidden,
            hidden,
            init=normal(std / math.sqrt(2 * settings.n_layer)),
            group=group,
            **factory,
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.dense_4h_to_h(self.gelu(self.dense_h_to_4h(x)))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With `apply_residual_connection_post_layernorm` the residuals start after the norms. With
    `keep`, row numbers of [T, H], only those rows continue after the attention.
    """

    def __init__(self, settings: BloomSettings, layer: int, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, eps = settings.hidden_size, settings.layer_norm_epsilon
        self.post_norm_residual = settings.apply_residual_connection_post_layernorm
        self.dropout = settings.hidden_dropout
        self.checkpoints, self.group = settings.checkpoint_activations, group
        self.input_norm = nn.LayerNorm(hidden, eps=eps, **factory)
        self.attention = SelfAttention(settings, layer, group, **factory)
        self.attention_norm = nn.LayerNorm(hidden, eps=eps, **factory)
        self.mlp = MLP(settings, group, **factory)

    @property
    def heads(self) -> Heads:
        return self.attention.heads

    def forward(self, x: Tensor, context: AttentionContext, keep: Tensor | None = None) -> Tensor:
        if self.checkpoints and torch.is_grad_enabled():
            run = partial(self._run, context=context, keep=keep)
            return checkpoint(run, x, list(self.parameters()), self.group)
        return self._run(x, context, keep)

    def _run(self, x: Tensor, context: AttentionContext, keep: Tensor | None) -> Tensor:
        normed = self.input_norm(x)
        residual = normed if self.post_norm_residual else x
        x = residual + self._drop(self.attention(normed, context))
        x = x if keep is None else x[keep]
        normed = self.attention_norm(x)
        residual = normed if self.post_norm_residual else x
        return residual + self._drop(self.mlp(normed))

    def _drop(self, x: Tensor) -> Tensor:
        return F.dropout(x, self.dropout, self.training) if self.dropout else x
