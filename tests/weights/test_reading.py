"""Checkpoints are data: nothing in them runs, and what is wrong with them is said."""

import argparse
import collections
import datetime
import functools
import os
import pathlib
import pickle
import subprocess
import sys
import zipfile
from collections import OrderedDict

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


def test_the_only_dict_of_tensors_is_the_state_whatever_its_name(tmp_path) -> None:
    state = {"w": torch.ones(2)}
    torch.save({"net": state, "step": 3}, tmp_path / "c.pth")
    assert list(read_checkpoint(tmp_path / "c.pth")) == ["w"]
    torch.save({"generator": state, "critic": state}, tmp_path / "two.pth")
    with pytest.raises(CheckpointError, match="contains no state dict"):
        read_checkpoint(tmp_path / "two.pth")


def test_a_file_whose_end_is_missing_is_named_as_such(tmp_path) -> None:
    torch.save({"w": torch.ones(1000)}, tmp_path / "whole.pth")
    (tmp_path / "c.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:3000])
    with pytest.raises(CheckpointError, match="the end of the file is missing; download"):
        read_checkpoint(tmp_path / "c.pth")


def test_tolerates_what_frameworks_leave_beside_the_tensors(tmp_path) -> None:
    state = collections.OrderedDict(w=torch.ones(2))
    extra = {"args": argparse.Namespace(lr=0.1), "best": np.float64(0.3), "log": np.arange(3)}
    torch.save({"state_dict": state, "message_hub": extra}, tmp_path / "c.pth")
    assert list(read_checkpoint(tmp_path / "c.pth")) == ["w"]


@pytest.mark.parametrize("zipped", [True, False])
def test_calls_in_a_pickle_become_placeholders(tmp_path, zipped) -> None:
    content = {"state_dict": {"w": torch.ones(1)}, "x": Evil()}
    torch.save(content, tmp_path / "c.pth", _use_new_zipfile_serialization=zipped)
    assert read_checkpoint(tmp_path / "c.pth")["w"].tolist() == [1]
    (tmp_path / "raw.pkl").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(CheckpointError, match="contains no state dict"):
        read_checkpoint(tmp_path / "raw.pkl")
    assert not os.path.exists("/tmp/cupola-was-here")


class HistoryBuffer:
    """Pickles as mmengine's does: by way of builtins.getattr."""

    def __init__(self) -> None:
        self.values = np.arange(3.0)
        self.statistics = {"mean": self.mean}

    def mean(self) -> float:
        return float(self.values.mean())


def test_training_tools_objects_are_left_aside(tmp_path) -> None:
    extra = {
        "log": HistoryBuffer(),
        "date": datetime.datetime(2024, 1, 1),
        "counts": collections.defaultdict(list, {"a": [1]}),
        "function": functools.partial(int, base=2),
        "path": pathlib.PurePosixPath("a/b"),
        "dtype": np.dtype([("a", "f8")]),
        "slice": slice(1, 2),
        "class": HistoryBuffer,
        "buffer": bytearray(b"xy"),
    }
    torch.save({"state_dict": {"w": torch.ones(2)}, "meta": extra, "opt": [extra]}, tmp_path / "c")
    assert list(read_checkpoint(tmp_path / "c")) == ["w"]


TENSORS = {
    "plain": torch.randn(3, 4),
    "transposed": torch.randn(3, 4).t(),
    "slice": torch.randn(10)[2:8:2],
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 5),
    "expanded": torch.arange(3.0).expand(2, 3),
    "parameter": torch.nn.Parameter(torch.randn(2)),
    "bfloat16": torch.randn(3).to(torch.bfloat16),
    "bool": torch.tensor([True, False]),
    "complex": torch.randn(2, dtype=torch.complex64),
    "float8": torch.randn(4).to(torch.float8_e4m3fn),
    "uint16": torch.arange(3).to(torch.uint16),
}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_tensors_equal_those_of_torch(tmp_path, zipped, protocol) -> None:
    recent = () if zipped else ("float8", "uint16")  # types that the older format does not know
    tensors = {key: value for key, value in TENSORS.items() if key not in recent}
    path = tmp_path / "c.pth"
    torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    for key, value in torch.load(path, weights_only=False).items():
        assert read[key].dtype == value.dtype and read[key].stride() == value.stride(), key
        assert read[key].tolist() == value.tolist(), key
    shared = torch.ones(4)
    torch.save({"a": shared, "b": shared[:2]}, path, _use_new_zipfile_serialization=zipped)
    read = read_checkpoint(path)
    assert read["a"].untyped_storage().data_ptr() == read["b"].untyped_storage().data_ptr()


