"""The peak memory of one of several ways to compute the same, each in a process of its own."""

import resource
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from typing import Any

import torch

Ways = Callable[..., Mapping[str, Callable[[], Any]]]


def _measure(ways: Ways, arguments: tuple[Any, ...], threads: int, which: str, report: Any) -> None:
    torch.set_num_threads(threads)
    with torch.inference_mode():
        ways(*arguments)[which]()
    report.put(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)


def peak(ways: Ways, arguments: tuple[Any, ...], threads: int, which: str) -> float:
    """GB of a process that builds `ways(*arguments)` and calls `which` of them once."""
    context = get_context("spawn")
    report = context.Queue()
    child = context.Process(target=_measure, args=(ways, arguments, threads, which, report))
    child.start()
    found: float = report.get()
    child.join()
    return found
