"""Times two callables in turn, so that noise on the machine hits both alike."""

import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path


def machine() -> str:
    """The processors that this process may use, and how busy the machine is, to print."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    count, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    return f"{count} x {names[0] if names else 'unknown processor'}, load {load:.1f}"


AVX2 = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own kernels
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
}


def kind() -> str:
    """The kind of processor, by the vector instructions that torch may use: AMX, AVX-512, AVX2."""
    if os.environ.get("ONEDNN_MAX_CPU_ISA") == AVX2["ONEDNN_MAX_CPU_ISA"]:
        return "AVX2, emulated by hiding AVX-512"
    flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    names = {"amx_int8": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
    return next((name for flag, name in names.items() if flag in flags), os.uname().machine)


def as_avx2() -> None:
    """Starts this script again without AVX-512; onnxruntime and OpenVINO know no such variables."""
    if any(os.environ.get(name) != value for name, value in AVX2.items()):
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **AVX2})


# The threads of a library look for more work for a while after a call (onnxruntime's for tens of
# milliseconds): without a pause they take the cores of the side whose turn is next.
SETTLING = 0.05


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def alternate(
    ours: Callable[[], object], peer: Callable[[], object], rounds: int = 7
) -> tuple[float, float]:
    """Median seconds of ours and of the peer over `rounds` alternating calls, after one of each."""
    ours(), peer()
    times: tuple[list[float], list[float]] = ([], [])
    for i in range(rounds):
        for which in (0, 1) if i % 2 == 0 else (1, 0):
            time.sleep(SETTLING)
            times[which].append(seconds((ours, peer)[which]))
    return statistics.median(times[0]), statistics.median(times[1])
