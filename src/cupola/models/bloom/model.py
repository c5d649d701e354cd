"""BLOOM: embedding, blocks, norm, and the word embedding once more as the head.

Letters: B batch, S sequence, H hidden, N heads on this rank.
Paper: arXiv 2211.05100. Originals: bigscience-workshop/Megatron-DeepSpeed (megatron/model) and
transformers' modeling_bloom.py.
"""

from typing import Any

import torch
from torch import Tensor

from cupola import nn
from cupola.errors import BuildError
from cupola.generation import DenseCache, DenseContext, run_layers
from cupola.models.bloom.alibi import alibi_slopes
from cupola.models.bloom.block import Block
from cupola.models.bloom.embedding import Embedding, Pooler
from cupola.models.bloom.settings import BloomSettings
from cupola.models.layers.causal_lm import CausalLanguageModel, as_dtype
from cupola.parallel import Group, RandomStreams, VocabParallelEmbedding
from cupola.parallel.groups import alone
from cupola.registry import MODELS


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
        self.streams: RandomStreams | None = None  # set when training attention dropout on ranks
        self.embedding = Embedding(settings, self.group, **factory)
        self.blocks = nn.ModuleList(
            [Block(settings, layer, self.group, **factory) for layer in range(settings.n_layer)]
        )
        self.final_norm = nn.LayerNorm(
            settings.hidden_size, eps=settings.layer_norm_epsilon, **factory
        )
        self.pooler = Pooler(settings, **factory) if settings.add_pooler else None

    @property
    def layers(self) -> Any:
        return self.blocks

    @property
    def alibi_slopes(self) -> Tensor | None:
        """[N] ALiBi slopes of this rank's heads; None where ALiBi is turned off."""
        if not self.settings.alibi:
            return None
        heads = self.group.share(self.settings.n_head, "n_head")
        first = self.group.rank * heads
        slopes = alibi_slopes(self.settings.n_head)[first : first + heads]
        return slopes.to(self.embedding.word.weight.device)

    def embed(self, ids: Tensor, positions: Tensor, token_types: Tensor | None = None) -> Tensor:
        """ids [...] and their positions [...] -> [..., H]."""
        x: Tensor = self.embedding(ids, positions, token_types)
        return x

    def pool(self, hidden: Tensor, index: int = 0) -> Tensor:
        """Hidden states [B, S, H] -> one vector for each sequence [B, H], from token `index`.

        BuildError unless the settings have add_pooler=True. BLOOM was trained without.
        """
        if self.pooler is None:
            raise BuildError("this BLOOM has no pooler; set add_pooler=True")
        pooled: Tensor = self.pooler(hidden, index)
        return pooled

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DenseCache | None = None,
        token_types: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        context = DenseContext(
            input_ids,
            attention_mask,
            cache,
            slopes=self.alibi_slopes,
            documents=documents,
            dropout=self.settings.attention_dropout if self.training else 0.0,
            streams=self.streams,
            layer_scaling=self.settings.query_key_layer_scaling,
        )
        x = self.embed(input_ids, context.positions, token_types)
        hidden: Tensor = self.final_norm(run_layers(self.layers, x, context))
        return hidden


@MODELS.register_module(["BloomForCausalLM", "Bloom"])
class BloomForCausalLM(CausalLanguageModel):
    """BLOOM with its head: ids [B, S] -> logits [B, S, V]. Takes the keys of a config.json."""

    def __init__(
        self,
        *,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,  # the older name of dtype
        **config: Any,
    ) -> None:
        super().__init__(BloomSettings.from_config(config), group)
        self.transformer = BloomModel(self.settings, group, device, as_dtype(dtype or torch_dtype))

    @property
    def trunk(self) -> BloomModel:
        return self.transformer

    @property
    def head(self) -> VocabParallelEmbedding:
        return self.transformer.embedding.word

    @property
    def alibi_slopes(self) -> Tensor | None:
        return self.transformer.alibi_slopes
