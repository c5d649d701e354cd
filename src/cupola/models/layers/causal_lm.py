"""CausalLanguageModel: what every decoder has around its trunk: head, loss, generation.

Letters: B batch, S sequence, H hidden, V vocabulary, P tensor ranks.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.generation import DenseCache, SamplingParams, Scheduler
from cupola.generation.cache import BLOCK
from cupola.generation.protocol import DecoderLayer
from cupola.generation.shortlist import ArgmaxShortlist
from cupola.models.layers.causal_inspection import inspect_causal
from cupola.parallel import (
    Group,
    VocabParallelEmbedding,
    copy_to_ranks,
    gather_from_ranks,
    vocab_parallel_cross_entropy,
)
from cupola.parallel.groups import alone
from cupola.parallel.layers import Stored
from cupola.parallel.linear import linear

IGNORED = -100  # a label that does not count
FLOATS = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def as_dtype(dtype: torch.dtype | str | None) -> torch.dtype | None:
    """A type that may be spelled as config.json spells it ("bfloat16", "torch.bfloat16").

    BuildError for anything but a floating-point type that models compute in.
    """
    found = FLOATS.get(dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
    if dtype is None or dtype == "auto":
        return None
    if found not in FLOATS.values():
        raise BuildError(f"dtype {dtype!r} is not one of {', '.join(FLOATS)}")
    return found


class CausalLanguageModel(nn.Module, ABC):
    """ids [B, S] -> logits [B, S, V]; fulfills generation's CausalLM protocol.

    With a `group`, the model holds this rank's part, and results equal those of one process.
    """

    def __init__(self, settings: Any, group: Group | None) -> None:
        super().__init__()
        self.settings, self.group = settings, alone(group)
        self.shortlist: ArgmaxShortlist | None = None  # set by runtime.optimize
        self.stored_head: Stored | None = None  # the head as an optimization keeps it
        self.deterministic = False  # set by runtime.optimize

    @property
    @abstractmethod
    def trunk(self) -> Any:
        """The module from ids to hidden states after the final norm.

        It has `layers`, `final_norm`, `embed(ids, positions)`, and
        `forward(input_ids, attention_mask, cache, documents=None)`.
        """

    @property
    @abstractmethod
    def head(self) -> VocabParallelEmbedding:
        """The table whose rows give the logits; the input embedding, where the two are tied."""

    @property
    def alibi_slopes(self) -> Tensor | None:
        """[N] slopes of this rank's heads; None for a model without ALiBi."""
        return None

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of hidden states; matrices may be kept in fewer bits."""
        found: torch.dtype = self.head.compute_dtype or self.head.weight.dtype
        return found

    @property
    def layers(self) -> Sequence[DecoderLayer]:
        layers: Sequence[DecoderLayer] = self.trunk.layers
        return layers

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids [...] and their positions [...] -> [..., H]."""
        x: Tensor = self.trunk.embed(ids, positions)
        return x

    def final_norm(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        normed: Tensor = self.trunk.final_norm(x)
        return normed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DenseCache | None = None,
    ) -> Tensor:
        return self.logits(self.trunk(input_ids, attention_mask, cache))

    def inspect(self, input_ids: Tensor) -> dict[str, Tensor]:
        """Logits and attention of one text [1, S]; see inspect_causal."""
        return inspect_causal(self, input_ids)

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V], whole on every rank."""
        whole = gather_from_ranks(self.local_logits(hidden), self.group)
        return whole[..., : self.settings.vocab_size]

    def local_logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., ceil(V/P)]: the logits of this rank's rows of the vocabulary."""
        if self.stored_head is not None:
            return self.head.mask_padding(self.stored_head(hidden, None))
        return self.head.mask_padding(linear(copy_to_ranks(hidden, self.group), self.head.weight))

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean cross entropy of the next token over the labels that are not -100.

        `batch` holds input_ids, labels [B, S] int64, and optionally attention_mask and documents
        [B, S]: with these, a token attends only to tokens of the same document number.
        """
        losses, counted = self._token_losses(batch)
        return {"loss": (losses * counted).sum() / counted.sum().clamp(min=1)}

    @torch.no_grad()
    def predict(self, batch: dict[str, Any]) -> list[dict[str, float]]:
        """For each sample the summed loss in nats and the number of tokens it was summed over."""
        losses, counted = self._token_losses(batch)
        sums, tokens = (losses * counted).sum(-1), counted.sum(-1)
        return [
            {"nats": float(nats), "tokens": float(count)}
            for nats, count in zip(sums, tokens, strict=True)
        ]

    def _token_losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(
            batch["input_ids"], batch.get("attention_mask"), documents=batch.get("documents")
        )
        logits = self.local_logits(hidden[:, :-1])
        labels = batch["labels"][:, 1:]
        counted = labels != IGNORED
        targets = labels.masked_fill(~counted, 0)
        return vocab_parallel_cross_entropy(logits, targets, self.group), counted

    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        chunk: int = 256,
        **sampling: Any,
    ) -> Tensor:
        """Continues a [B, S] batch (left-padded where the mask is 0): ids [B, S + max_tokens].

        `sampling` are the fields of SamplingParams; row b draws with seed + b. Rows that end early
        are filled with the padding id.
        """
        params = SamplingParams(**sampling)
        B, S = input_ids.shape
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        tokens = B * (S + params.max_tokens + BLOCK)
        scheduler = Scheduler(self, cache_tokens=tokens, chunk=chunk, max_requests=B)
        for row in range(B):
            prompt = input_ids[row][mask[row] == 1].tolist()
            scheduler.add(str(row), prompt, replace(params, seed=params.seed + row))
        new: list[list[int]] = [[] for _ in range(B)]
        while scheduler.active:
            for token in scheduler.step(chunk):
                if token.token_id is not None:
                    new[int(token.request_id)].append(token.token_id)
        longest, pad = max(map(len, new)), self.settings.pad_token_id or 0
        padded = [row + [pad] * (longest - len(row)) for row in new]
        return torch.cat([input_ids, torch.tensor(padded, device=input_ids.device)], 1)
