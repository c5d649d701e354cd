"""Checkpoint folders of transformers, read as bundles: config.json, weights, and what is beside.

Code in a folder (`auto_map`) is never executed.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cupola.bundles.hf_detectors import DETECTORS, MODEL_TYPES, detector_bundle
from cupola.errors import BundleError
from cupola.files import read_settings

logger = logging.getLogger("cupola")

LARGEST = 16 * 2**20  # bytes of a config

# What the name of a transformers class ends in -> the task of its model.
TASKS = {"ForCausalLM": "language"}


# Files of quantization tools beside a config.json that does not mention them.
QUANTIZED_FILES = {"quantize_config.json": "GPTQ", "quant_config.json": "AWQ"}


def is_transformers(config: Mapping[str, Any]) -> bool:
    """Whether a config.json is one that transformers wrote."""
    return "model_type" in config or "architectures" in config


def from_transformers(config: Mapping[str, Any], name: str, path: Path) -> dict[str, Any]:
    """A bundle's config for the model of a transformers config; `path` is named in errors.

    The model's class is looked up under the name that it has in transformers.
    """
    architecture = architecture_of(config)
    refuse_quantized(config, path)
    if "auto_map" in config:
        logger.warning("%s: auto_map names Python code, which is not run", path)
    about = {"name": name, "version": "1"}
    if architecture in DETECTORS:
        return {**about, "task": "detection", **detector_bundle(architecture, config, path)}
    task = next((task for end, task in TASKS.items() if architecture.endswith(end)), None)
    if task is None:
        raise BundleError(
            f"{path}: a transformers checkpoint of {architecture}; only language models "
            f"(...{', ...'.join(TASKS)}) and {', '.join(DETECTORS)} can be loaded from their "
            "folder. Make other models a bundle with `cupola bundle`"
        )
    model = {"type": architecture, **config, **end_tokens(path.parent / "generation_config.json")}
    return {**about, "task": task, "model": model}


def refuse_quantized(config: Mapping[str, Any], path: Path) -> None:
    """BundleError that names the method where config.json or a file beside it states one."""
    about = config.get("quantization_config")
    method = about.get("quant_method", "bitsandbytes") if isinstance(about, Mapping) else None
    for name, kind in QUANTIZED_FILES.items():
        if method is None and (path.parent / name).is_file():
            path, method = path.parent / name, kind
    if method is not None:
        raise BundleError(
            f"{path}: the weights are quantized with {method!s:.40}, which is not supported; "
            "load the original model, or one that was saved dequantized"
        )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class that saved the checkpoint, or the one that its model_type stands for."""
    model_type = str(config.get("model_type", ""))
    named = config.get("architectures") or [
        MODEL_TYPES.get(model_type, f"{model_type.title()}ForCausalLM")
    ]
    return str(named[0])


def end_tokens(path: Path) -> dict[str, Any]:
    """`eos_token_id` of a generation_config.json, if there is one.

    It is the one that transformers generates with: chat models end a turn with a token that their
    config.json does not name.
    """
    if not path.exists():
        return {}
    content = read_settings(path, BundleError)
    if not isinstance(content, dict):
        raise BundleError(f"{path}: expected an object, found a {type(content).__name__}")
    found = content.get("eos_token_id")
    return {} if found is None else {"eos_token_id": found}
