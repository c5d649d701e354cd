"""Settings of a model from its published config.json, where unknown keys are errors."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from cupola.errors import BuildError, did_you_mean

T = TypeVar("T")
logger = logging.getLogger("cupola")

# Keys that transformers writes into every config and that do not change the function computed.
COMMON = {
    "_attn_implementation_autoset", "_name_or_path", "architectures", "chunk_size_feed_forward",
    "dtype", "id2label", "is_encoder_decoder", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pretraining_tp", "problem_type", "return_dict", "torch_dtype",
    "transformers.js_config", "transformers_version", "unk_token_id", "use_cache",
}  # fmt: skip

# Keys that tools leave in configs and that are ignored with a warning: what transformers 4 wrote
# into every config, defaults of generation (requests have their own), notes of training tools.
IGNORED = {
    "_attn_implementation", "_attn_implementation_internal", "_commit_hash",
    "_flash_attn_2_enabled", "_unsloth_fixed", "activation_checkpointing", "adapters",
    "attn_implementation", "auto_map", "bad_words_ids", "base_model_name_or_path",
    "begin_suppress_tokens", "bos_token", "cls_token_id", "custom_pipelines",
    "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token", "exponential_decay_length_penalty",
    "finetuning_task", "forced_bos_token_id", "forced_eos_token_id", "ignore_index", "is_decoder",
    "keys_to_ignore_at_inference", "language", "length_penalty", "license", "mask_token_id",
    "max_length", "max_new_tokens", "min_length", "model_max_length", "name_or_path",
    "no_repeat_ngram_size", "num_beam_groups", "num_beams", "num_labels", "num_return_sequences",
    "output_scores", "pad_token", "pipeline_tag", "prefix", "remove_invalid_values",
    "repetition_penalty", "return_dict_in_generate", "sep_token_id", "suppress_tokens", "tags",
    "task_specific_params", "temperature", "tf_legacy_loss", "tie_encoder_decoder",
    "tokenizer_class", "top_k", "top_p", "torchscript", "typical_p", "unsloth_fixed",
    "unsloth_version", "use_bfloat16", "use_flash_attention", "use_flash_attn",
}  # fmt: skip

# Keys that change the function: supported only where they are null or have these values.
UNUSED_VALUES: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (),
    "pruned_heads": ({}, []),
}


def published_settings(
    settings: type[T],
    config: Mapping[str, Any],
    family: str,
    *,
    aliases: Mapping[str, str] | None = None,
    silent: Collection[str] = (),
    fixed: Mapping[str, Any] | None = None,
) -> T:
    """An instance of the dataclass `settings` from a config.

    `aliases` are older names of fields, `silent` further keys that change nothing, and `fixed`
    options that are supported with one value only, or null. Harmless keys of training tools are
    ignored with a warning. BuildError names any other key.
    """
    known = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    values = {}
    ignored = []
    for key, value in config.items():
        name = (aliases or {}).get(key, key)
        if name in known:
            values[name] = value
        elif key in UNUSED_VALUES or (fixed and key in fixed):
            allowed = UNUSED_VALUES[key] if key in UNUSED_VALUES else ((fixed or {})[key],)
            if value is not None and value not in allowed:
                only = f", only {allowed[0]!r}" if allowed else ""
                raise BuildError(f"{family}: {key} {value!r:.100} is not supported{only}")
        elif key == "quantization_config" and value is not None:
            raise BuildError(f"{family} has no setting 'quantization_config': {quantized(value)}")
        elif key in IGNORED or (value is None and key not in COMMON):
            ignored.append(key)
        elif key not in COMMON and key not in silent:
            raise BuildError(f"{family} has no setting {key!r}{did_you_mean(key, known)}")
    if ignored:
        logger.warning("%s: not used by this model: %s", family, ", ".join(sorted(ignored)))
    return settings(**values)


def quantized(about: Any) -> str:
    """Why a quantized checkpoint is refused, and what to do."""
    method = about.get("quant_method") if isinstance(about, Mapping) else None
    named = f"weights quantized with {method!r:.40} are" if method else "quantized weights are"
    return f"{named} not supported; load the model's original weights, or save it dequantized"


def token_ids(value: int | list[int] | None) -> frozenset[int]:
    """The ids of a setting that holds none, one or several."""
    return frozenset([] if value is None else [value] if isinstance(value, int) else value)
