"""BLOOM: embedding, blocks, norm, and the word embedding once more as the head.

Letters: B batch, S sequence, H hidden, V vocabulary, P tensor ranks.
Paper: arXiv 2211.05100. Originals: bigscience-workshop/Megatron-DeepSpeed (megatron/model) and
transformers' modeling_bloom.py.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.generation.cache import BLOCK
from cupola.generation.dense_attention import Context, DenseCache, DenseContext, new_mask
from cupola.generation.sampling import Sampling
from cupola.generation.scheduler import Batcher
from cupola.generation.shortlist import Screen
from cupola.models.bloom.alibi import alibi_slopes
from cupola.models.bloom.block import Block
from cupola.models.bloom.embedding import Embedding, Pooler
from cupola.models.bloom.settings import BloomSettings
from cupola.parallel import (
    Group,
    RandomStreams,
    checkpoint,
    copy_to_ranks,
    gather_from_ranks,
    vocab_parallel_cross_entropy,
)
from cupola.parallel.groups import alone
from cupola.parallel.layers import Stored
from cupola.parallel.linear import linear
from cupola.registry import MODELS

IGNORED = -100  # a label that does not count


class BloomModel(nn.Module):
    """The trunk: ids -> hidden states after the final norm, [B, S, H]."""

    def __init__(
        self,
        settings: BloomSettings,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        factory: dict[str, Any] = {"device": device, "dtype": dtype}
        self.settings, self.group = settings, alone(group)
        self.streams: RandomStreams | None = None  # set where attention dropout is trained on ranks
        self.embedding = Embedding(settings, self.group, **factory)
        self.blocks = nn.ModuleList(
            [Block(settings, layer, self.group, **factory) for layer in range(settings.n_layer)]
        )
        self.final_norm = nn.LayerNorm(
            settings.hidden_size, eps=settings.layer_norm_epsilon, **factory
        )
        self.pooler = Pooler(settings, **factory) if settings.add_pooler else None

    def slopes(self, device: torch.device) -> Tensor:
        """[N] ALiBi slopes of this rank's heads."""
        heads = self.group.share(self.settings.n_head, "n_head")
        first = self.group.rank * heads
        return alibi_slopes(self.settings.n_head)[first : first + heads].to(device)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DenseCache | None = None,
        token_types: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        mask = new_mask(input_ids, attention_mask, cache)
        context = DenseContext(
            self.settings,
            self.slopes(input_ids.device),
            mask,
            input_ids.shape[1],
            dtype=self.embedding.word.weight.dtype,
            dropout=self.settings.attention_dropout if self.training else 0.0,
            cache=cache,
            streams=self.streams,
            documents=documents,
        )
        positions = context.key_positions[:, -input_ids.shape[1] :]
        return self.run(self.embedding(input_ids, positions, token_types), context)

    def run(self, x: Tensor, context: Context, keep: Tensor | None = None) -> Tensor:
        """Embedded tokens [..., H] through all blocks and the final norm.

        With `keep`, [R] row numbers, only those rows of [T, H] are wanted: [R, H].
        """
        for block in self.blocks:
            if self.settings.checkpoint_activations and torch.is_grad_enabled():
                x = checkpoint(_bound(block, context), x, list(block.parameters()), self.group)
            else:
                last = block is self.blocks[-1]
                x = block(x, context, keep if last else None)
        out: Tensor = self.final_norm(x)
        return out


def _bound(block: nn.Module, context: Context) -> Any:
    return lambda x: block(x, context)


@MODELS.register_module(["BloomForCausalLM", "Bloom"])
class BloomForCausalLM(nn.Module):
    """A language model: ids [B, S] -> logits [B, S, V].

    Takes the keys of a published config.json. With `group`, every parameter that BLOOM splits
    holds this rank's part, and results equal those of one process.
    """

    def __init__(
        self,
        *,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        **config: Any,
    ) -> None:
        super().__init__()
        # config.json spells the type as a text
        kind = getattr(torch, dtype.removeprefix("torch.")) if isinstance(dtype, str) else dtype
        self.settings = BloomSettings.from_config(config)
        self.transformer = BloomModel(self.settings, group, device, kind)
        self.group = self.transformer.group
        self.screen: Screen | None = None  # an inference engine's way to the likeliest token
        self.stored_head: Stored | None = None  # the word table as an inference engine keeps it

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DenseCache | None = None,
    ) -> Tensor:
        return self.logits(self.transformer(input_ids, attention_mask, cache))

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., V], whole on every rank."""
        whole = gather_from_ranks(self.local_logits(hidden), self.group)
        return whole[..., : self.settings.vocab_size]

    def local_logits(self, hidden: Tensor) -> Tensor:
        """[..., H] -> [..., ceil(V/P)]: the logits of this rank's rows of the vocabulary."""
        word = self.transformer.embedding.word
        if self.stored_head is not None:
            return word.mask_padding(self.stored_head(hidden, None))
        return word.mask_padding(linear(copy_to_ranks(hidden, self.group), word.weight))

    def loss(self, batch: dict[str, Any]) -> dict[str, Tensor]:
        """Mean cross entropy of the next token over the labels that are not -100.

        `batch` holds input_ids, labels [B, S] int64, and perhaps attention_mask and documents
        [B, S]: where given, a token attends to tokens of the same document number alone.
        """
        losses, counted = self._token_losses(batch)
        return {"loss": (losses * counted).sum() / counted.sum().clamp(min=1)}

    @torch.no_grad()
    def predict(self, batch: dict[str, Any]) -> list[dict[str, float]]:
        """Per sample the summed loss in nats and the number of tokens it was summed over."""
        losses, counted = self._token_losses(batch)
        sums, tokens = (losses * counted).sum(-1), counted.sum(-1)
        return [
            {"nats": float(nats), "tokens": float(count)}
            for nats, count in zip(sums, tokens, strict=True)
        ]

    def _token_losses(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        hidden = self.transformer(
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

        `sampling` are the fields of `Sampling`; row b draws with seed + b. Rows that end early are
        filled with the padding id.
        """
        how = Sampling(**sampling)
        B, S = input_ids.shape
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        room = B * (S + how.max_tokens + BLOCK)
        batcher = Batcher(self, cache_tokens=room, chunk=chunk, max_requests=B)
        for row in range(B):
            prompt = input_ids[row][mask[row] == 1].tolist()
            batcher.add(str(row), prompt, replace(how, seed=how.seed + row))
        written: list[list[int]] = [[] for _ in range(B)]
        while batcher.active:
            for token in batcher.step():
                written[int(token.request_id)].append(token.token_id)
        longest, pad = max(map(len, written)), self.settings.pad_token_id or 0
        new = [row + [pad] * (longest - len(row)) for row in written]
        return torch.cat([input_ids, torch.tensor(new, device=input_ids.device)], 1)