@pytest.mark.parametrize("zipped", [True, False])
def test_reading_does_not_hang_after_parallel_work(tmp_path, zipped) -> None:
    """OpenMP's threads do not survive a fork: the child that tries a pickle must not need them."""
    code = (
        "import sys, torch\n"
        "from cupola.weights import read_checkpoint\n"
        "torch.set_num_threads(2)\n"
        "torch.randn(5_000_000).exp().sum()\n"
        f"state = {{'w': torch.randn(3_000_000), 'odd': torch.arange(9).byte()}}\n"
        f"torch.save(state, sys.argv[1], _use_new_zipfile_serialization={zipped})\n"
        "assert torch.equal(read_checkpoint(sys.argv[1])['w'], state['w'])\n"
    )
    arguments = [sys.executable, "-c", code, str(tmp_path / "c.pth")]
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    subprocess.run(arguments, check=True, timeout=60, env=environment)


def test_arrays_of_a_plain_pickle_are_tensors(tmp_path) -> None:
    content = {"model": {"w": np.arange(3.0, dtype=">f4")}, "__author__": "Caffe2"}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    assert read_checkpoint(tmp_path / "model.pkl")["w"].tolist() == [0, 1, 2]


def test_sparse_tensors_are_named(tmp_path) -> None:
    torch.save({"a": torch.ones(1), "s": torch.eye(2).to_sparse()}, tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match=r"c\.pth: s is sparse"):
        read_checkpoint(tmp_path / "c.pth")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"\xef\xbb\xbf<!-- error --><head>", "web page"),
        (b"Entry not found", r"a text file \('entry not found'\)"),
        (b" \n", "the file is empty"),
        (b'{"error": "not found"}', "error message of a server"),
        (b"", "empty"),
        (b"\x1f\x8b\x08\x00abc", "compressed"),
    ],
)
@pytest.mark.parametrize("name", ["c.pth", "c.safetensors", "c.mdlus"])
def test_what_is_no_checkpoint_is_recognized(tmp_path, name, content, said) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name}: .*{said}") as caught:
        read_checkpoint(tmp_path / name)
    assert "weights_only" not in str(caught.value) and "\n" not in str(caught.value)


def test_the_content_decides_not_the_suffix(tmp_path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "w.bin")
    assert list(read_checkpoint(tmp_path / "w.bin")) == ["w"]
    torch.save({"w": torch.ones(2)}, tmp_path / "w.ckpt")
    assert list(read_checkpoint(tmp_path / "w.ckpt")) == ["w"]


