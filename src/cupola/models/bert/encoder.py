"""BERT's embeddings and layers. State keys are those of transformers.

Letters: B texts, T tokens, C channels, H heads, D channels of a head.
Source: transformers/models/bert/modeling_bert.py; paper, section 3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import nn
from cupola.models.bert.settings import BertSettings
from cupola.registry.budget import reserve


class BertEmbeddings(nn.Module):
    """Words, positions and types, summed and normalized."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        C = settings.hidden_size
        self.word_embeddings = nn.Embedding(settings.vocab_size, C, padding_idx=0)
        self.position_embeddings = nn.Embedding(settings.max_position_embeddings, C)
        self.token_type_embeddings = nn.Embedding(settings.type_vocab_size, C)
        self.LayerNorm = nn.LayerNorm(C, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids and positions [B, T] -> [B, T, C]; all tokens are of type 0."""
        types = self.token_type_embeddings.weight[0]
        words = self.word_embeddings(ids) + types + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(words))


class BertSelfAttention(nn.Module):
    """[B, T, C] -> [B, T, C]; scores are kept within +-`limit` where it is set."""

    def __init__(self, settings: BertSettings, limit: float | None) -> None:
        super().__init__()
        C = settings.hidden_size
        self.heads = settings.num_attention_heads
        self.limit = limit
        self.drop = settings.attention_probs_dropout_prob
        self.query = nn.Linear(C, C)
        self.key = nn.Linear(C, C)
        self.value = nn.Linear(C, C)

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        """sees [B, T or 1, T]: which tokens (columns) a token (row) sees."""
        query, key, value = (
            torch.unflatten(layer(x), -1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, D]
            for layer in (self.query, self.key, self.value)
        )
        drop = self.drop if self.training else 0.0
        if self.limit is None:
            out = F.scaled_dot_product_attention(query, key, value, sees[:, None], drop)
        else:
            scores = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5  # [B, H, T, T]
            scores = scores.clamp(-self.limit, self.limit)
            scores = scores.masked_fill(~sees[:, None], torch.finfo(scores.dtype).min)
            out = F.dropout(scores.softmax(-1), drop) @ value
        return out.transpose(1, 2).flatten(2)


class BertOutput(nn.Module):
    """norm(x + dropout(dense(y)))."""

    def __init__(self, settings: BertSettings, channels: int, limit: float | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.dense = nn.Linear(channels, settings.hidden_size)
        self.LayerNorm = nn.LayerNorm(settings.hidden_size, eps=settings.layer_norm_eps)
        self.dropout = nn.Dropout(settings.hidden_dropout_prob)

    def forward(self, y: Tensor, x: Tensor) -> Tensor:
        y = _within(self.dropout(self.dense(y)), self.limit)
        return _within(self.LayerNorm(y + x), self.limit)


class BertAttention(nn.Module):
    """Self-attention with its projection, residual and norm."""

    def __init__(self, settings: BertSettings, limit: float | None) -> None:
        super().__init__()
        self.self = BertSelfAttention(settings, limit)
        self.output = BertOutput(settings, settings.hidden_size)

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        return self.output(self.self(x, sees), x)


class BertIntermediate(nn.Module):
    """gelu(dense(x))."""

    def __init__(self, settings: BertSettings, limit: float | None) -> None:
        super().__init__()
        self.limit = limit
        self.dense = nn.Linear(settings.hidden_size, settings.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return _within(F.gelu(_within(self.dense(x), self.limit)), self.limit)


class BertLayer(nn.Module):
    """Attention and feed-forward, both post-norm. GLIP's layers set a `limit` of all values."""

    def __init__(self, settings: BertSettings, limit: float | None = None) -> None:
        super().__init__()
        self.attention = BertAttention(settings, limit)
        self.intermediate = BertIntermediate(settings, limit)
        self.output = BertOutput(settings, settings.intermediate_size, limit)

    def forward(self, x: Tensor, sees: Tensor) -> Tensor:
        """x [B, T, C]; sees [B, T or 1, T], True where a token sees another."""
        x = self.attention(x, sees)
        return self.output(self.intermediate(x), x)


class BertLayers(nn.Module):
    """num_hidden_layers layers, of which all states are given."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        reserve(settings.num_hidden_layers)
        self.layer = nn.ModuleList(BertLayer(settings) for _ in range(settings.num_hidden_layers))

    def forward(self, x: Tensor, sees: Tensor) -> list[Tensor]:
        states = []
        for layer in self.layer:
            x = layer(x, sees)
            states.append(x)
        return states


class BertPooler(nn.Module):
    """What BERT was pretrained with; detectors keep its weights and never use them."""

    def __init__(self, settings: BertSettings) -> None:
        super().__init__()
        self.dense = nn.Linear(settings.hidden_size, settings.hidden_size)


class Bert(nn.Module):
    """ids -> the states of every layer."""

    def __init__(self, settings: BertSettings, pooler: bool = False) -> None:
        super().__init__()
        self.settings = settings
        self.embeddings = BertEmbeddings(settings)
        self.encoder = BertLayers(settings)
        self.pooler = BertPooler(settings) if pooler else None
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=settings.initializer_range)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, ids: Tensor, sees: Tensor, positions: Tensor | None = None) -> list[Tensor]:
        """ids [B, T], sees [B, T or 1, T], positions [B, T] or 0, 1, ... -> [B, T, C] of each."""
        if positions is None:
            positions = torch.arange(ids.shape[1], device=ids.device)[None]
        states: list[Tensor] = self.encoder(self.embeddings(ids, positions), sees)
        return states


def _within(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)
