"""Builds a graph in a process of its own, which can be stopped and cannot harm the caller.

The caller traces the network with torch.export; the child writes the graph. What it writes gets its
name when it is complete, so that a half-written graph is never opened.
"""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cupola.runtime.optimize.network import Call, EngineUnavailableError, Traced

# How errors begin that another try would not mend.
FAILED = ("cannot be built", "torch cannot trace this network")
LEAST_SECONDS = 2.0  # for importing torch; with less time left nothing is begun
Axes = tuple[dict[int, str], ...]


def build(kind: str, traced: Traced, call: Call, axes: Axes, out: Path, seconds: float) -> None:
    """Writes the graph of a traced network as `out`, of a kind that `build_graph` knows.

    `axes` are the dynamic axes of each input; without any the sizes are those of the call.
    EngineUnavailableError if it cannot be built within `seconds`.
    """
    if seconds < LEAST_SECONDS:
        raise EngineUnavailableError("not built: no time left")
    program = out.with_name(f".{out.stem}.{os.getpid()}.pt2")
    part = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    try:
        _trace(traced, call, axes, program)
        arguments = [kind, str(program), str(part), str(torch.get_num_threads())]
        _run(arguments, seconds)
        part.replace(out)
    except OSError as error:
        raise EngineUnavailableError(f"not built: {error}") from None
    finally:
        for left in (program, part):
            left.unlink(missing_ok=True)


def _trace(traced: Traced, call: Call, axes: Axes, out: Path) -> None:
    from torch.export import Dim

    example, shapes = call.tensors, None
    if any(axes):
        example = tuple(torch.cat([each, each]) if 0 in named else each
                        for each, named in zip(example, axes, strict=True))  # fmt: skip
        shapes = (tuple(dict.fromkeys(each, Dim.DYNAMIC) for each in axes),)
    try:
        with torch.no_grad():
            torch.export.save(torch.export.export(traced, example, dynamic_shapes=shapes), out)
    except Exception as error:  # torch raises errors of many kinds here
        raise EngineUnavailableError(f"{FAILED[1]}: {short(error)}") from None


def _run(arguments: Sequence[str], seconds: float) -> None:
    module = "cupola.runtime.optimize.build_graph"
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        stdin=subprocess.PIPE,  # its end tells the child that this process is gone
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        text = _wait(child, seconds)
    except subprocess.TimeoutExpired:
        raise EngineUnavailableError(f"not built within {seconds:.0f} s") from None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    if child.returncode < 0:  # by the kernel, for its memory, or by a person
        raise EngineUnavailableError(f"not built: ended by signal {-child.returncode}")
    if child.returncode:
        raise EngineUnavailableError(f"{FAILED[0]}: {_reason(text)}")


def _wait(child: Any, seconds: float) -> str:
    """Waits with the child's input open: `communicate` would close it."""
    stdin, child.stdin = child.stdin, None
    try:
        _, text = child.communicate(timeout=seconds)
    finally:
        stdin.close()
    return str(text.decode("utf-8", "replace"))


def _reason(text: str) -> str:
    """The error in what the child printed: the last line that names one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (named or lines)[-1][:300]


def short(error: BaseException) -> str:
    """The first line of an error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