def rewritten(source, target, change) -> None:
    """An archive with its pickle changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, change(data) if name.endswith("data.pkl") else data)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"K\x04", b"K\x7f"),  # a size beyond the storage
        (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),  # a storage that is not there
        (b"FloatStorage", b"FlatXStorage"),
        (b"torch._utils\n_rebuild_tensor_v2", b"torch._utils\n_rebuild_tensor_vX"),
    ],
)
def test_lying_archives_are_one_error(tmp_path, old, new) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "good.pth")

    def change(data: bytes) -> bytes:
        assert old in data
        return data.replace(old, new)

    rewritten(tmp_path / "good.pth", tmp_path / "bad.pth", change)
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        read_checkpoint(tmp_path / "bad.pth")


def test_a_pickle_cannot_alter_the_reader(tmp_path) -> None:
    """BUILD with slot state sets attributes of any object that the pickle can reach."""
    torch.save({"w": torch.ones(4)}, tmp_path / "good.pth")
    for name in (b"torch._utils\n_rebuild_tensor_v2", b"torch\nSize"):
        attack = b"\x80\x02c" + name + b"\nN}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xs\x86b."
        rewritten(tmp_path / "good.pth", tmp_path / "bad.pth", lambda _, a=attack: a)
        with pytest.raises(CheckpointError, match="alters"):
            read_checkpoint(tmp_path / "bad.pth")
    assert read_checkpoint(tmp_path / "good.pth")["w"].sum() == 4


TENSOR = b"X\x01\x00\x00\x00w"  # what the pickle of {"w": tensor} has as its key
ITEMS = b"}X\x05\x00\x00\x00itemsK\x05sb"
DOUBLED = b"]" + b"".join(bytes([113, i, 48, 93, 40, 104, i, 104, i, 101]) for i in range(99, 139))
LONG_NUMBER = b"\x8b" + (3000).to_bytes(4, "little") + b"\x01" * 3000


def test_values_that_refer_to_each_other_are_read_once(tmp_path) -> None:
    torch.save({"w": torch.ones(4)}, tmp_path / "good.pth")
    for more in (DOUBLED, b"]q\x63h\x63a", b"h\x00"):

        def change(data: bytes, more: bytes = more) -> bytes:
            assert data.count(TENSOR) == 1
            return data.replace(TENSOR, b"X\x01\x00\x00\x00x" + more + b"s" + TENSOR)

        rewritten(tmp_path / "good.pth", tmp_path / "odd.pth", change)
        assert list(read_checkpoint(tmp_path / "odd.pth")) == ["w"]


@pytest.mark.parametrize("key", [LONG_NUMBER, b"X\x05\x00\x00\x00modelh\x00s" + TENSOR])
def test_odd_keys_are_one_error_or_none(tmp_path, key) -> None:
    """A key of thousands of digits, and a dict that is its own state dict."""
    torch.save({"w": torch.ones(4)}, tmp_path / "good.pth")
    rewritten(tmp_path / "good.pth", tmp_path / "odd.pth", lambda data: data.replace(TENSOR, key))
    try:
        assert list(read_checkpoint(tmp_path / "odd.pth")) == ["w"]
    except CheckpointError as error:
        assert "digits" in str(error)


def test_methods_that_a_pickle_hides_are_there(tmp_path) -> None:
    torch.save(OrderedDict(w=torch.ones(4)), tmp_path / "good.pth")
    rewritten(tmp_path / "good.pth", tmp_path / "odd.pth", lambda data: data[:-1] + ITEMS + b".")
    assert list(read_checkpoint(tmp_path / "odd.pth")) == ["w"]


@pytest.mark.parametrize("packing", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compression_without_bounds_is_refused(tmp_path, packing) -> None:
    with zipfile.ZipFile(tmp_path / "c.pth", "w", packing) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
    with pytest.raises(CheckpointError, match="compressed in a way that has no bounds"):
        read_checkpoint(tmp_path / "c.pth")


def test_damaged_compression_is_one_error(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps("x" * 100))
    data = bytearray((tmp_path / "c.pth").read_bytes())
    data[42:46] = b"\xff" * 4
    (tmp_path / "c.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"c\.pth"):
        read_checkpoint(tmp_path / "c.pth")


def test_archives_that_claim_more_than_they_hold(tmp_path) -> None:
    with zipfile.ZipFile(tmp_path / "c.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}))
        archive.writestr("a/data/0", b"\0" * 50_000_000)
    with pytest.raises(CheckpointError, match="claim 5000"):
        read_checkpoint(tmp_path / "c.pth")


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
