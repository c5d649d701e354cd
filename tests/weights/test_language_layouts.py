"""Layouts of language models as other tools write them: the same weights for every way to load."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from cupola import nn
from cupola.bundles import Bundle
from cupola.cli.main import app
from cupola.errors import BuildError, BundleError, CheckpointError, CupolaError
from cupola.models.bloom import BloomForCausalLM
from cupola.parallel import Group
from cupola.runtime import Predictor
from cupola.runtime.building import build
from cupola.weights import load_shard, reshard
from language_toys import language_bundle

SIZES = {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}
CONFIG = {"architectures": ["BloomForCausalLM"], "model_type": "bloom", **SIZES}
FUSED = "transformer.h.1.self_attention.query_key_value.weight"


def hf_folder(root: Path) -> Path:
    """A folder as transformers saves it."""
    language_bundle(root / "bundle")
    reshard(root / "bundle" / "weights.safetensors", root / "model", 1, "bloom_hf")
    (root / "model" / "config.json").write_text(json.dumps(CONFIG))
    shutil.copy(root / "bundle" / "tokenizer.json", root / "model")
    return root / "model"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return hf_folder(tmp_path)


def state_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def whole(folder: Path) -> dict[str, Tensor]:
    bundle = Bundle.load(folder)
    state: dict[str, Tensor] = build(bundle.model_config, weights=bundle.weights_path).state_dict()
    return state


def split(folder: Path, size: int = 2) -> dict[str, Tensor]:
    """The whole weights, put together from what each rank loads."""
    parts = []
    for rank in range(size):
        with nn.on_meta():
            model = BloomForCausalLM(group=Group("tensor", tuple(range(size)), rank), **SIZES)
        load_shard(model, Bundle.load(folder).weights_path, model.group)
        parts.append(dict(model.state_dict()))
    joined = {}
    for key, expected in whole_shapes().items():
        dims = [d for d in range(len(expected)) if parts[0][key].shape[d] != expected[d]]
        joined[key] = torch.cat([part[key] for part in parts], dims[0]) if dims else parts[0][key]
    return joined


def whole_shapes() -> dict[str, Any]:
    with nn.on_meta():
        return {key: value.shape for key, value in BloomForCausalLM(**SIZES).state_dict().items()}


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def write(folder: Path, layout: str) -> None:
    """Replaces model.safetensors by another layout of the same weights."""
    state = state_of(folder)
    if layout == "two files":
        save_file({k: v + 1 for k, v in state.items()}, folder / "zz_other.safetensors")
        return
    (folder / "model.safetensors").unlink()
    if layout == "other name":
        save_file(state, folder / "bloom.safetensors")
        save_file({"x": torch.ones(1)}, folder / "adapter_model.safetensors")
    elif layout == "numbered":
        keys = list(state)
        for number, part in ((1, keys[:9]), (2, keys[9:])):
            save_file({k: state[k] for k in part}, folder / f"m-0000{number}-of-00002.safetensors")
    elif layout in ("bin", "old bin"):
        torch.save(
            {k: v.clone() for k, v in state.items()},
            folder / "pytorch_model.bin",
            _use_new_zipfile_serialization=layout == "bin",
        )
        torch.save({"args": 1}, folder / "training_args.bin")
    elif layout == "megatron":
        reshard_here(folder, folder, state, 2)
    elif layout == "latest":
        (folder / "latest").write_text("global_step7\n")
        reshard_here(folder / "global_step7", folder, state, 4)
    elif layout == "mp_rank":
        write_mp_ranks(folder, state)
    elif layout == "module":
        save_file(
            {f"module._orig_mod.{k}": v for k, v in state.items()}, folder / "model.safetensors"
        )
    elif layout == "trl":
        heads = {"v_head.summary.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
        wrapped = {f"pretrained_model.{k}": v for k, v in state.items()}
        save_file(wrapped | heads, folder / "model.safetensors")


def reshard_here(target: Path, folder: Path, state: dict[str, Tensor], size: int) -> None:
    save_file(state, folder / "x.safetensors")
    reshard(folder / "x.safetensors", target, size, "megatron")
    (folder / "x.safetensors").unlink()


def write_mp_ranks(folder: Path, state: dict[str, Tensor]) -> None:
    """Megatron-LM's nested dicts, two ranks, with a vocabulary padded from 300 to 304."""
    reshard_here(folder / "layers", folder, state, 2)
    for rank in range(2):
        name = f"model_{rank:02d}-model_states.pt"
        layers = {
            int(f.name[6:8]): torch.load(f) for f in (folder / "layers").glob(f"layer_*{name}")
        }
        words = layers[1]["word_embeddings.weight"]
        if rank == 1:
            words = torch.cat([words, torch.zeros(4, 32)])
        encoder = {
            f"layers.{number - 3}.{key}": value
            for number in (3, 4)
            for key, value in layers[number].items()
        }
        encoder |= {f"final_layernorm.{key}": value for key, value in layers[6].items()}
        norm = {k.removeprefix("word_embeddings."): v for k, v in layers[1].items() if "norm" in k}
        model = {
            "embedding": {"word_embeddings": {"weight": words, **norm}},
            "encoder": encoder,
        }
        content = {"checkpoint_version": 3.0, "model": {"language_model": model}, "iteration": 7}
        target = folder / "iter_0000007" / f"mp_rank_{rank:02d}"
        target.mkdir(parents=True)
        torch.save(content, target / "model_optim_rng.pt")
    (folder / "latest_checkpointed_iteration.txt").write_text("7")
    shutil.rmtree(folder / "layers")


