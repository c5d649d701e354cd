"""The LLaMA family split over ranks: loaded from transformers' folder, equal to one process."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from llama_cases import ragged, save
from torch import Tensor

from cupola import nn
from cupola.parallel import Group, Mesh, shard_dims, take
from cupola.registry import build
from cupola.weights import load_shard, reshard
from ranks import RankPool

# Key-value heads: as many as ranks or more, and fewer than ranks, where ranks share them.
NAMES = ["llama", "llama-1-head", "llama-biases", "qwen2"]


def loaded(folder: Path, group: Group | None, weights: Path | None = None) -> Any:
    """This rank's part of the model in a folder of transformers."""
    config = json.loads((folder / "config.json").read_text())
    with nn.on_meta():
        model = build({"type": config["architectures"][0], **config}, group=group)
    load_shard(model, weights or folder, group)
    return model


def step(mesh: Mesh, folder: Path, weights: Path | None = None) -> dict[str, Tensor]:
    """Logits, loss, this rank's part of every gradient, and a greedy continuation."""
    model = loaded(folder, mesh.tensor, weights)
    batch = ragged(model.settings.vocab_size)
    with torch.no_grad():
        found = {"logits": model(batch["input_ids"], batch["attention_mask"])}
    loss = model.loss(batch)["loss"]
    loss.backward()
    found["loss"] = loss.detach()
    found |= {f"grad/{name}": p.grad for name, p in model.named_parameters()}
    how = {"max_tokens": 12, "chunk": 4, "ignore_eos": True}
    ids = model.eval().generate(batch["input_ids"], batch["attention_mask"], **how)
    return found | {"ids": ids}


def compare(whole: dict[str, Tensor], folder: Path, results: list[dict[str, Tensor]]) -> None:
    for rank, found in enumerate(results):
        group = Group("tensor", tuple(range(len(results))), rank)
        dims = shard_dims(loaded(folder, group))
        assert found.keys() == whole.keys()
        for name, ours in found.items():
            dim = dims.get(name.removeprefix("grad/"))
            expected = whole[name] if dim is None else take(whole[name], dim, group)
            scale = expected.abs().max().clamp(min=1.0)
            assert (ours - expected).abs().max() < 2e-5 * scale, (rank, name)


@pytest.mark.parametrize("name", NAMES)
def test_ranks_agree_with_one_process_and_with_transformers(
    ranks: RankPool, tmp_path: Path, name: str
) -> None:
    theirs = save(name, tmp_path)
    whole = step(Mesh(), tmp_path)
    batch = ragged(67)
    with torch.no_grad():
        expected = theirs(batch["input_ids"], batch["attention_mask"]).logits
    real = batch["attention_mask"] == 1
    assert (whole["logits"] - expected)[real].abs().max() < 2e-5
    compare(whole, tmp_path, ranks.run(step, tmp_path))


@pytest.mark.parametrize("size", [1, 4])
def test_a_checkpoint_split_for_any_number_of_ranks(
    ranks: RankPool, tmp_path: Path, size: int
) -> None:
    save("llama-biases", tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").is_file()
    reshard(tmp_path / "theirs", tmp_path / "ours", size)
    whole = step(Mesh(), tmp_path / "theirs")
    parts = ranks.run(step, tmp_path / "theirs", tmp_path / "ours")
    compare(whole, tmp_path / "theirs", parts)


def test_heads_that_cannot_be_split_are_refused() -> None:
    sizes = {"hidden_size": 24, "num_attention_heads": 6, "num_key_value_heads": 3}
    config = {"type": "LlamaForCausalLM", "intermediate_size": 8, "vocab_size": 9, **sizes}
    with pytest.raises(ValueError, match="num_key_value_heads 3 cannot be split over 2"):
        build({**config, "num_hidden_layers": 1}, group=Group("tensor", (0, 1), 0))


def test_what_ranks_draw_does_not_depend_on_their_number() -> None:
    config = {"type": "LlamaForCausalLM", "hidden_size": 16, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 2, "intermediate_size": 8, "vocab_size": 9}
    found = []
    for group in (None, Group("tensor", (0, 1, 2, 3), 3)):
        torch.manual_seed(0)
        found.append(build({**config, "num_hidden_layers": 1}, group=group))
    one, last = found
    dims = shard_dims(last)
    for name, parameter in last.named_parameters():
        whole = dict(one.named_parameters())[name]
        part = take(whole, dims[name], last.group) if name in dims else whole
        assert torch.equal(parameter, part), name
