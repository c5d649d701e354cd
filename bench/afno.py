"""AFNO against nvidia-physicsnemo's, same weights, one run; a ratio below 1 means ours is better.

pip install --no-deps --target FOLDER nvidia-physicsnemo==2.2.2 jaxtyping wadler-lindig
python bench/afno.py --peer FOLDER [--depth 2] [--rounds 5] [--threads 1] [--device cpu] [--avx2]
    [--default-malloc]

FourCastNet's sizes: 720 x 1440, patch 8, width 768, 8 blocks. Time is the median over rounds
in which the two alternate, on a CPU with one thread that of the processor, so that other programs
matter less; memory is the peak above the level before the call. Both keep the memory that they
free, as the server's runners and `cupola forecast` do; with `--default-malloc` neither does, and
both spend time on pages that the kernel clears. "as auto": by the engine that `auto` takes on a
CPU, with the layers packed for oneDNN.
"""

import argparse
import ctypes
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola import load_weights
from cupola.models.afno import AFNONet
from cupola.models.afno.filter import AFNO2D
from cupola.runtime.optimize.fusing import fold
from cupola.runtime.optimize.memory import keep_freed_memory
from cupola.runtime.optimize.packing import pack, packs
from peers import peer_folder
from ratio import alternate, as_avx2, kind, machine

FIELD, PATCH, CHANNELS, WIDTH, BLOCKS = (720, 1440), 8, 20, 768, 8
ABSENT = (
    *("warp", "treelib", "nvtx", "s3fs", "git", "timm", "einops", "tensordict", "hydra"),
    *("omegaconf", "importlib_metadata"),
)
Job = Callable[[], Any]
CLOSE = 1e-4  # the tolerance of a forecast's step
PAYS = 0.97  # of the time in float32


def peer_model(depth: int) -> Any:
    """physicsnemo's AFNO with filter weights large enough to affect the output."""
    from physicsnemo.models.afno import AFNO

    model = AFNO(
        inp_shape=list(FIELD),
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        patch_size=[PATCH, PATCH],
        embed_dim=WIDTH,
        depth=depth,
        num_blocks=BLOCKS,
    )
    for name, parameter in model.named_parameters():
        if ".filter." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def our_model(peer: Any, depth: int, mlp_dtype: str | None = None) -> AFNONet:
    """Ours, with the peer's weights."""
    model = AFNONet(depth=depth, num_blocks=BLOCKS, final_norm=False, mlp_dtype=mlp_dtype)
    load_weights(model, dict(peer.state_dict()))
    return model


def formula(ours: AFNO2D, x: Tensor) -> Tensor:
    """The filter as the paper writes it: a two-layer network on the kept modes, part by part."""
    spectrum = torch.fft.rfft2(x, dim=(1, 2), norm="ortho")
    kept = ours.rule(x.shape[1], x.shape[2], ours.fraction)
    assert kept.keeps_all_rows(x.shape[1])
    modes = spectrum[:, :, : kept.columns].unflatten(-1, (ours.num_blocks, ours.block_size))
    real, imaginary = modes.real, modes.imag  # [B, H, K, G, S]
    for w, b, last in ((ours.w1, ours.b1, False), (ours.w2, ours.b2, True)):
        pairs = [
            [torch.einsum("...gi,gio->...go", part, w[i]) for i in (0, 1)]
            for part in (real, imaginary)
        ]
        real = pairs[0][0] - pairs[1][1] + b[0]
        imaginary = pairs[0][1] + pairs[1][0] + b[1]
        if not last:
            real, imaginary = F.relu(real), F.relu(imaginary)
    mixed = F.softshrink(torch.stack([real, imaginary], -1), ours.sparsity_threshold)
    spectrum = torch.zeros_like(spectrum)
    spectrum[:, :, : kept.columns] = torch.view_as_complex(mixed).flatten(-2)
    return torch.fft.irfft2(spectrum, s=x.shape[1:3], dim=(1, 2), norm="ortho") + x


