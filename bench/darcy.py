"""Darcy flow on neuraloperator's data: Cupola's AFNO and FNO, and neuraloperator's FNO.

pip install --no-deps --target FOLDER neuraloperator==0.3.0 tensorly tensorly-torch opt-einsum
python bench/darcy.py --peer FOLDER [--epochs 25] [--seeds 3] [--threads 1] [--only NAME]

The wheel of that version contains the data: 1000 samples of 16 x 16 to train, 50 of 16 x 16 and 50
of 32 x 32 to test. All models have the same epochs, batches, optimizer, schedule and loss.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.models.afno import FNO, AFNONet
from cupola.structures.grids import relative_l2
from peers import peer_folder

ABSENT = ("wandb", "configmypy", "ruamel", "torch_harmonics")
Pair = tuple[Tensor, Tensor]
BATCH, RATE = 20, 2e-3


def load(folder: Path, name: str) -> Pair:
    """(permeability -1 or 1, pressure), each [N, 1, H, W]."""
    data = torch.load(folder / f"neuralop/datasets/data/{name}.pt", weights_only=True)
    return data["x"].float()[:, None] * 2 - 1, data["y"][:, None]


def our_afno() -> Any:
    return AFNONet(
        img_size=16,
        patch_size=2,
        in_chans=1,
        out_chans=1,
        embed_dim=96,
        depth=4,
        num_blocks=4,
        modes="lowpass",
        sparsity_threshold=0.0,
        init_std=0.1,
        any_grid=True,
    )


def our_fno() -> Any:
    return FNO(modes=8, width=32, depth=4)


class WithCoordinates(torch.nn.Module):
    """Appends coordinates, 0 to 1, to the field: a model of [N, 3, H, W].

    The peer's data loader does it too; without coordinates the model cannot know the boundaries.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        rows = torch.arange(height).div(height)[:, None].expand(height, width)
        columns = torch.arange(width).div(width)[None, :].expand(height, width)
        coordinates = torch.stack([rows, columns]).expand(len(x), -1, -1, -1)
        return self.model(torch.cat([x, coordinates], 1))


def peer_fno() -> Any:
    from neuralop import models

    size = {"hidden_channels": 32, "in_channels": 3, "projection_channels": 128}
    return WithCoordinates(models.FNO(n_modes=(16, 16), **size))


def train(model: Any, data: Pair, epochs: int, scale: Pair) -> None:
    """Adam, cosine schedule, relative L2 in physical units."""
    (x, y), (mean, std) = data, scale
    optimizer = torch.optim.AdamW(list(model.parameters()), lr=RATE, weight_decay=1e-4)
    batches = math.ceil(len(x) / BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(x)).split(BATCH):
            loss = relative_l2(model(x[chosen]) * std + mean, y[chosen]).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()


@torch.no_grad()
def error(predict: Callable[[Tensor], Tensor], data: Pair, scale: Pair) -> float:
    """Mean relative L2."""
    mean, std = scale
    return float(relative_l2(predict(data[0]) * std + mean, data[1]).mean())


def on_trained_grid(model: Any) -> Callable[[Tensor], Tensor]:
    """Predicts on every other point and interpolates: the baseline for the finer grid."""

    def predict(x: Tensor) -> Tensor:
        coarse = model(x[..., ::2, ::2])
        return F.interpolate(coarse, size=x.shape[-2:], mode="bicubic", align_corners=False)

    return predict


def main() -> None:
    """Prints one row for each model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", help="Train only models with this in their name.")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.simplefilter("ignore")  # the peer indexes with lists
    peer_folder(arguments.peer, ABSENT)
    data, test16, test32 = (
        load(arguments.peer, name) for name in ("darcy_train_16", "darcy_test_16", "darcy_test_32")
    )
    scale = data[1].mean(), data[1].std()
    makers = {"our AFNO": our_afno, "our FNO": our_fno, "neuraloperator FNO": peer_fno}
    print("relative L2, mean (standard deviation) over seeds")
    for name, make in makers.items():
        if arguments.only and arguments.only not in name:
            continue
        rows = []
        for seed in range(arguments.seeds):
            torch.manual_seed(seed)
            model, start = make(), time.perf_counter()
            train(model, data, arguments.epochs, scale)
            took = time.perf_counter() - start
            model.eval()
            natively = error(model, test16, scale), error(model, test32, scale)
            rows.append((*natively, error(on_trained_grid(model), test32, scale), took))
        parameters = sum(p.numel() for p in model.parameters())
        columns = list(zip(*rows, strict=True))
        means = [statistics.mean(column) for column in columns]
        spreads = [statistics.pstdev(column) for column in columns]
        print(
            f"{name:<20} {parameters:>9,} parameters   16: {means[0]:.4f} ({spreads[0]:.4f})"
            f"   32: {means[1]:.4f} ({spreads[1]:.4f})"
            f"   32 by interpolation: {means[2]:.4f} ({spreads[2]:.4f})   {means[3]:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    main()
