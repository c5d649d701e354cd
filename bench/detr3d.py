"""DETR3D on one CPU: cross-attention, whole forward and DCNv2, in seconds and in peak memory.

    python bench/detr3d.py [--full] [--rounds 5] [--threads 1]

The cross-attention is timed against the original's way, which samples every (camera, query) pair;
DCNv2 against torchvision's where it is installed, and against a plain 3 x 3 convolution. --full
adds the forward pass at 6 x 928 x 1600 with ResNet-101 and DCN. A ratio below 1 is ours faster.
"""

import argparse
import resource
from collections.abc import Callable
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

import cupola
from cupola.config import Config
from cupola.data.driving import camera_rig
from cupola.models.backbones.dcn import modulated_deform_conv2d
from cupola.models.detr3d.references import to_metres
from cupola.models.detr3d.sampling import Cameras, Pyramid, gather_dense
from ratio import alternate

CONFIG = Path(cupola.__file__).parent / "configs" / "detr3d" / "detr3d_r101_gridmask.py"
SMALL, FULL = (256, 416), (928, 1600)
RANGE = (-51.2, -51.2, -5.0, 51.2, 51.2, 3.0)


def cameras(size: tuple[int, int]) -> Cameras:
    matrices = [torch.from_numpy(camera.lidar2img).float() for camera in camera_rig(size)]
    return Cameras(torch.stack(matrices)[None], torch.tensor([[float(size[0]), float(size[1])]]))


def pyramid(size: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    return tuple(
        torch.randn(1, 6, 256, -(-size[0] // stride), -(-size[1] // stride))
        for stride in (8, 16, 32, 64)
    )


def cross_attention(size: tuple[int, int], rounds: int) -> None:
    """Sampling and weighing for six decoder layers, as one forward pass does them."""
    levels, rig = pyramid(size), cameras(size)
    projections = [rig.project(to_metres(torch.rand(1, 900, 3), RANGE)) for _ in range(6)]
    weights = torch.rand(1, 6, 900, 4)

    def ours() -> None:
        features = Pyramid(levels)
        for projection in projections:
            features.gather(projection, weights)

    def every_pair() -> None:
        for projection in projections:
            gather_dense(levels, projection, weights)

    a, b = alternate(ours, every_pair, rounds)
    print(
        f"cross-attention {size}: visible pairs {a:.3f} s, all pairs {b:.3f} s, ratio {a / b:.2f}"
    )


def deformable(rounds: int) -> None:
    """One DCNv2 layer of stage 3 at 6 x 256 x 416, forward."""
    x, weight = torch.randn(6, 256, 16, 26), torch.randn(256, 256, 3, 3) * 0.02
    offset, mask = torch.randn(6, 18, 16, 26), torch.rand(6, 9, 16, 26)

    def ours() -> None:
        modulated_deform_conv2d(x, offset, mask, weight, padding=1)

    peers: dict[str, Callable[[], object]] = {
        "a plain 3 x 3 convolution": lambda: F.conv2d(x, weight, padding=1)
    }
    if find_spec("torchvision"):
        from torchvision.ops import deform_conv2d

        peers["torchvision"] = lambda: deform_conv2d(x, offset, weight, padding=1, mask=mask)
    for name, peer in peers.items():
        a, b = alternate(ours, peer, rounds)
        print(f"DCNv2 [6, 256, 16, 26]: {a:.4f} s, {name} {b:.4f} s, ratio {a / b:.2f}")


def _forward(size: tuple[int, int], threads: int, report: Any) -> None:
    """One pass of ResNet-101 with DCN in a process of its own, for its peak memory."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = cupola.build(Config.load(CONFIG).to_dict()["model"]).eval()
    pixels, rig = torch.randn(1, 6, 3, *size), cameras(size)
    from time import perf_counter

    with torch.inference_mode():
        start = perf_counter()
        model(pixels, rig.lidar2img, size)
        seconds = perf_counter() - start
    report.put((seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def forward(size: tuple[int, int], threads: int) -> None:
    context = get_context("spawn")
    report = context.Queue()
    process = context.Process(target=_forward, args=(size, threads, report))
    process.start()
    seconds, gigabytes = report.get()
    process.join()
    print(f"forward R101 + DCN, 6 x {size}: {seconds:.2f} s, peak {gigabytes:.2f} GB (limit 16)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        for size in (SMALL, FULL) if arguments.full else (SMALL,):
            cross_attention(size, arguments.rounds)
        deformable(arguments.rounds)
    forward(SMALL, arguments.threads)
    if arguments.full:
        forward(FULL, arguments.threads)


if __name__ == "__main__":
    main()
