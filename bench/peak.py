"""The peak memory of one of several ways to compute the same, each in a process of its own."""

import ctypes
import gc
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

Ways = Callable[..., Mapping[str, Callable[[], Any]]]


def _measure(ways: Ways, arguments: tuple[Any, ...], threads: int, which: str, report: Any) -> None:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        call = ways(*arguments)[which]
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)  # what the other way's model took goes back
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is that of building
        before = _status("VmRSS")
        call()
    report.put((before, _status("VmHWM")))


def _status(name: str) -> float:
    """GB; unlike getrusage's maximum these do not include the process that started this one."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (each for each in lines if each.startswith(f"{name}:"))
    return int(line.split()[1]) / 2**20


def peak(ways: Ways, arguments: tuple[Any, ...], threads: int, which: str) -> tuple[float, float]:
    """GB of a process with one of `ways(*arguments)`, before and at the peak of calling it once."""
    context = get_context("spawn")
    report = context.Queue()
    child = context.Process(target=_measure, args=(ways, arguments, threads, which, report))
    child.start()
    found: tuple[float, float] = report.get()
    child.join()
    return found


def compare(ways: Ways, arguments: tuple[Any, ...], threads: int) -> str:
    """The peaks of "ours" and "original": of the processes, and what the call itself took."""
    (start, ours), (other_start, other) = (
        peak(ways, arguments, threads, which) for which in ("ours", "original")
    )
    own, their = ours - start, other - other_start
    return (
        f"peak {ours:.2f} GB, original {other:.2f} GB, ratio {ours / other:.2f}; "
        f"without the model {own:.2f} GB, original {their:.2f} GB, ratio {own / their:.2f}"
    )
