"""BloomSettings: the sizes and options of one model, named as in its published config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cupola.errors import BuildError
from cupola.models.layers.published_settings import published_settings, token_ids

# Older published configs name the same sizes differently.
ALIASES = {
    "n_embed": "hidden_size",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
}

SILENT = {
    "attention_softmax_in_fp32", "bias_dropout_fusion", "masked_softmax_fusion", "offset_alibi",
    "seq_length", "skip_bias_add", "skip_bias_add_qkv", "slow_but_exact",
}  # fmt: skip


@dataclass(frozen=True)
class BloomSettings:
    """Defaults are those of bigscience/bloom-560m, the smallest published model."""

    vocab_size: int = 250880  # padded: the tokenizer has 250680 entries
    hidden_size: int = 1024
    n_layer: int = 24
    n_head: int = 16
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02
    hidden_dropout: float = 0.0
    attention_dropout: float = 0.0
    apply_residual_connection_post_layernorm: bool = False
    tie_word_embeddings: bool = True
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = 3
    # Options of the Megatron language model that BLOOM leaves at these values.
    alibi: bool = True
    embedding_layernorm: bool = True
    max_position_embeddings: int = 0  # > 0: learned absolute positions are added
    num_token_types: int = 0  # > 0: token-type embeddings are added
    add_pooler: bool = False  # tanh of a linear layer on token 0
    query_key_layer_scaling: bool = False  # a layer's scores over its number; changes only range
    gelu: str = "tanh"  # "tanh" as trained, "erf" (4.7e-4 away), "tanh_torch" (2.4e-7 away)
    # How it is trained, not what it computes.
    checkpoint_activations: bool = False

    def __post_init__(self) -> None:
        if self.hidden_size % self.n_head:
            raise BuildError(
                f"hidden_size {self.hidden_size} is not a multiple of n_head {self.n_head}"
            )
        if self.gelu not in ("tanh", "erf", "tanh_torch"):
            raise BuildError(f"gelu must be tanh, tanh_torch or erf, not {self.gelu!r}")
        if not self.tie_word_embeddings:
            raise BuildError("tie_word_embeddings must be true: BLOOM's head is its word embedding")

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return token_ids(self.eos_token_id)

    @property
    def max_length(self) -> int | None:
        """The most tokens a sequence may have; ALiBi sets no limit."""
        return self.max_position_embeddings or None

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.n_head

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "BloomSettings":
        """Settings from a published config.json; BuildError for an unknown key."""
        config = dict(config)
        width = config.get("hidden_size", config.get("n_embed", cls.hidden_size))
        if config.pop("n_inner", None) not in (None, 4 * width):
            raise BuildError(f"BLOOM: n_inner must be null or 4 times hidden_size, {4 * width}")
        return published_settings(cls, config, "BLOOM", aliases=ALIASES, silent=SILENT)
