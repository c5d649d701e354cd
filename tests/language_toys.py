"""A tiny language bundle with random weights and a tokenizer trained on a few lines."""

from pathlib import Path

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


def language_bundle(folder: Path) -> Bundle:
    torch.manual_seed(0)
    model = BloomForCausalLM(**{k: v for k, v in MODEL.items() if k != "type"})
    config = {"name": "toy-text", "version": "1", "task": "language", "model": MODEL}
    bundle = write_bundle(folder, config, model.state_dict(), "# toy", dtype=torch.float32)
    train_tokenizer(LINES, 300).save(str(folder / "tokenizer.json"))
    return bundle