def filter_times(rounds: int) -> tuple[float, float]:
    """Seconds of our filter and of the formula, which need no peer."""
    torch.manual_seed(0)
    ours = AFNO2D(WIDTH, BLOCKS)
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randn(1, FIELD[0] // PATCH, FIELD[1] // PATCH, WIDTH)
    with torch.inference_mode():
        off = difference(formula(ours, tokens), ours(tokens))
        assert off < 1e-4, f"our filter is not the formula's: {off:.1e}"
        return alternate(lambda: ours(tokens), lambda: formula(ours, tokens), rounds)


def seconds(job: Job, device: torch.device) -> float:
    """The time of one call."""
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    clock = time.process_time if alone else time.perf_counter
    start = clock()
    job()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def memory(job: Job, device: torch.device) -> float:
    """The peak of one call above the level before it, in MB."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        job()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # otherwise freed memory is reused unnoticed
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = status("VmRSS")
    job()
    return status("VmHWM") - before


def status(name: str) -> float:
    """A size from /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e3


def compare(name: str, theirs: Job, ours: Job, rounds: int, device: torch.device) -> float:
    """Prints one row: both medians, their ratio, and the ratio of the peaks; returns our median."""
    peaks = memory(theirs, device), memory(ours, device)  # also the warm-up
    times = [(seconds(theirs, device), seconds(ours, device)) for _ in range(rounds)]
    their, our = (statistics.median(side) for side in zip(*times, strict=True))
    print(
        f"{name:<28} {their * 1e3:9.1f} ms {our * 1e3:9.1f} ms   time x{our / their:.3f}"
        f"   memory {peaks[0]:7.0f} MB {peaks[1]:7.0f} MB x{peaks[1] / max(peaks[0], 1e-9):.3f}",
        flush=True,
    )
    return our


def as_auto(model: AFNONet, device: torch.device) -> AFNONet:
    """A copy of a model as the engine `folded` executes it, which `auto` takes on a CPU."""
    if device.type != "cpu" or not packs():
        return model
    packed: AFNONet = pack(fold(model, pack=True))
    return packed


def relative_l2(theirs: Tensor, ours: Tensor) -> float:
    """The norm of the difference over that of theirs."""
    return ((theirs - ours).norm() / theirs.norm()).item()


def verdict(narrow: float, wide: float, off: float) -> str:
    """Whether the MLP in bfloat16 is worth its rounding, from seconds and relative L2."""
    ratio = f"bfloat16 MLP: {narrow / wide:.2f} of the time of float32, relative L2 {off:.1e}"
    if off > CLOSE:
        return f"{ratio}: refused, since a step may differ by {CLOSE:.0e}"
    return f"{ratio}: {'pays' if narrow < PAYS * wide else 'refused, since it is not faster'}"


def difference(theirs: Tensor, ours: Tensor) -> float:
    """Largest difference over the largest value."""
    return ((theirs - ours).abs().max() / theirs.abs().max()).item()


def training_step(model: Any, x: Tensor) -> Job:
    """Forward and backward; the gradients are discarded."""

    def job() -> None:
        model(x).square().mean().backward()
        model.zero_grad(set_to_none=True)

    return job


def main() -> None:
    """Runs all rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--default-malloc", action="store_true", help="return freed memory")
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512 from torch")
    arguments = parser.parse_args()
    if arguments.avx2:
        as_avx2()
    torch.set_num_threads(arguments.threads)
    kept = not arguments.default_malloc and keep_freed_memory()
    peer_folder(arguments.peer, ABSENT)
    print(
        f"{machine()}: {kind()}, {arguments.threads} threads, depth {arguments.depth}, "
        f"freed memory {'kept' if kept else 'returned to the system'}"
    )
    run(arguments.depth, arguments.rounds, torch.device(arguments.device))


def run(depth: int, rounds: int, device: torch.device) -> None:
    """Prints the rows for one depth."""
    torch.manual_seed(0)
    peer = peer_model(depth).to(device).eval()
    ours, narrow = (our_model(peer, depth, d).to(device).eval() for d in (None, "bfloat16"))
    tokens = torch.randn(1, FIELD[0] // PATCH, FIELD[1] // PATCH, WIDTH, device=device)
    field = torch.randn(1, CHANNELS, *FIELD, device=device)
    their_block, our_block = peer.blocks[0], ours.blocks[0]
    with torch.inference_mode():
        for name, theirs, our in (
            ("filter", their_block.filter, our_block.filter),
            ("MLP", their_block.mlp, our_block.mlp),
            ("block", their_block, our_block),
        ):
            print(f"{name}: relative difference {difference(theirs(tokens), our(tokens)):.1e}")
            compare(name, lambda f=theirs: f(tokens), lambda f=our: f(tokens), rounds, device)
        steps = {
            "step, float32": ours,
            "step, float32, as auto": as_auto(ours, device),
            "step, bfloat16 MLP": narrow,
        }
        times = {}
        for name, model in steps.items():
            print(f"{name}: relative difference {difference(peer(field), model(field)):.1e}")
            row = (lambda: peer(field), lambda m=model: m(field))
            times[name] = compare(name, *row, rounds, device)
        narrow_time, wide_time = times["step, bfloat16 MLP"], times["step, float32, as auto"]
        print(verdict(narrow_time, wide_time, relative_l2(peer(field), narrow(field))))
    compare(
        f"training step, depth {depth}",
        training_step(peer.train(), field),
        training_step(ours.train(), field),
        max(2, rounds // 2),
        device,
    )


if __name__ == "__main__":
    main()
