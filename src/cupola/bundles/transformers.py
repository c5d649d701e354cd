"""Checkpoint folders of transformers, read as bundles: config.json, weights, tokenizer.json."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.errors import BundleError

# What the name of a transformers class ends in -> the task of its model.
TASKS = {"ForCausalLM": "language"}


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one that transformers wrote."""
    return "model_type" in config or "architectures" in config


def from_transformers(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """A bundle's config for the model of a transformers config; `path` is named in errors.

    The model's class is looked up under the name that it has in transformers.
    """
    named = config.get("architectures") or [f"{config.get('model_type', '').title()}ForCausalLM"]
    architecture = str(named[0])
    task = next((task for end, task in TASKS.items() if architecture.endswith(end)), None)
    if task is None:
        raise BundleError(
            f"{path}: a transformers checkpoint of {architecture}; only language models "
            f"(...{', ...'.join(TASKS)}) can be loaded from their folder. Make other models a "
            "bundle with `cupola bundle`"
        )
    model = {"type": architecture, **config, **end_tokens(path.parent / "generation_config.json")}
    return {"name": name, "version": "1", "task": task, "model": model}


def end_tokens(path: Path) -> dict[str, Any]:
    """`eos_token_id` of a generation_config.json, if there is one.

    It is the one that transformers generates with: chat models end a turn with a token that their
    config.json does not name.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError) as error:
        raise BundleError(f"{path}: not readable as JSON ({error})") from None
    return {} if found is None else {"eos_token_id": found}
