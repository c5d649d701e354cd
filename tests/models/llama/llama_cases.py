"""Tiny configs of the LLaMA family, and transformers' models with random weights of them."""

from pathlib import Path
from typing import Any

import torch

SIZES = {
    "vocab_size": 67,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
}
GROUPED = {**SIZES, "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 6}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}
# Name -> (transformers' class without its ending, config).
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", SIZES),
    "llama-1-head": ("Llama", {**SIZES, "num_key_value_heads": 1, "tie_word_embeddings": True}),
    "llama-biases": ("Llama", {**GROUPED, "attention_bias": True, "mlp_bias": True}),
    "llama-3": ("Llama", {**GROUPED, "rope_parameters": LLAMA3, "eos_token_id": [3, 5]}),
    "llama-linear": ("Llama", {**SIZES, "num_key_value_heads": 2, "rope_parameters": LINEAR}),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": None}),
    "mistral-window": ("Mistral", {**SIZES, "num_key_value_heads": 4, "sliding_window": 64}),
    "qwen2": ("Qwen2", {**SIZES, "num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen2-untied": ("Qwen2", {**SIZES, "num_key_value_heads": 1, "rms_norm_eps": 1e-5}),
}


def original(name: str) -> Any:
    """transformers' model of a case, its norms and biases random as well."""
    import transformers

    family, config = CASES[name]
    torch.manual_seed(len(name))
    config = getattr(transformers, f"{family}Config")(**config, attn_implementation="eager")
    theirs = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for key, parameter in theirs.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(float("norm" in key), 0.2)
    return theirs


def save(name: str, folder: Path, **options: Any) -> Any:
    """Writes the checkpoint folder of a case as transformers does; returns its model."""
    theirs = original(name)
    theirs.save_pretrained(folder, **options)
    return theirs


def ragged(vocabulary: int) -> dict[str, torch.Tensor]:
    """Three rows of nine tokens, left-padded by 0, 2 and 5."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, vocabulary, (3, 9), generator=generator)
    mask = (torch.arange(9)[None, :] >= torch.tensor([0, 2, 5])[:, None]).long()
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, -100),
    }
