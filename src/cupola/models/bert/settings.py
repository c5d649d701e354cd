"""BertSettings: the sizes of a BERT, named as in its config.json."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from cupola.errors import BuildError, did_you_mean

# The published sizes, so that a config that names them builds without a download.
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
PUBLISHED: Mapping[str, Mapping[str, int]] = {
    "bert-base-uncased": {},
    "bert-base-cased": {"vocab_size": 28996},
    "bert-base-chinese": {"vocab_size": 21128},
    "bert-base-multilingual-cased": {"vocab_size": 119547},
    "bert-base-multilingual-uncased": {"vocab_size": 105879},
    "bert-large-uncased": LARGE,
    "bert-large-cased": {**LARGE, "vocab_size": 28996},
}
# What config.json says besides, which changes nothing here.
IGNORED = {
    "architectures",
    "attn_implementation",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "is_decoder",
    "add_cross_attention",
    "model_type",
    "pad_token_id",
    "position_embedding_type",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
FIXED = {
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "add_cross_attention": False,
    "hidden_act": "gelu",
}


@dataclass(frozen=True)
class BertSettings:
    """Defaults are those of bert-base-uncased."""

    vocab_size: int = 30522
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.hidden_size % self.num_attention_heads:
            raise BuildError(
                f"hidden_size {self.hidden_size} is not a multiple of num_attention_heads "
                f"{self.num_attention_heads}"
            )

    @classmethod
    def of(cls, name: str, config: Mapping[str, Any] | None = None) -> "BertSettings":
        """The sizes of a published model by its name or folder, changed by those of `config`.

        BuildError for an unknown name without `config`, and for unknown or unsupported settings.
        """
        published = PUBLISHED.get(str(name).rstrip("/").rpartition("/")[2])
        if published is None and config is None:
            raise BuildError(
                f"the sizes of the language model {name!r} are not known"
                f"{did_you_mean(str(name), PUBLISHED)}; give them as in its config.json, for "
                "example config=dict(hidden_size=768, num_hidden_layers=12)"
            )
        config = dict(config or {})
        for key, value in FIXED.items():
            if config.pop(key, value) != value:
                raise BuildError(f"language model: only {key}={value!r} is supported")
        known = {field.name for field in fields(cls)}
        unknown = [key for key in config if key not in known | IGNORED]
        if unknown:
            hint = did_you_mean(unknown[0], known)
            raise BuildError(f"language model: there is no setting {unknown[0]!r}{hint}")
        chosen = {key: value for key, value in config.items() if key in known}
        return cls(**{**(published or {}), **chosen})
