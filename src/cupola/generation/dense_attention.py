"""DenseContext: how attention is computed for a plain [B, S] batch, with or without a cache.

Training and `forward` use it. A layer hands it queries, keys and values and need not know whether
they came from a padded batch (here) or from the blocks of many requests (paged_attention.py).

Letters: B batch, Q new tokens, K = past + Q keys, N query heads on this rank, D head size.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.parallel import RandomStreams, causal_mask, scale_mask_softmax


class DenseCache:
    """Keys and values of the tokens so far, one pair of [B, heads, K, D] for each layer."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []
        self.mask: Tensor | None = None  # [B, K] of the tokens so far

    @property
    def length(self) -> int:
        return self.keys[0].shape[2] if self.keys else 0

    def append(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds [B, heads, Q, D] and returns all of the layer."""
        if layer == len(self.keys):
            self.keys.append(key)
            self.values.append(value)
        else:
            self.keys[layer] = torch.cat([self.keys[layer], key], 2)
            self.values[layer] = torch.cat([self.values[layer], value], 2)
        return self.keys[layer], self.values[layer]

    def extend_mask(self, new: Tensor, count: int) -> Tensor:
        """[B, K] mask of past and new tokens; `new` covers the `count` new ones, or all."""
        if self.mask is not None and new.shape[1] == count:
            new = torch.cat([self.mask, new], 1)
        self.mask = new
        return new


class DenseContext:
    """Explicit scores, mask, float32 softmax and dropout over a [B, Q] batch.

    attention_mask: [B, Q], or [B, K] with a cache; 1 = token, 0 = padding. None: no padding.
    slopes: [N] ALiBi slopes, if the model has them.
    documents: [B, K]; tokens of different numbers do not attend to each other.
    layer_scaling: scores pass the softmax divided by their layer's number and multiplied again.
    """

    def __init__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DenseCache | None = None,
        *,
        slopes: Tensor | None = None,
        documents: Tensor | None = None,
        dropout: float = 0.0,
        streams: RandomStreams | None = None,
        layer_scaling: bool = False,
    ) -> None:
        self.cache, self.dropout, self.streams = cache, dropout, streams
        self.layer_scaling = layer_scaling
        queries = input_ids.shape[1]
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        mask = mask if cache is None else cache.extend_mask(mask, queries)  # [B, K]
        key_positions = positions(mask)  # [B, K]
        self.positions = key_positions[:, -queries:]  # [B, Q]
        self.bias = None if slopes is None else alibi_bias(slopes, key_positions)  # [B, N, 1, K]
        future = causal_mask(queries, mask.shape[1], mask.device)  # [Q, K]
        self.mask = future | (mask == 0)[:, None, None, :]  # [B, 1, Q, K]
        if documents is not None:
            own = documents[:, -queries:, None] == documents[:, None, :]  # [B, Q, K]
            self.mask = self.mask | ~own[:, None]

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[B, Q, heads, D] each -> [B, Q, N, D]."""
        query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # [B, heads, Q, D]
        if self.cache is not None:
            key, value = self.cache.append(layer, key, value)
        weights = self._weights(layer, query, key)
        if self.dropout:
            weights = self._drop(weights)
        return (weights @ _for_heads(value, query)).transpose(1, 2)  # [B, Q, N, D]

    def weights(self, layer: int, query: Tensor, key: Tensor) -> Tensor:
        """How much each token attends to each: [B, Q, heads, D] of both -> [B, N, Q, Q].

        Of a context without a cache.
        """
        return self._weights(layer, query.transpose(1, 2), key.transpose(1, 2))

    def _weights(self, layer: int, query: Tensor, key: Tensor) -> Tensor:
        scale = float(layer + 1) if self.layer_scaling else 1.0
        scores = self._scores(query, _for_heads(key, query), scale)
        return scale_mask_softmax(scores, self.mask, scale)

    def _scores(self, query: Tensor, key: Tensor, scale: float) -> Tensor:
        """[B, N, Q, K] scores over `scale`."""
        B, N, Q, D = query.shape
        K = key.shape[2]
        factor = 1.0 / (math.sqrt(D) * scale)
        if self.bias is None:
            return query @ key.transpose(2, 3) * factor
        scores = torch.baddbmm(
            self.bias.to(query.dtype).expand(B, N, Q, K).reshape(B * N, Q, K),
            query.reshape(B * N, Q, D),
            key.reshape(B * N, K, D).transpose(1, 2),
            beta=1.0 / scale,
            alpha=factor,
        )
        return scores.view(B, N, Q, K)

    def _drop(self, weights: Tensor) -> Tensor:
        if self.streams is None:
            return F.dropout(weights, self.dropout)
        with self.streams.own():  # the ranks hold different heads: each draws its own numbers
            return F.dropout(weights, self.dropout)


def _for_heads(x: Tensor, query: Tensor) -> Tensor:
    """Keys or values [B, heads, K, D], repeated for the query heads that share them."""
    shared = query.shape[1] // x.shape[1]
    return x if shared == 1 else x.repeat_interleave(shared, 1)


def positions(attention_mask: Tensor) -> Tensor:
    """[B, S] mask (1 = token, 0 = padding) -> positions that start at 0 with the first token.

    Left padding therefore changes nothing for the tokens after it.
    """
    mask = attention_mask.long()
    return (mask.cumsum(-1) - 1) * mask


def alibi_bias(slopes: Tensor, key_positions: Tensor) -> Tensor:
    """[N] slopes and [B, S] positions -> [B, N, 1, S] bias, float32.

    ALiBi (arXiv 2108.12409) subtracts slope * distance from a score; adding slope * position of the
    key differs from it by a constant, which softmax does not see.
    """
    return slopes[None, :, None, None] * key_positions[:, None, None, :].float()
