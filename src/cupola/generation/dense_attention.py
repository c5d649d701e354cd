"""DenseContext: how attention is computed for a plain [B, S] batch, with or without a cache.

A block hands its queries, keys and values to a context and gets the mixed values back; it need
not know whether they came from a padded batch (here) or from many requests' pages (paged.py).

Letters: B batch, Q new tokens, K = past + Q keys, N heads on this rank, D head size.
"""

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.bloom.alibi import alibi_bias, positions
from cupola.models.bloom.settings import BloomSettings
from cupola.parallel import RandomStreams, causal_mask, scale_mask_softmax


class Context(Protocol):
    """What a block needs to know of the batch it runs in."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[..., N, D] each -> [..., N, D]: every query's mixture of the values it may see."""


class DenseCache:
    """Keys and values of the tokens so far, one pair of [B, N, K, D] a layer."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.mask: Tensor | None = None  # [B, K] of the tokens so far

    @property
    def length(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds [B, N, Q, D] and returns all of the layer."""
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 2)
            self.values[layer] = torch.cat([self.values[layer], value], 2)
        return self.keys[layer], self.values[layer]


class DenseContext:
    """Explicit scores, ALiBi, mask, float32 softmax and dropout over a [B, Q] batch."""

    def __init__(
        self,
        settings: BloomSettings,
        slopes: Tensor,
        attention_mask: Tensor,
        queries: int,
        *,
        dtype: torch.dtype,
        dropout: float = 0.0,
        cache: DenseCache | None = None,
        streams: RandomStreams | None = None,
        documents: Tensor | None = None,  # [B, K]: tokens of different numbers do not attend
    ) -> None:
        self.settings, self.cache = settings, cache
        self.dropout, self.streams = dropout, streams
        keys = attention_mask.shape[1]
        self.key_positions = positions(attention_mask)  # [B, K]
        where = self.key_positions if settings.alibi else torch.zeros_like(self.key_positions)
        self.bias = alibi_bias(slopes, where).to(dtype)  # [B, N, 1, K]
        future = causal_mask(queries, keys, attention_mask.device)  # [Q, K]
        self.mask = future | (attention_mask == 0)[:, None, None, :]  # [B, 1, Q, K]
        if documents is not None:
            own = documents[:, -queries:, None] == documents[:, None, :]  # [B, Q, K]
            self.mask = self.mask | ~own[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, Q, N, D] each -> [B, Q, N, D]."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # [B, N, Q, D]
        if self.cache is not None:
            key, value = self.cache.append(layer, key, value)
        scale = float(layer + 1) if self.settings.query_key_layer_scaling else 1.0
        scores = self._scores(query, key, scale)
        weights = scale_mask_softmax(scores, self.mask, scale)
        if self.dropout:
            weights = self._drop(weights)
        return (weights @ value).transpose(1, 2)  # [B, Q, N, D]

    def _scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        B, N, Q, D = query.shape
        K = key.shape[2]
        bias = self.bias.expand(B, N, Q, K).reshape(B * N, Q, K)
        scores = torch.baddbmm(
            bias,
            query.reshape(B * N, Q, D),
            key.reshape(B * N, K, D).transpose(1, 2),
            beta=1.0 / scale,
            alpha=1.0 / (math.sqrt(D) * scale),
        )
        return scores.view(B, N, Q, K)

    def _drop(self, weights: Tensor) -> Tensor:
        if self.streams is None:
            return F.dropout(weights, self.dropout)
        with self.streams.own():  # the ranks hold different heads: each draws for itself
            return F.dropout(weights, self.dropout)


def new_mask(input_ids: Tensor, attention_mask: Tensor | None, cache: DenseCache | None) -> Tensor:
    """The [B, K] mask over past and new tokens, and notes it in the cache.

    `attention_mask` covers the new tokens or all of them; None means no padding.
    """
    mask: Any = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if cache is not None:
        if cache.mask is not None and mask.shape[1] == input_ids.shape[1]:
            mask = torch.cat([cache.mask, mask], 1)
        cache.mask = mask
    return mask
