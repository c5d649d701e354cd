"""What writing a forecast costs: a rollout at 720 x 1440 with zarr written, against the steps.

    python bench/forecast.py [--steps 28] [--repeat 3] [--dim 768] [--depth 12]

Alternates rollouts that only compute with rollouts whose states are written to a zarr store, and
prints the ratio of the medians, and how much more memory 28 steps take than 4.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from cupola.data.cf import ForecastLayout, forecast_writer
from cupola.models.afno import AFNONet
from cupola.runtime.predictors.forecast import ForecastPredictor
from cupola.structures.grids import Grid
from cupola.structures.variables import FOURCASTNET_CHANNELS
from ratio import machine


def predictor_of(dim: int, depth: int) -> ForecastPredictor:
    """FourCastNet's grid and channels with random weights."""
    torch.manual_seed(0)
    model = AFNONet(embed_dim=dim, depth=depth).eval()
    ones = torch.ones(20, 1, 1)
    return ForecastPredictor(
        "bench", "1", model, {}, channels=FOURCASTNET_CHANNELS, mean=0 * ones, std=ones
    )


def rollout(predictor: ForecastPredictor, start: Any, steps: int, out: Path | None) -> float:
    """Seconds of a rollout, with every state written to `out` if it is given."""
    layout = ForecastLayout(
        predictor.channels,
        Grid.globe(720, 1440),
        start=np.datetime64("2018-01-01T00"),
        count=steps,
    )
    began = time.perf_counter()
    writer = forecast_writer(out, layout) if out else None
    for state in predictor.stream(start, steps):
        if writer:
            writer.append(state[0].numpy())
    if writer:
        writer.close()
    return time.perf_counter() - began


def peak() -> float:
    """The most memory that this process has held, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=28)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--dim", type=int, default=768)
    parser.add_argument("--depth", type=int, default=12)
    args = parser.parse_args()
    predictor = predictor_of(args.dim, args.depth)
    start = np.random.default_rng(0).normal(size=(20, 720, 1440)).astype(np.float32)
    times: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as folder:
        rollout(predictor, start, 4, Path(folder) / "warm.zarr")
        before = peak()
        for number in range(args.repeat):
            for written in (False, True):
                out = Path(folder) / f"{number}.zarr" if written else None
                times[written].append(rollout(predictor, start, args.steps, out))
    alone, written = median(times[False]), median(times[True])
    print(f"{machine()}, {torch.get_num_threads()} threads; width {args.dim}, depth {args.depth}")
    print(f"{args.steps} steps alone    {alone:7.2f} s")
    print(f"{args.steps} steps written  {written:7.2f} s   ratio {written / alone:.3f}")
    print(f"memory after 4 steps {before:.2f} GB, after {args.steps} {peak():.2f} GB")


if __name__ == "__main__":
    main()
