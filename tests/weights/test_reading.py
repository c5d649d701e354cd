"""Checkpoints are data: nothing in them runs, and what is wrong with them is said."""

import argparse
import collections
import os
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cupola.errors import CheckpointError
from cupola.weights import read_checkpoint
from cupola.weights.renaming import Renaming


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/cupola-was-here",)


@pytest.mark.parametrize("wrapper", [None, "state_dict", "model", "model_state"])
def test_reads_state_dicts_in_their_usual_wrappers(tmp_path, wrapper) -> None:
    state = {"a.weight": torch.arange(6.0).view(2, 3)}
    content = state if wrapper is None else {wrapper: state, "epoch": 3, "optimizer": {"lr": 0.1}}
    torch.save(content, tmp_path / "c.pth")
    assert torch.equal(read_checkpoint(tmp_path / "c.pth")["a.weight"], state["a.weight"])


def test_tolerates_what_frameworks_leave_beside_the_tensors(tmp_path) -> None:
    state = collections.OrderedDict(w=torch.ones(2))
    extra = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.3), "log": np.arange(3)}
    torch.save({"state_dict": state, "message_hub": extra}, tmp_path / "c.pth")
    assert list(read_checkpoint(tmp_path / "c.pth")) == ["w"]


def test_refuses_pickles_that_would_run_code(tmp_path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Evil()}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="refused"):
        read_checkpoint(tmp_path / "c.pth")
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "raw.pkl")
    assert not os.path.exists("/tmp/cupola-was-here")


@pytest.mark.parametrize("name", ["c.pth", "c.safetensors"])
@pytest.mark.parametrize("content", [b"", b"garbage" * 50, b"\x00" * 64])
def test_damaged_files_are_named(tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        read_checkpoint(tmp_path / name)


def test_a_folder_of_shards_is_joined_and_never_left(tmp_path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "m-1.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "m-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}')
    assert sorted(read_checkpoint(tmp_path)) == ["a", "b"]
    index.write_text('{"weight_map": {"a": "../secret.safetensors"}}')
    with pytest.raises(CheckpointError, match="outside the folder"):
        read_checkpoint(tmp_path)


def test_renaming_works_in_both_directions() -> None:
    names = Renaming([("layers.#.a.b", "blocks.#.c"), ("layers.#", "blocks.#")])
    assert names.to_theirs("layers.12.a.b.weight") == "blocks.12.c.weight"
    assert names.to_ours("blocks.3.c.bias") == "layers.3.a.b.bias"
    assert names.to_ours("blocks.3.cc.bias") == "layers.3.cc.bias"
    assert names.to_ours("other.3") is None


def test_safetensors_of_every_type_are_views_that_leave_the_file_alone(tmp_path) -> None:
    state = {
        "flag": torch.tensor([True]),  # puts what follows on an odd address
        "half": torch.randn(3).to(torch.bfloat16),
        "long": torch.arange(3),
        "none": torch.zeros(0, 4),
        "scalar": torch.tensor(2.0),
        "small": torch.tensor([3], dtype=torch.int8),
        "weight": torch.randn(2, 3),
    }
    save_file(state, tmp_path / "w.safetensors")
    read = read_checkpoint(tmp_path / "w.safetensors")
    assert read.keys() == state.keys()
    for key, value in state.items():
        assert read[key].dtype == value.dtype and torch.equal(read[key], value), key
    assert read["weight"].untyped_storage().nbytes() == 24  # a copy of one takes no more
    read["weight"].zero_()
    again = read_checkpoint(tmp_path / "w.safetensors")
    assert torch.equal(again["weight"], state["weight"])
