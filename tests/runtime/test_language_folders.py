"""Folders that transformers wrote: loaded as they are, by one process or a slice at a time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from cupola.bundles import write_bundle
from cupola.cli.main import app
from cupola.data.text import train_tokenizer
from cupola.parallel import Mesh
from cupola.runtime import Predictor
from cupola.runtime.load import load_shard
from language_toys import LINES
from lazy import LazyModule
from ranks import RankPool

transformers = LazyModule("transformers")

BLOOM = {"vocab_size": 300, "hidden_size": 32, "n_layer": 2, "n_head": 4}
LLAMA = {
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
CONFIGS = {
    "Bloom": BLOOM,
    "Llama": LLAMA,
    "Mistral": {**LLAMA, "sliding_window": None},
    "Qwen2": {**LLAMA, "tie_word_embeddings": True},
}


@pytest.fixture(scope="module", params=CONFIGS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """transformers' model, and the folder that it wrote, with a tokenizer."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(4)
    config = getattr(transformers, f"{request.param}Config")(
        **CONFIGS[request.param], initializer_range=0.4
    )
    theirs = getattr(transformers, f"{request.param}ForCausalLM")(config).eval()
    theirs.save_pretrained(folder)
    train_tokenizer(LINES, 300).save(str(folder / "tokenizer.json"))
    return theirs, folder


def expected_ids(theirs: Any, prompt: list[int], count: int, **options: Any) -> tuple[int, ...]:
    ids = torch.tensor([prompt])
    mask = torch.ones_like(ids)
    options = {"max_new_tokens": count, "do_sample": False, "pad_token_id": 0, **options}
    found = theirs.generate(ids, attention_mask=mask, **options)
    return tuple(found[0, len(prompt) :].tolist())


def test_a_folder_is_loaded_as_it_is(saved: Any) -> None:
    theirs, folder = saved
    ours = Predictor.load(folder, chunk=4)
    ids = ours.tokenizer.encode("It is a truth").ids
    completion = ours("It is a truth", max_tokens=16)
    assert completion.token_ids == expected_ids(theirs, ids, 16)
    assert completion.text == ours.tokenizer.decode(completion.token_ids)


def test_the_command_continues_a_text_from_a_folder(saved: Any) -> None:
    _, folder = saved
    prompt = ["generate", str(folder), "It is", "--max-tokens", "8", "--temperature", "0"]
    done = CliRunner().invoke(app, prompt)
    assert done.exit_code == 0, done.output
    assert done.output == "It is" + Predictor.load(folder)("It is", max_tokens=8).text + "\n"


def test_pickled_weights_and_a_bundle_give_the_same_text(saved: Any, tmp_path: Path) -> None:
    theirs, folder = saved
    expected = Predictor.load(folder)("a wife", max_tokens=12).token_ids
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (pickled / name).write_bytes((folder / name).read_bytes())
    torch.save(theirs.state_dict(), pickled / "pytorch_model.bin")
    assert Predictor.load(pickled)("a wife", max_tokens=12).token_ids == expected
    config = json.loads((folder / "config.json").read_text())
    model = {"type": config["architectures"][0], **config}
    about = {"name": "toy", "version": "1", "task": "language", "model": model}
    state = Predictor.load(folder).model.state_dict()
    bundle = write_bundle(tmp_path / "bundle", about, state, "# toy", dtype=torch.float32)
    (bundle.path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    assert Predictor.load(bundle.path)("a wife", max_tokens=12).token_ids == expected


def test_the_end_tokens_of_the_generation_config(saved: Any, tmp_path: Path) -> None:
    theirs, folder = saved
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    ids = Predictor.load(folder)("a wife", max_tokens=6).token_ids
    ends = [int(ids[3]), 299]
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    ours = Predictor.load(tmp_path)
    prompt = ours.tokenizer.encode("a wife").ids
    completion = ours("a wife", max_tokens=6)
    assert completion.token_ids == expected_ids(theirs, prompt, 6, eos_token_id=ends)
    assert completion.finish_reason == "stop"


def slice_ids(mesh: Mesh, folder: Path) -> tuple[int, ...]:
    ids: tuple[int, ...] = load_shard(folder, mesh.tensor)("a wife", max_tokens=12).token_ids
    return ids


def test_ranks_load_their_slices_of_a_folder(saved: Any, ranks: RankPool) -> None:
    _, folder = saved
    expected = Predictor.load(folder)("a wife", max_tokens=12).token_ids
    assert ranks.run(slice_ids, folder) == [expected] * ranks.world