LAYOUTS = [
    "two files", "other name", "numbered", "bin", "old bin", "megatron", "latest", "mp_rank",
    "module", "trl",
]  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same_weights_whole_and_split(folder: Path, layout: str) -> None:
    expected = whole(folder)
    write(folder, layout)
    assert same(whole(folder), expected)
    assert same(split(folder), expected)


def test_it_is_not_guessed_which_file_is_meant(folder: Path) -> None:
    state = state_of(folder)
    (folder / "model.safetensors").rename(folder / "a.safetensors")
    save_file(state, folder / "b.safetensors")
    for load in (whole, split):
        with pytest.raises(CheckpointError, match=r"not clear .*a\.safetensors, b\.safetensors"):
            load(folder)


def test_a_missing_shard_is_named(folder: Path) -> None:
    write(folder, "numbered")
    (folder / "m-00001-of-00002.safetensors").unlink()
    with pytest.raises(CheckpointError, match="shard 1 of 2 is missing"):
        whole(folder)


def test_harmless_keys_warn_and_load(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    expected = whole(folder)
    keys = {
        "n_inner": None, "num_labels": 2, "torchscript": False, "tokenizer_class": "X",
        "do_sample": True, "max_length": 20, "is_decoder": True, "add_cross_attention": False,
        "pruned_heads": {}, "quantization_config": None, "anything": None, "auto_map": {"A": "b.C"},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(CONFIG | keys))
    assert same(whole(folder), expected)
    assert "not used by this model: anything, auto_map, do_sample" in caplog.text


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"n_inner": 100}, "n_inner must be null or 4 times hidden_size, 128"),
        ({"add_cross_attention": True}, "add_cross_attention True is not supported, only False"),
        ({"pruned_heads": {"0": [1]}}, "pruned_heads .* is not supported"),
        ({"alibi_bias_max": 16}, "has no setting 'alibi_bias_max'"),
        ({"torch_dtype": "int3"}, "dtype 'int3' is not one of float32"),
    ],
)
def test_keys_that_change_the_function_are_named(folder: Path, keys: Any, text: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | keys))
    with pytest.raises(BuildError, match=text):
        whole(folder)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_both_names_of_the_type(folder: Path, key: str) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {key: "bfloat16"}))
    assert {tensor.dtype for tensor in whole(folder).values()} == {torch.bfloat16}
    assert len(Predictor.load(folder)("It is", max_tokens=3).token_ids) == 3


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes"])
def test_quantized_models_are_refused_by_name(folder: Path, method: str) -> None:
    about = {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps(CONFIG | about))
    with pytest.raises(BundleError, match=f"quantized with {method}.*load the original model"):
        Bundle.load(folder)


