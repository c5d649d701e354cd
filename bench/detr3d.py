"""DETR3D on a CPU against the original's computation: time and peak memory.

    python bench/detr3d.py [--full] [--mmcv mmcv-2.1.0] [--only-peaks] [--rounds 5]

The original's computation is bench/detr3d_original.py with the same weights. --full adds
6 x 928 x 1600 with ResNet-101 and DCN, the published size. --mmcv names the unpacked source of
mmcv 2.1.0, whose CPU kernel is then compiled and used in the original's computation; without it
the original uses Cupola's deformable convolution. A ratio below 1 means Cupola is faster.
"""

import argparse
import resource
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import cupola
from cupola.config import Config
from cupola.data.driving import camera_rig
from cupola.models.detr3d.feature_sampling import Cameras, Pyramid
from cupola.models.detr3d.references import to_meters
from cupola.ops.deform_conv import deform_conv2d
from cupola.runtime.optimize.folding import fold_batch_norms
from detr3d_original import (
    Convolution,
    convolution,
    mmcv_convolution,
    original_forward,
    sample_every_pair,
)
from ratio import alternate, seconds

CONFIG = Path(cupola.__file__).parent / "configs" / "detr3d" / "detr3d_r101_gridmask.py"
SMALL, FULL = (256, 416), (928, 1600)
RANGE = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)
WAYS = ("as built", "prepared", "original")
Size = tuple[int, int]


def rig(size: Size) -> torch.Tensor:
    """The six cameras of driving-scenes, [1, 6, 4, 4]."""
    return torch.stack([torch.from_numpy(c.lidar2img).float() for c in camera_rig(size)])[None]


def say(what: str, ours: float, peer: float, name: str) -> None:
    print(f"{what}: ours {ours:.4g} s, {name} {peer:.4g} s, ratio {ours / peer:.2f}", flush=True)


def cross_attention(size: Size, rounds: int) -> None:
    """Projection, sampling and weighting for six decoder layers, as in one forward pass."""
    levels = [
        torch.randn(1, 6, 256, -(-size[0] // stride), -(-size[1] // stride))
        for stride in (8, 16, 32, 64)
    ]
    cameras = Cameras(rig(size), torch.tensor([[float(size[0]), float(size[1])]]))
    points = [to_meters(torch.rand(1, 900, 3), RANGE) for _ in range(6)]
    weights = torch.rand(1, 6, 900, 4)
    spread = weights.permute(0, 2, 1, 3)[:, None]  # [B, 1, Q, N, L]

    def visible_pairs() -> None:
        pyramid = Pyramid(tuple(levels))
        for each in points:
            pyramid.gather(cameras.project(each), weights)

    def every_pair() -> None:
        for each in points:
            features, mask = sample_every_pair(levels, each, cameras.lidar2img, size)
            (features * (spread * mask)).sum(-1).sum(-1)

    say(f"cross-attention, six layers, {size}", *alternate(visible_pairs, every_pair, rounds),
        "every pair")  # fmt: skip


def deformable(rounds: int, mmcv: Convolution | None) -> None:
    """One DCNv2 layer of stage 3 at two sizes, forward."""
    for height, width in ((16, 26), (58, 100)):
        x, weight = torch.randn(6, 256, height, width), torch.randn(256, 256, 3, 3) * 0.02
        offset, mask = torch.randn(6, 18, height, width), torch.rand(6, 9, height, width)

        def ours(x=x, offset=offset, mask=mask, weight=weight) -> object:  # type: ignore[no-untyped-def]
            return deform_conv2d(x, offset, weight, padding=1, mask=mask)

        def plain(x=x, weight=weight) -> object:  # type: ignore[no-untyped-def]
            return F.conv2d(x, weight, padding=1)

        peers: dict[str, Callable[[], object]] = {"a plain 3 x 3 convolution": plain}
        if mmcv is not None:
            peers["mmcv"] = lambda a=(x, offset, weight, mask): mmcv(*a[:3], padding=1, mask=a[3])
        for name, peer in peers.items():
            say(f"DCNv2 [6, 256, {height}, {width}]", *alternate(ours, peer, rounds), name)


def forwards(size: Size, mmcv: Convolution | None) -> dict[str, Callable[[], object]]:
    """The whole model in eval mode in three ways, with the same random weights."""
    torch.manual_seed(0)
    model = cupola.build(Config.load(CONFIG).to_dict()["model"]).eval()
    prepared = fold_batch_norms(model)
    pixels, matrices = torch.randn(1, 6, 3, *size), rig(size)

    def original() -> object:
        with convolution(mmcv):
            return original_forward(model, pixels, matrices, size)

    return {
        "as built": lambda: model(pixels, matrices, size),
        "prepared": lambda: prepared(pixels, matrices, size),
        "original": original,
    }


def _measure(size: Size, threads: int, mmcv: Path | None, which: str, report: Any) -> None:
    """One pass in a separate process, for its peak memory."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        call = forwards(size, mmcv_convolution(mmcv) if mmcv else None)[which]
        took = seconds(call)
    report.put((took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def peaks(size: Size, threads: int, mmcv: Path | None, ways: list[str]) -> None:
    """Time of a first pass and peak memory of the process, weights included."""
    context = get_context("spawn")
    for which in ways:
        report = context.Queue()
        child = context.Process(target=_measure, args=(size, threads, mmcv, which, report))
        child.start()
        took, gigabytes = report.get()
        child.join()
        print(f"forward, 6 x {size}, {which}: {took:.2f} s, peak {gigabytes:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--mmcv", type=Path)
    parser.add_argument("--peaks", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only-peaks", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.only_peaks:
        compare(arguments)
    size = FULL if arguments.full else SMALL
    peaks(size, arguments.threads, arguments.mmcv, arguments.peaks)


def compare(arguments: argparse.Namespace) -> None:
    """The parts, and the whole model at the small size, each beside its peers."""
    mmcv = mmcv_convolution(arguments.mmcv) if arguments.mmcv else None
    with torch.inference_mode():
        for size in (SMALL, FULL) if arguments.full else (SMALL,):
            cross_attention(size, arguments.rounds)
        deformable(arguments.rounds, mmcv)
        ways = forwards(SMALL, mmcv)
        for which in ("as built", "prepared"):
            times = alternate(ways[which], ways["original"], max(1, arguments.rounds // 2))
            say(f"forward, 6 x {SMALL}, {which}", *times, "original")


if __name__ == "__main__":
    main()
