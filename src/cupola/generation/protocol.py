"""CausalLM: what generation needs to know of a language model, and nothing more.

A decoder embeds ids, runs its layers one after the other, normalizes, and gives logits. Each layer
hands its queries, keys and values to an attention context, which knows where the keys of earlier
tokens are kept. Any model of this form can be scheduled, cached and split over ranks.

Letters: H hidden, D head size, V vocabulary; "..." is [B, S], or [T] when the new tokens of many
requests are laid end to end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from cupola.parallel import Group


@dataclass(frozen=True)
class Heads:
    """The attention heads of one layer that this rank holds."""

    query: int
    key_value: int  # each is shared by query / key_value query heads
    size: int


class AttentionContext(Protocol):
    """The batch that a layer runs in."""

    @property
    def positions(self) -> Tensor:
        """[...] position of each new token in its own sequence."""

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """[..., heads, D] each -> [..., query heads, D]: mixtures of the values each query may see.

        Keys and values may have fewer heads than queries.
        """


class DecoderLayer(Protocol):
    """One layer: attention, MLP, and the residuals around them."""

    @property
    def heads(self) -> Heads: ...

    def __call__(self, x: Tensor, context: AttentionContext, keep: Tensor | None = None) -> Tensor:
        """[..., H] -> [..., H]. With `keep` [R], only those rows of [T, H] are returned: [R, H]."""


class LanguageSettings(Protocol):
    """Sizes and special tokens of a language model."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""

    @property
    def max_length(self) -> int | None:
        """The most tokens a sequence may have; None where nothing limits it."""


class CausalLM(Protocol):
    """A decoder, or this rank's part of one. `forward` and training are its own affair."""

    @property
    def settings(self) -> LanguageSettings: ...

    @property
    def group(self) -> Group:
        """The ranks that the model is split over."""

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype:
        """The type of hidden states, keys and values."""

    @property
    def layers(self) -> Sequence[DecoderLayer]: ...

    @property
    def alibi_slopes(self) -> Tensor | None:
        """[query heads] slope of the bias on the scores; None for a model without ALiBi."""

    @property
    def shortlist(self) -> Callable[[Tensor], list[int]] | None:
        """[R, H] -> the R ids with the largest logits, faster than through `logits`; or None."""

    @property
    def deterministic(self) -> bool:
        """Whether a text must have the same bits in every batch, chunk and number of ranks."""

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids [...] and their positions [...] -> [..., H]."""

    def final_norm(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] after the final norm -> [..., V], whole on every rank."""


def run_layers(
    layers: Sequence[DecoderLayer],
    x: Tensor,
    context: AttentionContext,
    keep: Tensor | None = None,
) -> Tensor:
    """Embedded tokens [..., H] through all layers; with `keep` [R], only those rows: [R, H]."""
    *rest, last = layers
    for layer in rest:
        x = layer(x, context)
    return last(x, context, keep)
