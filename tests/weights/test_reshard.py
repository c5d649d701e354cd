"""Resharding: any layout into any other, bit by bit, and each rank reading only its part."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cupola import nn
from cupola.errors import CheckpointError
from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import Group, Mesh
from cupola.weights import load_shard, open_source, reshard
from cupola.weights.dialects.megatron import to_our_rows
from golden import golden
from ranks import RankPool

CONFIG = golden("bloom_tiny_h8").config["bloom"]


def foreign() -> dict[str, Tensor]:
    return golden("bloom_tiny_h8").weights()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_file(foreign(), tmp_path / "model.safetensors")
    return tmp_path


def loaded(source: Path, rank: int = 0, size: int = 1, **options) -> dict[str, Tensor]:
    group = Group("tensor", tuple(range(size)), rank)
    with nn.on_meta():
        model = BloomForCausalLM(group=group, **CONFIG)
    load_shard(model, source, group, **options)
    return dict(model.state_dict())


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


@pytest.mark.parametrize("sizes", [(2, 4), (4, 1), (1, 2)])
def test_through_every_dialect_and_back(folder: Path, tmp_path: Path, sizes: tuple) -> None:
    first, second = sizes
    reshard(folder, tmp_path / "megatron", first, "megatron")
    reshard(tmp_path / "megatron", tmp_path / "ours", second)
    reshard(tmp_path / "ours", tmp_path / "theirs", 1, "bloom_hf")
    assert same(load_file(tmp_path / "theirs" / "model.safetensors"), foreign())


def write_as(layout: str, folder: Path, source: Path) -> None:
    """The weights of `folder` written to `source` in another layout."""
    if layout in ("megatron", "cupola"):
        reshard(folder, source, 4, layout)
        return
    source.mkdir()
    kind = "pytorch_model.bin" if "pickled" in layout else "model.safetensors"
    write = torch.save if "pickled" in layout else save_file
    names = ["1", "2"] if "shards" in layout else [""]
    weight_map = {key: f"{names[i % len(names)]}{kind}" for i, key in enumerate(foreign())}
    for name in set(weight_map.values()):
        write({k: v.clone() for k, v in foreign().items() if weight_map[k] == name}, source / name)
    if "shards" in layout:
        (source / f"{kind}.index.json").write_text(json.dumps({"weight_map": weight_map}))
        save_file({"tok_embeddings.weight": torch.ones(1)}, source / "consolidated.safetensors")


@pytest.mark.parametrize(
    "layout", ["one file", "shards", "pickled", "pickled shards", "megatron", "cupola"]
)
def test_a_rank_gets_its_part_from_any_layout(folder: Path, tmp_path: Path, layout: str) -> None:
    source = tmp_path / layout
    write_as(layout, folder, source)
    whole = loaded(folder)
    for rank in range(2):
        part = loaded(source, rank, 2)
        for key, tensor in part.items():
            split = [d for d in range(tensor.ndim) if tensor.shape[d] != whole[key].shape[d]]
            expected = whole[key].chunk(2, split[0])[rank] if split else whole[key]
            assert torch.equal(tensor, expected), key


def test_shard_files_are_named_and_numbered_as_the_original_does(
    folder: Path, tmp_path: Path
) -> None:
    reshard(folder, tmp_path / "shards", 2, "megatron")
    layers = sorted({int(f.name[6:8]) for f in (tmp_path / "shards").iterdir()})
    assert layers == [1, 3, 4, 6]  # L = 2: embedding, two blocks, L + 4
    state = torch.load(tmp_path / "shards" / "layer_03-model_01-model_states.pt")
    assert state["self_attention.query_key_value.weight"].shape == (96, 64)
    assert state["mlp.dense_4h_to_h.weight"].shape == (64, 128)


@pytest.mark.parametrize("version", [0, 1.0])
def test_old_versions_are_reordered(folder: Path, tmp_path: Path, version: float) -> None:
    reshard(folder, tmp_path, 2, "megatron")
    for path in tmp_path.glob("layer_0*"):
        state = torch.load(path)
        for key, fused in state.items():
            if "query_key_value" in key:
                rows = fused.view(4, 3, 8, *fused.shape[1:])  # four heads a rank, size 8
                old = rows.transpose(0, 1) if version == 0 else rows.transpose(1, 2)
                state[key] = old.reshape(fused.shape)
        torch.save(state, path)
    (tmp_path / "model.safetensors").rename(tmp_path.parent / f"whole{version}.safetensors")
    whole = loaded(tmp_path.parent / f"whole{version}.safetensors")
    assert same(loaded(tmp_path, version=version, heads=8), whole)
    assert not same(loaded(tmp_path), whole)
    with pytest.raises(CheckpointError, match="needs heads="):
        loaded(tmp_path, version=version)


def test_rows_of_every_version() -> None:
    ours = torch.arange(2 * 3 * 4).view(2, 3, 4)  # [heads, 3, size]
    assert torch.equal(to_our_rows(ours.transpose(0, 1).reshape(24), 0, 2), ours.flatten())
    assert torch.equal(to_our_rows(ours.transpose(1, 2).reshape(24), 1.0, 2), ours.flatten())
    assert torch.equal(to_our_rows(ours.flatten(), 2.0, 2), ours.flatten())


def test_replicas_that_differ_are_averaged_and_named(folder: Path, tmp_path: Path) -> None:
    reshard(folder, tmp_path / "shards", 2, "megatron")
    path = tmp_path / "shards" / "layer_03-model_01-model_states.pt"
    state = torch.load(path)
    state["input_layernorm.weight"] += 0.5
    torch.save(state, path)
    source = open_source(tmp_path / "shards")
    key = "transformer.blocks.0.input_norm.weight"
    mean = source.whole(key)
    assert torch.allclose(mean, foreign()["transformer.h.0.input_layernorm.weight"] + 0.25)
    (noted,) = source.disagreements
    assert (noted.key, noted.largest) == (key, pytest.approx(0.5, abs=1e-6))


def test_an_uneven_vocabulary_is_padded_with_zeros(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(vocab_size=11, hidden_size=8, n_layer=1, n_head=4)
    save_file(dict(model.state_dict()), tmp_path / "a.safetensors")
    reshard(tmp_path / "a.safetensors", tmp_path / "split", 4)
    source = open_source(tmp_path / "split")
    assert source.shapes()["transformer.embedding.word.weight"] == (12, 8)
    table = source.whole("transformer.embedding.word.weight")
    assert torch.equal(table[:11], model.state_dict()["transformer.embedding.word.weight"])
    assert not table[11:].any()
    group = Group("tensor", (0, 1), 1)
    half = BloomForCausalLM(group=group, vocab_size=11, hidden_size=8, n_layer=1, n_head=4)
    load_shard(half, source, group)
    assert torch.equal(half.transformer.embedding.word.weight[:5].detach(), table[6:11])


def test_what_does_not_fit_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="contains no safetensors files"):
        open_source(tmp_path / "nowhere")
    model = BloomForCausalLM(**{**CONFIG, "hidden_size": 32})
    with pytest.raises(CheckpointError, match=r"embedding\.word\.weight: shape \(320, 64\)"):
        load_shard(model, folder)
    with pytest.raises(CheckpointError, match=r"has no transformer\.blocks\.2"):
        load_shard(BloomForCausalLM(**{**CONFIG, "n_layer": 3}), folder)
    save_file({"conv1.weight": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="belong to no language model that can be split"):
        open_source(tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        open_source(tmp_path / "other.safetensors")
    (tmp_path / "other.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot write a bloom in dialect 'nemo'"):
        reshard(folder, tmp_path / "x", 2, "nemo")
    torch.save({"odd.weight": torch.ones(1)}, tmp_path / "layer_03-model_00-model_states.pt")
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"'odd\.weight' is not a parameter of a BLOOM layer"):
        open_source(tmp_path)


def greedy(mesh: Mesh, folder: Path) -> Tensor:
    with nn.on_meta():
        model = BloomForCausalLM(group=mesh.tensor, **CONFIG)
    load_shard(model, folder, mesh.tensor)
    about = golden("bloom_tiny_h8")
    ids, mask = about.stored("input_ids"), about.stored("attention_mask")
    return model.eval().generate(ids, mask, max_tokens=20)


def test_ranks_load_their_slices_and_write_the_same_text(folder: Path, ranks: RankPool) -> None:
    for ids in ranks.run(greedy, folder):
        assert torch.equal(ids, golden("bloom_tiny_h8").output("generated"))
