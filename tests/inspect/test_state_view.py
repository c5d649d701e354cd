"""State, hooks and origins of the tensors of a model."""

from pathlib import Path

import torch
from safetensors.torch import save_file

import cupola
from cupola import nn
from cupola.inspect import describe
from cupola.inspect.state_view import hooks, states
from cupola.parallel import RowParallelLinear, VocabParallelEmbedding
from cupola.weights.origins import origins


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.word = VocabParallelEmbedding(10, 4)
        self.out = RowParallelLinear(4, 6)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.word.weight
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("grid", torch.zeros(2), persistent=False)
        self.out.bias.requires_grad_(False)


def test_kinds_ties_and_splits() -> None:
    found = states(Tied())
    assert found[""] == [
        {"name": "grid", "kind": "buffer, not saved", "shape": "2", "dtype": "float32"}
    ]
    (word,) = found["word"]
    assert (word["split"], word["whole"], word["sizes"]) == (0, 10, [10, 4])
    assert found["head"][0]["tied"] == "word.weight" and "tied" not in word
    weight, bias = found["out"]
    assert weight["split"] == 1 and "split" not in bias and bias["frozen"]
    kinds = {row["name"]: row["kind"] for row in found["norm"]}
    assert kinds["running_mean"] == "buffer" and kinds["weight"] == "parameter"
    assert "from" not in word


def test_states_of_a_torch_module() -> None:
    found = states(torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3)))
    assert [row["name"] for row in found["0"]] == ["weight", "bias"]
    assert {row["kind"] for row in found["1"]} == {"parameter", "buffer"}


def test_hooks_are_counted_after_the_pass_removed_its_own() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].register_forward_hook(lambda *_: None)
    description = describe(model, (2,))
    assert description.node("0").hooks == ["after forward: 1"]
    assert description.root.hooks == hooks(torch.nn.Linear(1, 1)) == []


def test_origins_by_memory() -> None:
    whole = torch.arange(12.0).view(6, 2)
    checkpoint = {"in_proj": whole, "plain": torch.ones(3), "empty": torch.ones(0)}
    ours = {
        "q": whole[:3],
        "k": whole[3:],
        "same": checkpoint["plain"],
        "sum": whole[:3] + 1,
        "empty": checkpoint["empty"],
    }
    expected = {"q": "in_proj", "k": "in_proj", "same": "plain", "empty": "empty"}
    assert origins(checkpoint, ours) == expected


def test_a_load_says_which_key_went_where(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(2, 3))
    save_file(
        {"module.0.weight": torch.ones(3, 2), "module.0.bias": torch.ones(3)},
        tmp_path / "w.safetensors",
    )
    report = cupola.load_weights(model, tmp_path / "w.safetensors")
    assert report.origins == {"0.weight": "module.0.weight", "0.bias": "module.0.bias"}
    rows = describe(model, origins=report.origins).node("0").state
    assert [row["from"] for row in rows] == ["module.0.weight", "module.0.bias"]
