"""Train a LoRA adapter on bloom-tiny with PEFT, save it, load it, merge it, and use it.

    pip install peft
    python examples/lora.py FOLDER

PEFT adapts torch.nn.Linear, which `nn.to_torch` makes of the linear layers of a model. FOLDER holds
the adapter as PEFT writes it; `cupola serve FOLDER` answers with it.
"""

import sys
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model

from cupola import Predictor, nn
from cupola.bundles import Bundle
from cupola.runtime.building import build

BASE = "bloom-tiny"
TEXT = "The ship that sails at noon carries no cargo but clocks."


def base_model() -> Any:
    """The base as a torch.nn.Module; PEFT saves `name_or_path` as the base of an adapter."""
    bundle = Bundle.load(BASE)
    model: Any = nn.to_torch(build(bundle.model_config, weights=bundle.weights_path))
    model.name_or_path = BASE
    return model


def train(ids: torch.Tensor, steps: int = 30) -> Any:
    """A model with an adapter that has learned a text by heart."""
    config = LoraConfig(r=8, target_modules=["query_key_value", "dense", "dense_h_to_4h"])
    adapted = get_peft_model(base_model(), config)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad], 0.01)
    for step in range(1, steps + 1):
        loss = adapted.loss({"input_ids": ids, "labels": ids})["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"step {step}: loss {loss.item():.2f}")
    return adapted


torch.manual_seed(0)
folder, tokenizer = sys.argv[1], Predictor.load(BASE).tokenizer
ids = torch.tensor([tokenizer.encode(TEXT).ids])
train(ids).save_pretrained(folder, save_embedding_layers=False)

adapted = PeftModel.from_pretrained(base_model().eval(), folder)
merged = nn.from_torch(adapted.merge_and_unload())
tokens = merged.generate(ids[:, :4], max_tokens=ids.shape[1] - 4)[0]
print("merged:", tokenizer.decode(tokens.tolist()))
print("loaded: The ship" + Predictor.load(folder)("The ship", max_tokens=ids.shape[1]).text)
