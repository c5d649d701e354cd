"""Token ids of a batch of texts, and what a language model makes of them.

Letters: B texts, T tokens of the longest text, C channels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Tokens(NamedTuple):
    """ids [B, T], int64. mask [B, T], True = not padding. separators [B, T], True where a
    sub-sentence ends: [CLS], [SEP] and the punctuation marks that a config names.
    """

    ids: Tensor
    mask: Tensor
    separators: Tensor

    def to(self, device: torch.device) -> "Tokens":
        """The same on another device."""
        return Tokens(*(each.to(device) for each in self))


class TextFeatures(NamedTuple):
    """embedded and hidden [B, T, C]; mask [B, T], True = not padding.

    attention [B, T, T], True where a token (row) sees another, and positions [B, T] within the
    sub-sentence, of models that represent sub-sentences; else None.
    """

    embedded: Tensor
    hidden: Tensor
    mask: Tensor
    attention: Tensor | None = None
    positions: Tensor | None = None


def pad_tokens(
    texts: Sequence[Sequence[int]], separators: Sequence[int], width: int | None = None
) -> Tokens:
    """Token ids of each text -> Tokens, padded with 0 to `width` or to the longest text."""
    width = max([len(ids) for ids in texts], default=0) if width is None else width
    ids = torch.zeros(len(texts), width, dtype=torch.int64)
    mask = torch.zeros(len(texts), width, dtype=torch.bool)
    for row, text in enumerate(texts):
        ids[row, : len(text)] = torch.tensor(text, dtype=torch.int64)
        mask[row, : len(text)] = True
    return Tokens(ids, mask, torch.isin(ids, torch.tensor(separators, dtype=torch.int64)))


def sub_sentence_mask(separators: Tensor) -> tuple[Tensor, Tensor]:
    """separators [B, T] -> which tokens each token sees [B, T, T], and positions [B, T].

    A token sees those of its sub-sentence, up to and including the separator that ends it, and its
    position counts from that sub-sentence's begin. As in the original a separator in the first or
    last column ends no sub-sentence: tokens of none see themselves only, at position 0.
    Source: mmdet/models/language_models/bert.py.
    """
    T = separators.shape[1]
    number = separators.cumsum(1) - separators.long()  # of the sub-sentence, [B, T]
    ends = separators.clone()
    ends[:, 0] = ends[:, -1] = False
    same = number[:, :, None] == number[:, None]  # [B, T, T]
    complete = (same & ends[:, None]).any(-1)  # [B, T]
    sees = same & complete[:, :, None]
    earlier = torch.ones(T, T, dtype=torch.bool, device=separators.device).tril(-1)
    positions = (sees & earlier).sum(-1)
    return sees | torch.eye(T, dtype=torch.bool, device=separators.device), positions
