"""Settings of a model from its published config.json, where unknown keys are errors."""

from collections.abc import Collection, Mapping
from dataclasses import fields
from typing import Any, TypeVar

from cupola.errors import BuildError, did_you_mean

T = TypeVar("T")

# Keys that transformers writes into every config and that do not change the function computed.
COMMON = {
    "_attn_implementation_autoset", "_name_or_path", "architectures", "chunk_size_feed_forward",
    "dtype", "id2label", "is_encoder_decoder", "label2id", "model_type", "output_attentions",
    "output_hidden_states", "pretraining_tp", "problem_type", "return_dict", "torch_dtype",
    "transformers.js_config", "transformers_version", "unk_token_id", "use_cache",
}  # fmt: skip


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
    options that are supported with one value only. BuildError names the key otherwise.
    """
    known = {field.name for field in fields(settings)}  # type: ignore[arg-type]
    values = {}
    for key, value in config.items():
        name = (aliases or {}).get(key, key)
        if name in known:
            values[name] = value
        elif fixed and key in fixed:
            if value != fixed[key]:
                raise BuildError(f"{family}: {key} {value!r} is not supported, only {fixed[key]!r}")
        elif key not in COMMON and key not in silent:
            raise BuildError(f"{family} has no setting {key!r}{did_you_mean(key, known)}")
    return settings(**values)


def token_ids(value: int | list[int] | None) -> frozenset[int]:
    """The ids of a setting that holds none, one or several."""
    return frozenset([] if value is None else [value] if isinstance(value, int) else value)
