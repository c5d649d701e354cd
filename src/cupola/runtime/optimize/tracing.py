"""Traces a network with torch.export in a forked process, which can be stopped.

torch can take minutes over a network whose sizes are not fixed, in one call that nothing ends. A
fork has the network already and need not load it. Where CUDA is in use a fork could not compute, so
there the network is traced by the caller, without a limit.
"""

import ctypes
import os
import select
import signal
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import torch

from cupola.runtime.optimize.network import Call, EngineUnavailableError, Traced

Axes = tuple[dict[int, str], ...]
CANNOT = "torch cannot trace this network"
# Seconds of the processor after which tracing with sizes that are not fixed is given up for good.
ANY_SIZE = 120.0
SHARE = 0.5  # of the time that it may take, since a graph of fixed sizes may be built instead
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG


class TracingTimeoutError(Exception):
    """Tracing with fixed sizes takes more time than there is."""


def trace(traced: Traced, call: Call, axes: Axes, out: Path, seconds: float, nice: int = 0) -> None:
    """Writes the program of a network, whose `axes` may have any size, as `out`.

    The fork's priority is lower by `nice`. EngineUnavailableError if torch cannot trace it, or
    takes too long over sizes that are not fixed; TracingTimeoutError if `seconds` are too few for
    fixed ones.
    """
    if any(each.is_cuda for each in call.tensors):
        write_program(traced, call, axes, out)
        return
    limit = SHARE * seconds if any(axes) else seconds
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads: the child computes with one
        child = os.fork()
    if child == 0:
        os.nice(nice)
        _trace_and_exit(traced, call, axes, out, writing)
    os.close(writing)
    try:
        message = _message(reading, limit)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
        raise EngineUnavailableError(f"{CANNOT} with any size within {ANY_SIZE:.0f} s")
    if message is None and any(axes):
        raise EngineUnavailableError(f"not traced with any size within {limit:.0f} s")
    if message is None:
        raise TracingTimeoutError
    if message != "done":
        ended = f"not traced: ended by signal {os.WTERMSIG(status)}"
        raise EngineUnavailableError(message or ended)


def _message(reading: int, seconds: float) -> str | None:
    """What the child writes before it ends; None if it takes longer."""
    end, found = time.monotonic() + seconds, b""
    while True:
        if not select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        more = os.read(reading, 4096)
        if not more:
            return found.decode("utf-8", "replace")
        found += more


def _trace_and_exit(traced: Traced, call: Call, axes: Axes, out: Path, writing: int) -> NoReturn:
    """The child: holds no file or socket of its parent but the pipe, and dies with it."""
    code = 1
    try:
        os.dup2(writing, 3)
        os.closerange(4, 1 << 16)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(DIE_WITH_PARENT, signal.SIGKILL)
        if any(axes):  # the default action of SIGPROF ends the process
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, ANY_SIZE)
        torch.set_num_threads(1)  # the threads of the parent are not here
        message = "done"
        try:
            write_program(traced, call, axes, out)
        except EngineUnavailableError as error:
            message = str(error)
        os.write(3, message.encode())
        code = 0
    finally:
        os._exit(code)


def write_program(traced: Traced, call: Call, axes: Axes, out: Path) -> None:
    """Traces a network in this process; EngineUnavailableError if torch cannot.

    Compiled code reads its inputs with the strides that they had here: those of contiguous tensors.
    """
    from torch.export import Dim

    example, shapes = tuple(each.contiguous() for each in call.tensors), None
    if any(axes):
        example = tuple(torch.cat([each, each]) if 0 in named else each
                        for each, named in zip(example, axes, strict=True))  # fmt: skip
        shapes = (tuple(dict.fromkeys(each, Dim.DYNAMIC) for each in axes),)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of weights that are views, which are saved whole
            torch.export.save(torch.export.export(traced, example, dynamic_shapes=shapes), out)
    except Exception as error:  # torch raises errors of many kinds here
        raise EngineUnavailableError(f"{CANNOT}: {short(error)}") from None


def short(error: BaseException) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
