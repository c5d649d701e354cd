"""Resharding holds about one tensor in memory, whatever the size of the model."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from cupola.models.bloom import BloomForCausalLM

LARGEST = 20_000 * 512 * 4 / 2**20  # MiB: the words; the whole model has more than four times that
SCRIPT = """
import sys
from pathlib import Path
import torch
import cupola.models.bloom
from cupola.weights import reshard
torch.set_num_threads(1)
print("ready", flush=True)
sys.stdin.readline()
reshard(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
"""


def own_memory(pid: int) -> float:
    """Memory of a process in MiB, without the files that it has mapped."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon")), 0.0)


def growth(*arguments: object) -> float:
    """By how much memory the process grows at most while it converts, in MiB."""
    command = [sys.executable, "-c", SCRIPT, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin and process.stdout
        process.stdout.readline()
        before = peak = own_memory(process.pid)
        process.stdin.write("\n")
        process.stdin.flush()
        while process.poll() is None:
            peak = max(peak, own_memory(process.pid))
            time.sleep(0.001)
    assert process.returncode == 0
    return peak - before


@pytest.mark.slow
@pytest.mark.processes
def test_both_directions_hold_about_one_tensor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = BloomForCausalLM(vocab_size=20_000, hidden_size=512, n_layer=12, n_head=8)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    assert sum(value.nbytes for value in state.values()) / 2**20 > 4 * LARGEST
    save_file(state, tmp_path / "whole.safetensors")
    steps = [
        ("whole.safetensors", "two", 2, "megatron"),
        ("two", "four", 4, "cupola"),
        ("four", "one", 1, "bloom_hf"),
    ]
    for source, target, ranks, dialect in steps:
        found = growth(tmp_path / source, tmp_path / target, ranks, dialect)
        assert found < 1.5 * LARGEST + 10, (source, target, found)
