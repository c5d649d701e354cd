"""A tiny language bundle with random weights and a tokenizer trained on a few lines."""

import base64
import struct
from pathlib import Path
from typing import Any

import torch

from cupola.bundles import Bundle, write_bundle
from cupola.data.text import train_tokenizer
from cupola.models.bloom import BloomForCausalLM

LINES = [
    "It is a truth universally acknowledged, that a single man must be in want of a wife.",
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
]
MODEL = {
    "type": "BloomForCausalLM",
    "vocab_size": 300,
    "hidden_size": 32,
    "n_layer": 2,
    "n_head": 4,
    "initializer_range": 0.5,
}


def language_bundle(folder: Path, name: str = "toy-text", **generation: Any) -> Bundle:
    """`generation`: settings of its predictor, for example cache_tokens."""
    torch.manual_seed(0)
    model = BloomForCausalLM(**{k: v for k, v in MODEL.items() if k != "type"})
    config = {"name": name, "version": "1", "task": "language", "model": MODEL}
    config |= {"generation": generation} if generation else {}
    bundle = write_bundle(folder, config, model.state_dict(), "# toy", dtype=torch.float32)
    train_tokenizer(LINES, 300).save(str(folder / "tokenizer.json"))
    return bundle


def hf_language_folder(folder: Path) -> Path:
    """The same kind of model as transformers saves it."""
    import transformers

    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3}
    sizes = {key: value for key, value in MODEL.items() if key != "type"}
    config = transformers.BloomConfig(**sizes, **special)
    transformers.BloomForCausalLM(config).save_pretrained(folder)
    names = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = train_tokenizer(LINES, 300)
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    fast.save_pretrained(folder)
    return folder


def panics_on_z() -> dict[str, Any]:
    """A compiled normalizer whose entry for "z" lies outside its table of texts."""
    units, z = [0] * 512, ord("z")
    units[z] = z | 1 << 8 | 0x100 << 10  # letter, has a leaf, where that is
    units[z ^ 0x100] = 10**6
    data = struct.pack("<513I", 4 * len(units), *units) + b"x\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
