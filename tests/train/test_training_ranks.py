"""BLOOM trained by data x tensor ranks under torchrun: the same curve for every layout."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cupola.data.text import write_packed
from cupola.train.recipe import train_recipe

CONFIG = """
model = dict(type="BloomForCausalLM", vocab_size=300, hidden_size=16, n_layer=2, n_head=4)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(type="PackedText", folder="{folder}", split="train", length=12),
)
val_dataloader = dict(
    batch_size=4, dataset=dict(type="PackedText", folder="{folder}", split="val", length=12)
)
val_evaluator = dict(type="Perplexity")
optim_wrapper = dict(
    optimizer=dict(type="AdamW", lr=3e-3), clip_grad=dict(max_norm=0.5)
)
train_cfg = dict(max_iters={steps}, val_interval={steps})
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=10))
randomness = dict(seed=0)
"""


def write_config(folder: Path, steps: int) -> Path:
    texts = [f"{n} pigs and {n * n % 97} geese went to {n % 13} markets." for n in range(120)]
    write_packed(texts, folder / "text", 300)
    path = folder / "tiny.py"
    path.write_text(CONFIG.format(folder=folder / "text", steps=steps))
    return path


def curve(folder: Path) -> tuple[list[float], float]:
    entries = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    losses = [entry["loss"] for entry in entries if entry["kind"] == "train"]
    (perplexity,) = [e["perplexity"] for e in entries if e["kind"] == "val"]
    return losses, perplexity


def torchrun(config: Path, data: int, tensor: int, work_dir: Path, *more: str) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={data * tensor}", "-m", "cupola", "train", str(config)]
    command += ["--quiet", "--work-dir", str(work_dir), "--set", f"parallel.tensor={tensor}"]
    command += ["--set", f"train_dataloader.batch_size={4 // data}", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]


def test_one_process_learns(tmp_path: Path) -> None:
    config = write_config(tmp_path, 20)
    train_recipe(str(config), work_dir=tmp_path / "run", quiet=True)
    losses, perplexity = curve(tmp_path / "run")
    assert losses[-1] < losses[0] - 0.5
    assert perplexity < 300


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.parametrize(("data", "tensor"), [(2, 1), (1, 2), (2, 2)])
def test_every_layout_has_the_same_curve(tmp_path: Path, data: int, tensor: int) -> None:
    config = write_config(tmp_path, 50)
    train_recipe(str(config), work_dir=tmp_path / "one", quiet=True)
    torchrun(config, data, tensor, tmp_path / "many")
    (one, one_end), (many, many_end) = curve(tmp_path / "one"), curve(tmp_path / "many")
    assert len(one) == len(many) == 50
    apart = max(abs(a - b) for a, b in zip(one, many, strict=True))
    assert apart < 1e-5, apart
    assert many_end == pytest.approx(one_end, rel=1e-4)
    if tensor == 2:
        parts = [torch.load(tmp_path / f"many/latest-{r}-of-2.pth")["model"] for r in range(2)]
        whole = torch.load(tmp_path / "one/latest.pth")["model"]
        key = "transformer.blocks.1.attention.query_key_value.weight"
        assert torch.allclose(torch.cat([p[key] for p in parts]), whole[key], atol=1e-4)
