"""PEFT adapters under the module names of transformers' models or of Cupola's.

PEFT saves the names of the modules that it adapted. BLOOM's are other ones here than in
transformers (`transformer.blocks.0.attention` and `transformer.h.0.self_attention`), so that an
adapter that was trained on one does not load into the other. LLaMA's are the same.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from cupola.errors import CheckpointError, did_you_mean
from cupola.files import adapters as files
from cupola.weights.adapters import LORA, WEIGHTS, WRAPPER, for_module, weights_of
from cupola.weights.reading import read_checkpoint
from cupola.weights.sources import open_plain

# What chooses modules by a part of their name or by their layer, and is replaced by their names.
CHOICES = ("exclude_modules", "layers_to_transform", "layers_pattern")


def rename_adapter(source: str | Path, out: str | Path, to: str = "transformers") -> Path:
    """Write the adapter in the folder `source` to the folder `out`, with other module names.

    Args:
        to: "transformers", for PEFT on transformers' model and for other servers, or "cupola", for
            PEFT on a bridged model. Reading and serving an adapter here takes either.

    Raises CheckpointError, also if the base model is not on this machine.
    """
    source, out = Path(source), Path(out)
    family = open_plain(files.base_folder(source)).family
    namings = {"transformers": family.their_key, "cupola": lambda key: family.our_key(key) or key}
    if to not in namings:
        raise CheckpointError(f"to: {to!r} is not one of {[*namings]}{did_you_mean(to, namings)}")
    config = files.read_adapter_config(source)
    state = read_checkpoint(weights_of(source))
    renamed = {_renamed(key, namings[to]): tensor.contiguous() for key, tensor in state.items()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(renamed, out / WEIGHTS[0], {"format": "pt"})
    about = {**config, **_choices(config, state, namings[to])}
    text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
    (out / files.ADAPTER_CONFIG).write_text(text, encoding="utf-8")
    return out


def _renamed(key: str, name: Callable[[str], str]) -> str:
    bare = key.removeprefix(WRAPPER)
    return key[: len(key) - len(bare)] + name(bare)


def _choices(
    config: Mapping[str, Any], keys: Collection[str], name: Callable[[str], str]
) -> dict[str, Any]:
    """The settings that name modules: with the whole name of each, whatever pattern chose them."""
    found = {
        match["module"] for key in keys if (match := LORA.fullmatch(key.removeprefix(WRAPPER)))
    }
    modules = sorted(found)
    patterns = {
        key: {name(each): _number(for_module(config[key], each, default)) for each in modules}
        for key, default in (
            ("rank_pattern", config.get("r", 8)),
            ("alpha_pattern", config.get("lora_alpha", 8)),
        )
        if config.get(key)
    }
    whole = config.get("modules_to_save")
    saved = {"modules_to_save": [name(each) for each in whole]} if whole else {}
    nothing = dict.fromkeys(key for key in CHOICES if key in config)
    return {"target_modules": [name(each) for each in modules], **patterns, **saved, **nothing}


def _number(value: float) -> float:
    return int(value) if value == int(value) else value  # PEFT needs ranks that are integers
