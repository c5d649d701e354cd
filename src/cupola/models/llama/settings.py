"""LlamaSettings: the sizes and options of one model, named as in its published config."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cupola.errors import BuildError, did_you_mean
from cupola.models.layers.published_settings import published_settings, token_ids
from cupola.registry.budget import reserve

SILENT = {"is_llama_config", "max_sequence_length", "tokenizer_class"}
FIXED = {"hidden_act": "silu", "rope_interleaved": False, "use_mrope": False}
ROPE_KEYS = {"rope_theta", "rope_scaling", "rope_parameters"}
SLIDING_KEYS = {"sliding_window", "use_sliding_window", "max_window_layers", "layer_types"}


@dataclass(frozen=True)
class RopeSettings:
    """Rotary embedding: its base, and how its frequencies are scaled for longer contexts.

    `rope_type` is "default", "linear" (all by 1/factor) or "llama3" (the low ones by 1/factor, with
    a smooth transition; the last three fields belong to it).
    """

    rope_theta: float = 10000.0
    rope_type: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "RopeSettings":
        """From `rope_parameters` (transformers 5), or from `rope_scaling` and `rope_theta`."""
        found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        rope_type = found.pop("type", "default")
        found.setdefault("rope_type", rope_type)
        if "rope_theta" in config:
            found.setdefault("rope_theta", config["rope_theta"])
        if found["rope_type"] not in ("default", "linear", "llama3"):
            raise BuildError(
                f"rope scaling {found['rope_type']!r} is not supported, only linear and llama3"
            )
        known = {field.name for field in fields(cls)}
        for key in found:
            if key not in known:
                raise BuildError(f"rope scaling has no setting {key!r}{did_you_mean(key, known)}")
        return cls(**found)


@dataclass(frozen=True)
class LlamaSettings:
    """Defaults are those of LLaMA 7B."""

    model_type: str = "llama"  # "mistral" and "qwen2" differ in their biases
    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None  # None: as many as query heads
    head_dim: int | None = None  # None: hidden_size / num_attention_heads
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope: RopeSettings = RopeSettings()
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    attention_dropout: float = 0.0
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2  # chat models have several
    pad_token_id: int | None = None

    def __post_init__(self) -> None:
        if self.head_dim is None and self.hidden_size % self.num_attention_heads:
            raise BuildError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )
        if self.head_size % 2:
            raise BuildError(
                f"head_dim {self.head_size} is odd; rotary embedding turns pairs of channels, so "
                "hidden_size / num_attention_heads, or head_dim, must be even"
            )
        if self.num_attention_heads % self.key_value_heads:
            raise BuildError(
                f"num_attention_heads {self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads {self.key_value_heads}"
            )

    @property
    def key_value_heads(self) -> int:
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_size(self) -> int:
        return self.head_dim or self.hidden_size // self.num_attention_heads

    @property
    def query_key_value_bias(self) -> bool:
        return self.attention_bias or self.model_type == "qwen2"

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return token_ids(self.eos_token_id)

    @property
    def max_length(self) -> int:
        """The most tokens a sequence may have."""
        return self.max_position_embeddings

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "LlamaSettings":
        """Settings from a published config.json; BuildError for what is not supported."""
        derived = {"rope": RopeSettings.from_config(config)}
        plain = {k: v for k, v in config.items() if k not in ROPE_KEYS | SLIDING_KEYS}
        settings = published_settings(cls, plain | derived, "LLaMA", silent=SILENT, fixed=FIXED)
        refuse_sliding_window(config, settings)
        return settings


def refuse_sliding_window(config: Mapping[str, Any], settings: LlamaSettings) -> None:
    """BuildError if some layer would see less than a whole sequence."""
    window = config.get("sliding_window")
    used = config.get("use_sliding_window", settings.model_type != "qwen2")
    first = config.get("max_window_layers", 0) if settings.model_type == "qwen2" else 0
    reserve(settings.num_hidden_layers)
    kinds = config.get("layer_types") or ["sliding_attention"] * settings.num_hidden_layers
    if not window or not used or "sliding_attention" not in kinds[first:]:
        return
    if window < settings.max_position_embeddings:
        raise BuildError(
            f"sliding_window {window} is not supported: it is less than max_position_embeddings "
            f"{settings.max_position_embeddings}. Set max_position_embeddings to {window} to use "
            "the model for texts of that length"
        )
