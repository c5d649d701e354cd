"""Bytes per second of each storage of a matrix, against the read bandwidth of the machine.

Generating one token reads every weight once, so a storage is good if it has few bytes and its
kernel reads them about as fast as the memory gives them. Shapes of BLOOM-560m, of a LLaMA with
2,048 channels and of one with 7 billion weights; the weights come from memory, since more than the
cache is read in between. Each line: bytes, GB/s with one row, milliseconds with 1, 8 and 128 rows,
difference to float32. With one thread, times are those of the processor, so that other programs
matter less.

    python bench/bandwidth.py [--threads 1 2] [--quick] [--avx2]

`--avx2` starts the script with the variables that hide AVX-512 from torch's kernels, oneDNN, MKL
and FBGEMM. Storages with "torch:" are kernels of torch that Cupola does not use: this shows why.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from cupola.parallel.eight_bits import EightBitMatrix, exact_kernels, rounded
from cupola.parallel.four_bits import GROUP, FourBitMatrix, multiplies_four_bits
from cupola.parallel.half_matrix import HalfMatrix, multiplies_half
from cupola.parallel.storage import PackedMatrix, packs
from ratio import as_avx2, kind, machine

SHAPES = {
    "BLOOM 1024 -> 3072": (3072, 1024),
    "BLOOM 1024 -> 4096": (4096, 1024),
    "BLOOM 4096 -> 1024": (1024, 4096),
    "LLaMA 2048 -> 5632": (5632, 2048),
    "LLaMA 5632 -> 2048": (2048, 5632),
    "7B 4096 -> 11008": (11008, 4096),
    "7B 11008 -> 4096": (4096, 11008),
    "BLOOM head, 1024 -> 250880": (250880, 1024),
}
QUICK = ("BLOOM 1024 -> 4096",)
ROWS = (1, 8, 128)
HEAD = 100_000  # outputs above which a prompt has one row
CACHE = 1 << 26  # bytes that are read between two products
SLOW = 0.2  # seconds after which a product is not repeated, and not tried with more rows
Product = Callable[[Tensor], Tensor]


def read_rates() -> dict[str, float]:
    """GB/s of a sum and of a matrix times a vector over half a gigabyte."""
    table = torch.ones(1 << 17, 1024)
    vector = torch.ones(1024)
    jobs = {"sum": table.sum, "matrix times vector": lambda: table @ vector}
    return {name: table.nbytes / fastest(job, 5, None) / 1e9 for name, job in jobs.items()}


def fastest(job: Callable[[], object], times: int, cache: Tensor | None) -> float:
    """Seconds of the fastest of `times` runs, each after reading `cache`."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    job()
    best = float("inf")
    for _ in range(times):
        if cache is not None:
            cache.sum()
        start = clock()
        job()
        best = min(best, clock() - start)
        if best > SLOW:
            break
    return best


def storages(weight: Tensor) -> Iterator[tuple[str, int, Product]]:
    """Name, bytes and product of each storage that runs here."""
    count = weight.numel()
    yield "float32", 4 * count, lambda x: F.linear(x, weight)
    if packs(torch.float32):
        yield "float32 packed", 4 * count, PackedMatrix(weight)
    if multiplies_half():
        yield "float16, float32 sums", 2 * count, HalfMatrix(weight.half())
    if packs(torch.bfloat16):
        bfloat16 = PackedMatrix(weight.bfloat16())
        yield "bfloat16 packed", 2 * count, lambda x: bfloat16(x.bfloat16())
    for kernel in exact_kernels():
        yield f"int8 {kernel}", count, EightBitMatrix(weight, kernel=kernel)
    yield "torch: int8pack, bfloat16", count, int8_pack(weight)
    if multiplies_four_bits():
        yield "int4, groups of 32", four_bits(count, GROUP), FourBitMatrix(weight)
    for group in (64, 128):
        yield f"torch: int4pack, groups of {group}", four_bits(count, group), int4(weight, group)
    yield "torch: dyn_quant 4 bits", count // 2, dynamic_int4(weight)


def int8_pack(weight: Tensor) -> Product:
    rows, scales = rounded(weight)
    packed, narrow = rows.to(torch.int8), scales.bfloat16()
    return lambda x: torch.ops.aten._weight_int8pack_mm(x.bfloat16(), packed, narrow)


def four_bits(count: int, group: int) -> int:
    """The bytes of so many weights in four bits, with two numbers of bfloat16 a group."""
    return count // 2 + 4 * count // group


def int4(weight: Tensor, group: int) -> Product:
    """Asymmetric 4 bits, as FourBitMatrix, with other groups."""
    groups = weight.unflatten(1, (-1, group))  # [O, groups, group]
    low, high = groups.aminmax(dim=2)
    scales = (high - low).clamp(min=1e-30) / 15
    numbers = ((groups - low[..., None]) / scales[..., None]).round().to(torch.int32).flatten(1)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(numbers, 1)
    offsets = torch.stack([scales, low + 8 * scales], -1).transpose(0, 1)  # [groups, O, 2]
    narrow = offsets.contiguous().bfloat16()
    multiply = torch.ops.aten._weight_int4pack_mm_for_cpu
    return lambda x: multiply(x.bfloat16(), packed, group, narrow)


def dynamic_int4(weight: Tensor) -> Product:
    """Symmetric 4 bits by rows; x is rounded to 8 bits by the kernel."""
    outputs, inputs = weight.shape
    scales = weight.abs().amax(1, keepdim=True) / 7
    numbers = ((weight / scales).round() + 8).to(torch.uint8)
    pairs = (numbers[:, 1::2] << 4 | numbers[:, ::2]).contiguous()
    packed = torch.ops.aten._dyn_quant_pack_4bit_weight(
        pairs, scales, None, inputs, inputs, outputs
    )
    return lambda x: torch.ops.aten._dyn_quant_matmul_4bit(x, packed, inputs, inputs, outputs)


@torch.inference_mode()
def measure(name: str, shape: tuple[int, int], times: int) -> None:
    """Prints a line for each storage of one matrix."""
    torch.manual_seed(0)
    weight, cache = torch.randn(shape) * 0.02, torch.ones(CACHE // 4)
    print(f"{name}, {torch.get_num_threads()} threads")
    for storage, size, product in storages(weight):
        found: list[str] = []
        for rows in ROWS if shape[0] < HEAD else ROWS[:2]:
            x = torch.randn(rows, shape[1])
            try:
                took = fastest(lambda p=product, x=x: p(x), times, cache)
            except RuntimeError as error:  # no kernel for this processor
                found.append(str(error).splitlines()[0][:60])
                break
            if rows == 1:
                expected = x @ weight.t()
                off = float((product(x).float() - expected).std() / expected.std())
                found.append(f"{size / took / 1e9:6.1f} GB/s  off {off:.0e} ")
            found.append(f"{took * 1e3:9.3f} ms")
            if took > SLOW:
                break
        print(f"  {storage:<32}{size / 1e6:8.1f} MB {' '.join(found)}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--quick", action="store_true", help="one shape, fewer repetitions")
    parser.add_argument("--avx2", action="store_true", help="hide AVX-512")
    options = parser.parse_args()
    if options.avx2:
        as_avx2()
    warnings.filterwarnings("ignore")
    print(f"{machine()}: {kind()}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        rates = ", ".join(f"{name} {rate:.1f} GB/s" for name, rate in read_rates().items())
        print(f"read bandwidth, {threads} threads: {rates}", flush=True)
        for name, shape in SHAPES.items():
            if not options.quick or name in QUICK:
                measure(name, shape, 3 if options.quick else 9)


if __name__ == "__main__":
    main()
