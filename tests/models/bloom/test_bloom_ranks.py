"""BLOOM split over ranks equals BLOOM on one process, and the original's layers."""

from typing import Any

import torch
from bloom_cases import build
from torch import Tensor

from cupola.generation import DenseContext
from cupola.models.bloom import BloomModel, BloomSettings
from cupola.parallel import Mesh, shard_dims, take
from golden import golden
from goldens import seeded
from ranks import RankPool

ODD = {"vocab_size": 323}  # not a multiple of 2 or 4


def small(group: Any, config: dict[str, Any]) -> Any:
    foreign = golden("bloom_tiny_h8").weights()
    key = "transformer.word_embeddings.weight"
    rows = config["vocab_size"]
    whole = torch.from_numpy(seeded.seeded_weight(key, (rows, 64)))
    return build(golden("bloom_tiny_h8").config["bloom"] | config, foreign | {key: whole}, group)


def step(mesh: Mesh, config: dict[str, Any]) -> dict[str, Tensor]:
    """Logits, loss and this rank's part of every gradient."""
    about = golden("bloom_tiny_h8")
    model = small(mesh.tensor, config)
    batch = {n: about.stored(n) for n in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad():
        found = {"logits": model(batch["input_ids"], batch["attention_mask"])}
    loss = model.loss(batch)["loss"]
    loss.backward()
    found["loss"] = loss.detach()
    return found | {f"grad/{n}": p.grad for n, p in model.named_parameters()}


def agree(mesh: Mesh, ranks: RankPool, config: dict[str, Any]) -> None:
    whole = step(mesh, config)
    dims = shard_dims(small(None, config))
    for rank, found in enumerate(ranks.run(step, config)):
        assert found.keys() == whole.keys()
        for name, ours in found.items():
            dim = dims.get(name.removeprefix("grad/"))
            expected = whole[name] if dim is None else cut_of(whole[name], dim, rank, ranks.world)
            scale = expected.abs().max().clamp(min=1.0)
            assert (ours - expected).abs().max() < 2e-5 * scale, (rank, name)


def cut_of(whole: Tensor, dim: int, rank: int, world: int) -> Tensor:
    from cupola.parallel import Group

    return take(whole, dim, Group("tensor", tuple(range(world)), rank))


def test_ranks_agree_with_one_process(ranks: RankPool) -> None:
    agree(Mesh(), ranks, {"vocab_size": 320})


def test_an_uneven_vocabulary_is_padded_and_masked(ranks: RankPool) -> None:
    agree(Mesh(), ranks, ODD)


def test_checkpointed_activations_agree(ranks: RankPool) -> None:
    agree(Mesh(), ranks, {"vocab_size": 320, "checkpoint_activations": True})


def layers(mesh: Mesh) -> dict[str, Tensor]:
    """The stack of two ParallelTransformerLayers of the golden, through our blocks."""
    about, group = golden("megatron_layer"), mesh.tensor
    sizes = about.config
    settings = BloomSettings(
        vocab_size=8,
        hidden_size=sizes["H"],
        n_head=sizes["heads"],
        n_layer=sizes["layers"],
        query_key_layer_scaling=sizes["qk_scaling"],
    )
    trunk = BloomModel(settings, group)
    ours, dims = dict(trunk.named_parameters()), shard_dims(trunk)
    names = {"self_attention": "attention", "post_attention_layernorm": "attention_norm"}
    keys = {}
    with torch.no_grad():
        for key, whole in about.weights().items():
            layer, part, rest = key.split(".", 2)
            part = names.get(part, part).replace("input_layernorm", "input_norm")
            keys[key] = name = f"blocks.{layer}.{part}.{rest}"
            ours[name].copy_(take(whole, dims[name], group) if name in dims else whole)
    x = torch.from_numpy(seeded.seeded_input("x", (sizes["T"], sizes["B"], sizes["H"])))
    x = x.transpose(0, 1).contiguous().requires_grad_()  # [B, T, H]
    ids = torch.ones(sizes["B"], sizes["T"], dtype=torch.long)
    context = DenseContext(
        ids, slopes=trunk.alibi_slopes, layer_scaling=settings.query_key_layer_scaling
    )
    found, hidden = {}, x
    for layer, block in enumerate(trunk.blocks):
        hidden = block(hidden, context)
        found[f"layer{layer}/out"] = hidden.transpose(0, 1)
    cotangent = torch.from_numpy(seeded.seeded_input("cotangent", tuple(found["layer0/out"].shape)))
    (found["layer1/out"] * cotangent).sum().backward()
    found["grad_x"] = x.grad.transpose(0, 1)
    found |= {f"grad/{k}": ours[n].grad for k, n in keys.items() if k.startswith("0.")}
    return {name: value.detach().contiguous() for name, value in found.items()}


def compare_layers(results: list[dict[str, Tensor]]) -> None:
    about, world = golden("megatron_layer"), len(results)
    for rank, found in enumerate(results):
        for name, ours in found.items():
            key = f"tp{world}/rank{rank}/{name}"
            key = key if key in about.json["outputs"] else f"tp{world}/rank0/{name}"
            if about.json["outputs"][key]["absmax"] > 1e-3:
                assert about.relative(key, ours) < 1e-5, key


def test_layers_equal_megatron_on_one_process() -> None:
    compare_layers([layers(Mesh())])


def test_layers_equal_megatron_on_ranks(ranks: RankPool) -> None:
    compare_layers(ranks.run(layers))
