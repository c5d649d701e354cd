"""The operators of cupola.ops on a CPU against the published formulas in plain torch, float32.

    python bench/ops.py [--rounds 5] [--threads 1]

Sizes are those of an image of 800 x 1066. A ratio below 1 means ours is faster.
"""

import argparse
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.ops.deform_attn import ms_deform_attn
from ratio import alternate

SHAPES = [(100, 134), (50, 67), (25, 34), (13, 17)]
CELLS = sum(height * width for height, width in SHAPES)
Operator = Callable[..., Tensor]


def attention_by_grid_sample(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """mmcv's formula for devices without its compiled operator: grid_sample on each level."""
    B, _, M, D = value.shape
    Q = locations.shape[1]
    levels = value.split([height * width for height, width in SHAPES], 1)
    grids = 2 * locations - 1
    sampled = []
    for level, (height, width) in enumerate(SHAPES):
        maps = levels[level].flatten(2).transpose(1, 2).reshape(B * M, D, height, width)
        grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
        sampled.append(F.grid_sample(maps, grid, align_corners=False))  # [B * M, D, Q, P]
    shares = weights.transpose(1, 2).reshape(B * M, 1, Q, -1)
    out = (torch.stack(sampled, -2).flatten(-2) * shares).sum(-1)
    return out.view(B, M * D, Q).transpose(1, 2)


def attention(queries: int) -> list[Tensor]:
    """value, locations and weights of one image: 8 heads of 32 channels, 4 points a level."""
    value = torch.randn(1, CELLS, 8, 32)
    locations = torch.rand(1, queries, 8, len(SHAPES), 4, 2)
    weights = torch.rand(1, queries, 8, len(SHAPES), 4)
    return [each.requires_grad_() for each in (value, locations, weights / weights.sum())]


def compare(name: str, ours: Operator, peer: Operator, given: list[Tensor], rounds: int) -> None:
    """Prints the times of both forward, and forward with backward."""

    def training(operator: Operator) -> Callable[[], object]:
        return lambda: torch.autograd.grad(operator(*given).sum(), given)

    with torch.no_grad():
        times = alternate(lambda: ours(*given), lambda: peer(*given), rounds)
    for what, (mine, theirs) in (
        ("forward", times),
        ("forward and backward", alternate(training(ours), training(peer), rounds)),
    ):
        print(f"{name}, {what}: ours {mine:.4f} s, formula {theirs:.4f} s, "
              f"ratio {mine / theirs:.2f}", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)

    def ours(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        return ms_deform_attn(value, SHAPES, locations, weights)

    for name, queries in (("encoder", CELLS), ("decoder", 300)):
        label = f"ms_deform_attn, {name}, {queries} queries"
        compare(label, ours, attention_by_grid_sample, attention(queries), arguments.rounds)


if __name__ == "__main__":
    main()
