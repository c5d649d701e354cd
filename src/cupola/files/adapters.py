"""adapter_config.json of PEFT: which adapters can be merged, and where their base is. No torch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.errors import CheckpointError
from cupola.files.opening import read_settings

ADAPTER_CONFIG = "adapter_config.json"
SHIPPED = Path(__file__).parents[1] / "bundles/shipped"  # the bundles inside the package

# Options that make an adapter more than a change of some weights.
UNSUPPORTED = (
    "use_dora", "use_qalora", "use_bdlora", "alora_invocation_tokens", "arrow_config",
    "layer_replication", "lora_bias", "target_parameters", "trainable_token_indices",
    "megatron_config",
)  # fmt: skip


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter of PEFT instead of a whole model."""
    return (folder / ADAPTER_CONFIG).is_file()


def read_adapter_config(folder: Path) -> Mapping[str, Any]:
    """The adapter's config; CheckpointError if it is not a LoRA that can be merged."""
    path = folder / ADAPTER_CONFIG
    config = read_settings(path, CheckpointError)
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{path}: expected an object")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: peft_type {kind!r} is not supported, only 'LORA'; merge the adapter into its "
            "base with PEFT (merge_and_unload) and save the result"
        )
    for key in UNSUPPORTED:
        if config.get(key):
            raise CheckpointError(
                f"{path}: {key} is not supported; merge the adapter into its base with PEFT "
                "(merge_and_unload) and save the result"
            )
    for key in ("r", "lora_alpha"):
        value = config.get(key, 8)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise CheckpointError(f"{path}: {key} {value!r:.60}: expected a positive number")
    for key in ("rank_pattern", "alpha_pattern"):
        values = config.get(key) or {}
        if not isinstance(values, Mapping) or not all(
            isinstance(v, int | float) and v > 0 for v in values.values()
        ):
            raise CheckpointError(f"{path}: {key}: expected positive numbers by module names")
    return config


def base_folder(folder: Path) -> Path:
    """The folder of the base model: base_model_name_or_path, or the adapter's own folder.

    A relative path is looked up beside the adapter, then in the working directory; a shipped bundle
    has its name. CheckpointError if it is not on this machine.
    """
    named = read_adapter_config(folder).get("base_model_name_or_path")
    if isinstance(named, str) and named:
        for path in (folder / named, folder.parent / named, Path(named), SHIPPED / named):
            if path.resolve() != folder.resolve() and (path / "config.json").is_file():
                return path.resolve()
    if (folder / "config.json").is_file():
        return folder
    raise CheckpointError(
        f"{folder / ADAPTER_CONFIG}: the base model {named!r} is no folder here and no "
        "shipped bundle; download it and set base_model_name_or_path to its folder"
    )
