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
    layers = sorted({int(f.name[6:8]) for f in (tmp_path / "shards").glob("layer_*")})
    assert layers == [1, 3, 4, 6]  # L = 2: embedding, two blocks, L + 4
    state = torch.load(tmp_path / "shards" / "layer_03-model_01-model_states.pt")
    assert state["self_attention.query_key_value.weight"].shape == (96, 64)
    assert state["mlp.dense_4h_to_h.weight"].shape == (64, 128)


@pytest.mark.parametrize("version", [pytest.param(0, marks=pytest.mark.slow), 1.0])
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
    assert same(loaded(tmp_path, version=version), whole)  # the model knows its heads
    assert not same(loaded(tmp_path), whole)
    with pytest.raises(CheckpointError, match="needs heads="):
        open_source(tmp_path, version=version)
    about = {"checkpoint_version": version}
    torch.save(about, tmp_path / "mp_rank_00_model_states.pt")
    assert same(loaded(tmp_path), whole)


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


EMBEDDING = "transformer.embedding.word.weight"


def uneven(folder: Path) -> Tensor:
    """The embedding of a model of 11 tokens, saved as folder/a.safetensors."""
    torch.manual_seed(0)
    model = BloomForCausalLM(vocab_size=11, hidden_size=8, n_layer=1, n_head=4)
    save_file(dict(model.state_dict()), folder / "a.safetensors")
    return model.state_dict()[EMBEDDING]


def test_an_uneven_vocabulary_is_padded_with_zeros(tmp_path: Path) -> None:
    table = uneven(tmp_path)
    reshard(tmp_path / "a.safetensors", tmp_path / "split", 4)
    last = load_file(tmp_path / "split" / "model-rank03.safetensors")[EMBEDDING]
    assert torch.equal(last[:2], table[9:11]) and not last[2:].any()
    source = open_source(tmp_path / "split")
    assert source.shapes()[EMBEDDING] == (11, 8)
    assert torch.equal(source.whole(EMBEDDING), table)
    group = Group("tensor", (0, 1), 1)
    half = BloomForCausalLM(group=group, vocab_size=11, hidden_size=8, n_layer=1, n_head=4)
    load_shard(half, source, group)
    assert torch.equal(half.transformer.embedding.word.weight[:5].detach(), table[6:11])


@pytest.mark.parametrize("dialect", ["cupola", "megatron"])
def test_the_vocabulary_comes_back_from_ranks_that_do_not_divide_it(
    tmp_path: Path, dialect: str
) -> None:
    table = uneven(tmp_path)
    reshard(tmp_path / "a.safetensors", tmp_path / "four", 4, dialect)
    reshard(tmp_path / "four", tmp_path / "one", 1, dialect)
    reshard(tmp_path / "one", tmp_path / "whole", 1, "bloom_hf")
    found = load_file(tmp_path / "whole" / "model.safetensors")
    assert torch.equal(found["transformer.word_embeddings.weight"], table)


def test_a_missing_rank_is_named(folder: Path, tmp_path: Path) -> None:
    reshard(folder, tmp_path / "four", 4)
    (tmp_path / "four" / "model-rank03.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"ranks \[0, 1, 2\], expected 0\.\.3"):
        open_source(tmp_path / "four")


def test_each_tensor_keeps_its_type(tmp_path: Path) -> None:
    uneven(tmp_path)
    state = load_file(tmp_path / "a.safetensors")
    mixed = {k: v if "norm" in k else v.bfloat16() for k, v in state.items()}
    save_file(mixed, tmp_path / "a.safetensors")
    reshard(tmp_path / "a.safetensors", tmp_path / "two", 2)
    reshard(tmp_path / "two", tmp_path / "one", 1)
    found = load_file(tmp_path / "one" / "model-rank00.safetensors")
    assert same(found, mixed) and all(found[k].dtype == mixed[k].dtype for k in mixed)


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
