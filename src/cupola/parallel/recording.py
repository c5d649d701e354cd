"""CUDA graphs: all kernels of a computation recorded once, and launched together afterwards."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")
WARM_UP = 2  # runs before the one that is recorded, in which kernels are chosen


def is_recorded(x: Tensor) -> bool:
    """Whether the operators on this tensor are recorded now: then nothing may wait for its values.

    The CPU would have to know them, and nothing has been computed.
    """
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


def record(run: Callable[[], T], device: torch.device, pool: Any = None) -> tuple[Any, T]:
    """Runs `run` a few times and records it: the graph to replay, and its result, filled by that.

    Graphs in one `pool` use the same memory, so that the results of one are lost when another is
    replayed. RuntimeError if `run` waits for values, or copies from the CPU.
    """
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            run()
    torch.cuda.current_stream(device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = run()
    return graph, result
