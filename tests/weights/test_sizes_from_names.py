"""Names of files and tensors are numbers of ranks and layers, which are believed if they add up."""

import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cupola.errors import CheckpointError
from cupola.weights import open_source, read_checkpoint

BLOCK = {"self_attention.dense.weight": torch.ones(2, 2)}


def write(folder: Path, *names: tuple[int, int]) -> None:
    """Shards of these layers and ranks."""
    for layer, rank in names:
        state = {"word_embeddings.weight": torch.ones(4, 2)} if layer == 1 else BLOCK
        torch.save(state, folder / f"layer_{layer:02d}-model_{rank:02d}-model_states.pt")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([(1, 30_000_000)], "layer_01-model_00-model_states.pt is missing"),
        ([(1, 0), (1, 10**40)], "layer_01-model_01-model_states.pt is missing"),
        ([(1, 0), (3, 0), (3, 1)], "layer_01-model_01-model_states.pt is missing"),
        ([(1, 0), (30_000_000, 0)], "files of the layers 01, 30000000, some are missing"),
        ([(1, 0), (3, 0), (5, 0), (7, 0)], "files of the layers 01, 03, 05, 07, some are"),
    ],
)
def test_ranks_and_layers_are_complete(
    names: list[tuple[int, int]], reason: str, tmp_path: Path
) -> None:
    write(tmp_path, *names)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=reason):
        open_source(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


def test_a_name_of_thousands_of_characters_is_no_weight(tmp_path: Path) -> None:
    state = {f"input_proj.{'9' * 5000}.weight": torch.ones(1)}
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    for path in tmp_path.iterdir():
        with pytest.raises(CheckpointError, match="a tensor's name has 5018 characters"):
            read_checkpoint(path)
