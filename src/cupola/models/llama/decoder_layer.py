"""One layer of LLaMA: self-attention and MLP, each after a norm and inside a residual."""

from typing import Any

from torch import Tensor

from cupola import nn
from cupola.generation import AttentionContext, Heads
from cupola.models.llama.attention import SelfAttention
from cupola.models.llama.mlp import MLP
from cupola.models.llama.settings import LlamaSettings
from cupola.parallel import Group


class DecoderLayer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    With `keep`, row numbers of [T, H], only those rows continue after the attention.
    """

    def __init__(self, settings: LlamaSettings, layer: int, group: Group, **factory: Any) -> None:
        super().__init__()
        hidden, eps = settings.hidden_size, settings.rms_norm_eps
        self.input_layernorm = nn.RMSNorm(hidden, eps=eps, **factory)
        self.self_attn = SelfAttention(settings, layer, group, **factory)
        self.post_attention_layernorm = nn.RMSNorm(hidden, eps=eps, **factory)
        self.mlp = MLP(settings, group, **factory)

    @property
    def heads(self) -> Heads:
        return self.self_attn.heads

    def forward(self, x: Tensor, context: AttentionContext, keep: Tensor | None = None) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), context)
        x = x if keep is None else x[keep]
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out