@pytest.mark.parametrize(("end", "name"), [("qweight", "GPTQ or AWQ"), ("SCB", "bitsandbytes")])
def test_quantized_weights_are_recognized_by_their_keys(folder: Path, end: str, name: str) -> None:
    key = FUSED.replace("weight", end)
    state = state_of(folder) | {key: torch.ones(3, dtype=torch.int8)}
    save_file(state, folder / "model.safetensors")
    for load in (whole, split):
        with pytest.raises(CheckpointError, match=f"quantized with {name}"):
            load(folder)


def adapter(folder: Path, **options: Any) -> Path:
    """A LoRA of rank 4 on one matrix, and a replaced norm."""
    target = folder.parent / "adapter"
    target.mkdir()
    about = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "base_model_name_or_path": "model"}
    (target / "adapter_config.json").write_text(json.dumps(about | options))
    torch.manual_seed(1)
    prefix = "base_model.model.transformer."
    module = prefix + "h.1.self_attention.query_key_value"
    save_file(
        {
            f"{module}.lora_A.weight": torch.randn(4, 32),
            f"{module}.lora_B.weight": torch.randn(96, 4),
            f"{prefix}ln_f.weight": torch.randn(32),
        },
        target / "adapter_model.safetensors",
    )
    return target


def merged(folder: Path, target: Path, scale: float) -> dict[str, Tensor]:
    """The base's weights with the adapter merged, by PEFT's formula."""
    state, lora = state_of(folder), load_file(target / "adapter_model.safetensors")
    lora = {key.removeprefix("base_model.model."): value for key, value in lora.items()}
    module = FUSED.removesuffix(".weight")
    state[FUSED] += scale * lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"]
    state["transformer.ln_f.weight"] = lora["transformer.ln_f.weight"]
    return state


@pytest.mark.parametrize(("options", "scale"), [({}, 1.5), ({"use_rslora": True}, 3.0)])
def test_an_adapter_is_merged_into_its_base(folder: Path, options: Any, scale: float) -> None:
    target = adapter(folder, **options)
    expected_state = merged(folder, target, scale)
    found, parts = whole(target), split(target)
    text = Predictor.load(target)("It is", max_tokens=8).text
    save_file(expected_state, folder / "model.safetensors")
    expected = whole(folder)
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
        torch.testing.assert_close(parts[key], value)
    assert Predictor.load(folder)("It is", max_tokens=8).text == text


def test_an_adapter_of_a_tied_embedding_alone_is_refused(folder: Path) -> None:
    target = adapter(folder)
    state = load_file(target / "adapter_model.safetensors")
    words = "base_model.model.transformer.word_embeddings"
    state[f"{words}.lora_embedding_A"] = torch.randn(4, 300)
    state[f"{words}.lora_embedding_B"] = torch.randn(32, 4)
    save_file(state, target / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match="adapts the embedding alone"):
        whole(target)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"peft_type": "IA3"}, "peft_type 'IA3' is not supported, only 'LORA'"),
        ({"use_dora": True}, "use_dora is not supported; merge"),
        ({"base_model_name_or_path": "org/none"}, "base model 'org/none' is no folder here"),
        ({"r": 0}, "r 0: expected a positive number"),
    ],
)
def test_adapters_that_cannot_be_merged_are_named(folder: Path, options: Any, text: str) -> None:
    with pytest.raises(CupolaError, match=text):
        Bundle.load(adapter(folder, **options))


def run(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(each) for each in arguments])
    assert done.exit_code == 0, done.output or done.exception
    return done.output


def test_the_command_reshards_in_both_directions(folder: Path, tmp_path: Path) -> None:
    assert "ranks: 4" in run("convert", folder, tmp_path / "four", "--ranks", 4, "--to", "megatron")
    assert same(whole(tmp_path / "four"), whole(folder))
    run("convert", tmp_path / "four", tmp_path / "ours", "--ranks", 2)
    assert same(whole(tmp_path / "ours"), whole(folder))
    run("convert", tmp_path / "ours", tmp_path / "back", "--ranks", 1, "--to", "bloom_hf")
    assert same(state_of(tmp_path / "back"), state_of(folder))
    run("convert", folder, tmp_path / "four", tmp_path / "one.safetensors", "--to", "bloom_hf")
    assert same(load_file(tmp_path / "one.safetensors"), state_of(folder))
    run("bundle", tmp_path / "four", tmp_path / "made")
    assert (tmp_path / "made" / "tokenizer.json").is_file()
