"""The embedding before the first block, and the pooled vector of a sequence."""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import InputError
from cupola.models.bloom.settings import BloomSettings
from cupola.parallel import Group, VocabParallelEmbedding, is_recorded
from cupola.parallel.layers import normal


class Embedding(nn.Module):
    """Word (+ position + token type), then LayerNorm: ids [...] -> [..., H].

    BLOOM itself uses only words and the norm; the others are options of the Megatron language
    model.
    """

    def __init__(self, settings: BloomSettings, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, init = settings.hidden_size, normal(settings.initializer_range)
        self.word = VocabParallelEmbedding(
            settings.vocab_size, hidden, init=init, group=group, **factory
        )
        self.position = self._table(settings.max_position_embeddings, hidden, init, factory)
        self.token_type = self._table(settings.num_token_types, hidden, init, factory)
        self.norm = (
            nn.LayerNorm(hidden, eps=settings.layer_norm_epsilon, **factory)
            if settings.embedding_layernorm
            else None
        )

    @staticmethod
    def _table(rows: int, hidden: int, init: Any, factory: dict[str, Any]) -> nn.Embedding | None:
        if not rows:
            return None
        table = nn.Embedding(rows, hidden, **factory)
        if table.weight.device.type != "meta":
            with torch.no_grad():
                init(table.weight)
        return table

    def forward(self, ids: Tensor, positions: Tensor, token_types: Tensor | None = None) -> Tensor:
        x: Tensor = self.word(ids)
        if self.position is not None:
            rows = self.position.weight.shape[0]
            if not is_recorded(positions) and int(positions.max()) >= rows:
                raise InputError(f"{int(positions.max()) + 1} tokens, but {rows} positions")
            x = x + self.position(positions)
        if token_types is not None:
            if self.token_type is None:
                raise InputError("token types were given, but num_token_types is 0")
            x = x + self.token_type(token_types)
        return x if self.norm is None else self.norm(x)


class Pooler(nn.Module):
    """[B, S, H] -> [B, H]: tanh of a linear layer on one token (Megatron `Pooler`)."""

    def __init__(self, settings: BloomSettings, **factory: Any) -> None:
        super().__init__()
        hidden = settings.hidden_size
        self.dense = nn.Linear(hidden, hidden, **factory)

    def forward(self, x: Tensor, index: int = 0) -> Tensor:
        return torch.tanh(self.dense(x[:, index]))
