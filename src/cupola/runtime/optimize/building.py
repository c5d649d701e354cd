"""Builds a graph in a process of its own, which can be stopped and cannot harm the caller.

A network is traced first (tracing.py); the child then writes the graph. What it writes gets its
name when it is complete, so that a half-written graph is never opened. A child that takes too long
is stopped.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from cupola.runtime.optimize.network import Call, EngineUnavailableError, Traced
from cupola.runtime.optimize.tracing import CANNOT, Axes, TracingTimeoutError, trace

# How errors begin that another try would not mend.
FAILED = ("cannot be built", CANNOT)
ADVICE = "`cupola explain MODEL --optimizations` builds it"
LEAST_SECONDS = 2.0  # for importing torch; with less time left nothing is begun


class UnfinishedError(EngineUnavailableError):
    """A graph that takes more time to build than there is."""


def build(
    kind: str,
    traced: Traced,
    call: Call,
    axes: Axes,
    out: Path,
    seconds: float,
    nice: int = 0,
) -> None:
    """Writes the graph of a traced network as `out`, of a kind that `build_graph` knows.

    `axes` are the dynamic axes of each input; without any the sizes are those of the call. The
    child's priority is lower by `nice`. EngineUnavailableError if it cannot be built;
    UnfinishedError if `seconds` are too few.
    """
    end = time.monotonic() + seconds
    if seconds < LEAST_SECONDS:
        raise UnfinishedError(f"not built: no time left; {ADVICE}")
    program = out.with_name(f".{out.stem}.{os.getpid()}.pt2")
    part = out.with_name(f".{out.stem}.{os.getpid()}{out.suffix}")
    remove_abandoned(out.parent)
    try:
        trace(traced, call, axes, program, seconds, nice)
        child = _start([kind, str(program), str(part), str(torch.get_num_threads())])
        _give_way(child, nice)
        if not _ended(child, max(LEAST_SECONDS, end - time.monotonic())):
            _stop(child)
            raise UnfinishedError(f"not built within {seconds:.0f} s; {ADVICE}")
        part.replace(out)
    except TracingTimeoutError:
        raise UnfinishedError(f"not traced within {seconds:.0f} s; {ADVICE}") from None
    except OSError as error:
        raise EngineUnavailableError(f"not built: {error}") from None
    finally:
        _remove(program, part)


def _start(arguments: Sequence[str]) -> Any:
    module = "cupola.runtime.optimize.build_graph"
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", module, *arguments],
        stdin=subprocess.PIPE,  # its end tells the child that this process is gone
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,  # not a session: these are scheduled apart from their parents
    )


def _ended(child: Any, seconds: float | None) -> bool:
    """Whether the child has written its graph within the time; its error if it failed."""
    stdin, child.stdin = child.stdin, None  # `communicate` would close it
    try:
        _, text = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.stdin = stdin
        return False
    except BaseException:
        _stop(child)
        raise
    stdin.close()
    _stop(child)  # processes that it has left
    if child.returncode < 0:  # by the kernel, for its memory, or by a person
        raise EngineUnavailableError(f"not built: ended by signal {-child.returncode}")
    if child.returncode:
        message = _reason(text.decode("utf-8", "replace"))
        raise EngineUnavailableError(f"{FAILED[0]}: {message}")
    return True


def _stop(child: Any) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    for pipe in (child.stdin, child.stderr):
        if pipe is not None:
            pipe.close()


def _give_way(child: Any, nice: int) -> None:
    """Lets a child give way to the processes that answer, and be the first to lose its memory."""
    if nice:
        with suppress(OSError):
            os.setpriority(os.PRIO_PGRP, child.pid, nice)
            Path(f"/proc/{child.pid}/oom_score_adj").write_text("1000")


def remove_abandoned(folder: Path) -> None:
    """Removes the unfinished files of processes that have been killed."""
    for path in folder.glob(".*.*"):
        owner = re.match(r"\.\w+\.(\d+)\.", path.name)
        if owner and not Path(f"/proc/{owner[1]}").exists():
            _remove(path)


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


def earlier_failure(out: Path) -> str | None:
    """Why this graph cannot be built, if an earlier try has found out."""
    path = out.with_suffix(".failed")
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8")
    return None


def remember_failure(out: Path, error: EngineUnavailableError) -> None:
    """Keeps the reason if another try would end the same way; a compiler may be mended."""
    if out.suffix == ".onnx" and str(error).startswith(FAILED):
        with suppress(OSError):
            out.with_suffix(".failed").write_text(str(error), encoding="utf-8")


def _reason(text: str) -> str:
    """The error in what the child printed: the last line that names one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    named = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Exit)\b", line)]
    return (named or lines)[-1][:300]
