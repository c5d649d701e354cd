"""Models with a golden's weights, whole or one rank's part."""

from typing import Any

import torch
from torch import Tensor

from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import Group, shard_dims, take
from cupola.parallel.groups import alone
from cupola.weights.families.bloom import BLOOM


def fill(model: BloomForCausalLM, foreign: dict[str, Tensor], group: Group | None = None) -> None:
    """Copies a Hugging Face state dict into the model, this rank's part of each tensor."""
    ours = dict(model.named_parameters())
    dims, left = shard_dims(model), set(ours)
    with torch.no_grad():
        for key, whole in foreign.items():
            if (name := BLOOM.our_key(key)) is None:
                continue
            part = take(whole, dims[name], alone(group)) if name in dims else whole
            ours[name].copy_(part)
            left.remove(name)
    assert not left


def build(config: dict[str, Any], foreign: dict[str, Tensor], group: Group | None = None) -> Any:
    model = BloomForCausalLM(group=group, **config)
    fill(model, foreign, group)
    return model.eval()
