"""LLaMA: word embedding, decoder layers, norm, and a head that may be the embedding again.

Paper: arXiv 2302.13971. Parameters are named as in transformers' modeling_llama.py.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from cupola import nn
from cupola.generation import DenseCache, DenseContext, run_layers
from cupola.models.layers.causal_lm import CausalLanguageModel, as_dtype
from cupola.models.llama.decoder_layer import DecoderLayer
from cupola.models.llama.settings import LlamaSettings
from cupola.parallel import Group, VocabParallelEmbedding
from cupola.parallel.groups import alone
from cupola.parallel.layers import normal
from cupola.registry import MODELS


class LlamaModel(nn.Module):
    """The trunk: ids [B, S] -> hidden states after the final norm, [B, S, H]."""

    def __init__(self, settings: LlamaSettings, group: Group | None = None, **factory: Any) -> None:
        super().__init__()
        group = alone(group)
        self.settings = settings
        self.embed_tokens = word_table(settings, group, **factory)
        self.layers: Any = nn.ModuleList(
            [
                DecoderLayer(settings, layer, group, **factory)
                for layer in range(settings.num_hidden_layers)
            ]
        )
        self.norm = nn.RMSNorm(settings.hidden_size, eps=settings.rms_norm_eps, **factory)

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """ids [...] -> [..., H]; positions enter in the attention."""
        x: Tensor = self.embed_tokens(ids)
        return x

    def final_norm(self, x: Tensor) -> Tensor:
        """[..., H] -> [..., H]."""
        normed: Tensor = self.norm(x)
        return normed

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        cache: DenseCache | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        dropout = self.settings.attention_dropout if self.training else 0.0
        context = DenseContext(
            input_ids, attention_mask, cache, documents=documents, dropout=dropout
        )
        x = self.embed(input_ids, context.positions)
        return self.final_norm(run_layers(self.layers, x, context))


def word_table(settings: LlamaSettings, group: Group, **factory: Any) -> VocabParallelEmbedding:
    """A vector for each word of the vocabulary: the embedding, or the head."""
    return VocabParallelEmbedding(
        settings.vocab_size,
        settings.hidden_size,
        init=normal(settings.initializer_range),
        group=group,
        **factory,
    )


@MODELS.register_module()
class LlamaForCausalLM(CausalLanguageModel):
    """LLaMA with its head: ids [B, S] -> logits [B, S, V]. Takes the keys of a config.json."""

    model_type: ClassVar[str] = "llama"

    def __init__(
        self,
        *,
        group: Group | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,  # the older name of dtype
        **config: Any,
    ) -> None:
        settings = LlamaSettings.from_config({**config, "model_type": self.model_type})
        super().__init__(settings, group)
        factory: dict[str, Any] = {"device": device, "dtype": as_dtype(dtype or torch_dtype)}
        self.model = LlamaModel(settings, group, **factory)
        tied = settings.tie_word_embeddings
        self.lm_head = None if tied else word_table(settings, self.group, **factory)

    @property
    def trunk(self) -> LlamaModel:
        return self.model

    @property
    def head(self) -> VocabParallelEmbedding:
        return self.model.embed_tokens if self.lm_head is None else self.lm_head


@MODELS.register_module()
class MistralForCausalLM(LlamaForCausalLM):
    """Mistral (arXiv 2310.06825), for texts that its sliding window does not cut."""

    model_type = "mistral"


@MODELS.register_module()
class Qwen2ForCausalLM(LlamaForCausalLM):
    """Qwen2 and Qwen2.5 (arXiv 2407.10671): query, key and value have a bias."""

    model_type = "qwen2"
