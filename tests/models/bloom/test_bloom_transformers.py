"""BLOOM against transformers, live, on random tiny configs."""

from typing import Any

import pytest
import torch
from bloom_cases import build

from cupola.weights.families.bloom import BLOOM
from lazy import LazyModule

transformers = LazyModule("transformers")

CONFIGS = [
    {"n_head": 4, "hidden_size": 32, "n_layer": 3, "vocab_size": 61},
    {"n_head": 6, "hidden_size": 48, "n_layer": 2, "vocab_size": 97},
    {"n_head": 5, "hidden_size": 40, "n_layer": 2, "vocab_size": 50},
    {"n_head": 14, "hidden_size": 56, "n_layer": 1, "vocab_size": 64},
    {
        "n_head": 2,
        "hidden_size": 24,
        "n_layer": 2,
        "vocab_size": 33,
        "apply_residual_connection_post_layernorm": True,
    },
]


def pair(config: dict[str, Any]) -> tuple[Any, Any]:
    torch.manual_seed(sum(config.values()))
    theirs = transformers.BloomForCausalLM(
        transformers.BloomConfig(**config, attn_implementation="eager", initializer_range=0.3)
    ).eval()
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
    return theirs, build(config, theirs.state_dict())


def ragged(config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Three rows of nine tokens, left-padded by 0, 2 and 5."""
    ids = torch.randint(0, config["vocab_size"], (3, 9))
    mask = (torch.arange(9)[None, :] >= torch.tensor([0, 2, 5])[:, None]).long()
    labels = ids.masked_fill(mask == 0, -100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize("config", CONFIGS)
def test_logits_loss_and_gradients(config: dict[str, Any]) -> None:
    theirs, ours = pair(config)
    batch = ragged(config)
    expected = theirs(**batch)
    real = batch["attention_mask"] == 1
    logits = ours(batch["input_ids"], batch["attention_mask"])
    assert (logits - expected.logits)[real].abs().max() < 2e-5
    loss = ours.loss(batch)["loss"]
    assert abs(float(loss.detach()) - float(expected.loss.detach())) < 1e-5
    loss.backward()
    expected.loss.backward()
    gradients = {name: p.grad for name, p in ours.named_parameters()}
    for name, parameter in theirs.named_parameters():
        mine = gradients[BLOOM.our_key(name)]
        scale = float(parameter.grad.abs().max().clamp(min=1e-3))
        assert (mine - parameter.grad).abs().max() < 1e-4 * scale, name
