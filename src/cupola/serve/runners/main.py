"""The main functions of runner processes: set up, load the model, verify it, report, serve."""

import gc
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from cupola.bundles.optimizations import ALL_SECONDS
from cupola.cores import node_for
from cupola.errors import CupolaError
from cupola.runtime import tasks
from cupola.runtime.optimize.memory import keep_freed_memory
from cupola.runtime.predictor import Predictor, Resumable
from cupola.serve.ipc.channel import FATAL
from cupola.serve.runners.loading import ending_with, in_background, load_predictor, optimize
from cupola.serve.runners.rank_sockets import RankSockets
from cupola.serve.runners.runner import Runner
from cupola.serve.runners.runner_slot import RunnerSlot, RunnerStart
from cupola.serve.runners.sequences import Sequences
from cupola.serve.runners.telemetry import RunnerTelemetry
from cupola.serve.runners.verify import verify
from cupola.serve.telemetry.exporting import LAST_EXPORT

# While requests keep every core busy, a graph is built at about a tenth of its speed.
BUILDING_NICE = 10


def run_process(
    slot: RunnerSlot, start: RunnerStart, detach: Callable[[RunnerSlot], None]
) -> NoReturn:
    """Entry point of a forked process. `detach` closes what belongs to the zygote."""
    code = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)
        os.close(start.parent_pipe[1])
        detach(slot)
        if slot.report is not None:
            slot.report.close()
        if start.rank and start.ranks is not None:
            slot.listener.close()
            os.close(start.parent_pipe[0])
            code = run_rank(slot, start.rank, start.ranks)
        else:
            code = run_runner(slot, start)
    except CupolaError as error:
        _report(start.report, {"failed": str(error)})
        code = FATAL
    except BaseException as error:
        _report(start.report, {"failed": f"{type(error).__name__}: {error}"})
        for line in traceback.format_exc().splitlines():
            slot.generation.log("error", f"{slot.title}: {line}")
        code = 1 if isinstance(error, MemoryError) else FATAL
    finally:
        os._exit(code)


def _report(report: socket.socket, details: dict[str, Any]) -> None:
    with suppress(OSError):
        report.sendall(json.dumps(details).encode() + b"\n")


def run_runner(slot: RunnerSlot, start: RunnerStart) -> int:
    """Serves until the zygote has exited and no worker is connected; the exit code."""
    settings = slot.generation.settings
    parent_pipe = start.parent_pipe[0]
    _set_up(slot)
    group = start.ranks and start.ranks.join(0, settings.hang_limit)
    nice = slot.generation.loading_priority
    predictor = in_background(lambda: _load_verified(slot, start.ranks, group), nice, parent_pipe)
    log = slot.generation.log
    if slot.plan.device != "cpu":
        from cupola.runtime.devices import use_own_stream  # loads torch

        use_own_stream(predictor.device)
    with ending_with(parent_pipe):
        how: dict[str, Any] = {"nice": BUILDING_NICE} if slot.measures else {"at_once": True}
        report = partial(log, "notice")
        predictor = optimize(predictor, slot.plan, report, seconds=ALL_SECONDS, **how)
    scoreboard = slot.scoreboard
    assert scoreboard is not None
    telemetry = None
    if settings.otel_endpoint:
        telemetry = RunnerTelemetry(settings, slot.plan.name, slot.generation.log)
    runner = Runner(
        predictor,
        slot.listener,
        scoreboard,
        max_batch=slot.plan.max_batch or predictor.max_batch,
        delay=slot.plan.batch_delay,
        spool=slot.generation.spool,
        spool_threshold=settings.shm_threshold,
        sequences=Sequences(settings.max_sequences, settings.sequence_timeout),
        parent_pipe=parent_pipe,
        telemetry=telemetry,
    )
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    scoreboard.heartbeat()
    start.report.sendall(json.dumps(describe(predictor, runner)).encode() + b"\n")
    runner.serve()
    if telemetry is not None:
        telemetry.close(LAST_EXPORT)
    return 0


def run_rank(slot: RunnerSlot, rank: int, ranks: RankSockets) -> int:
    """Loads one rank's part of the model and executes the commands of rank 0 until it exits."""
    from cupola.generation.tensor_parallel import run_worker

    _set_up(slot, rank)
    group = ranks.join(rank, slot.generation.settings.hang_limit)
    plan, folder = slot.plan, slot.generation.home / "weights"
    nice = slot.generation.loading_priority
    predictor: Any = in_background(lambda: load_predictor(plan, folder, group), nice)
    gc.freeze()
    run_worker(predictor.new_scheduler, ranks.commands(rank))
    return 0


OOM_SCORE = 300  # added, so that a full machine loses a runner before any other process


def _set_up(slot: RunnerSlot, rank: int = 0) -> None:
    with suppress(OSError, ValueError):
        score = Path("/proc/self/oom_score_adj")
        score.write_text(str(min(1000, int(score.read_text()) + OOM_SCORE)))
    priority = slot.generation.settings.runner_priority
    if priority:
        os.setpriority(os.PRIO_PROCESS, 0, priority)
    bind_to_node(slot, rank)
    if "torch" in sys.modules:
        keep_freed_memory()
        sys.modules["torch"].set_num_threads(slot.threads)


def bind_to_node(slot: RunnerSlot, rank: int) -> None:
    """Keeps this process, and so the memory that it takes from now on, on one NUMA node."""
    if slot.generation.settings.runner_numa:
        cpus = node_for(slot.number + rank, slot.threads)
        if cpus is not None:
            with suppress(OSError):  # the cpuset may have changed in the meantime
                os.sched_setaffinity(0, cpus)


def _load_verified(slot: RunnerSlot, ranks: RankSockets | None, group: Any) -> Any:
    predictor: Any = load_predictor(slot.plan, slot.generation.home / "weights", group)
    if ranks is not None:
        predictor.send = ranks.broadcaster()
    verify(predictor, slot.plan)
    return predictor


def describe_page(task: tasks.Task) -> dict[str, object]:
    """The server's page for a task: its name in addresses, its folder if it is a plug-in's."""
    own = isinstance(task.page, Path)
    name = task.name if own else task.page
    return {"name": name, "folder": str(task.page) if own else None, "rank": task.page_rank}


def describe_execution(predictor: Predictor) -> dict[str, object]:
    """How the model is executed: what the settings ask for, the engine, and what was measured."""
    found = predictor.execution
    if found is None:
        return {"wish": "none", "engine": "eager", "provisional": False, "measured": []}
    return {
        "wish": found.optimization,
        "engine": found.engine,
        "provisional": found.provisional,
        "measured": [asdict(row) for row in found.rows],
    }


def describe(predictor: Predictor, runner: Runner) -> dict[str, object]:
    """The description of the model for workers and clients."""
    return {
        "task": predictor.task,
        "page": describe_page(tasks.find(predictor.task)),
        "inputs": [asdict(spec) for spec in predictor.inputs],
        "outputs": [asdict(spec) for spec in predictor.outputs],
        "deterministic": predictor.deterministic and not predictor.is_stream,
        "stateful": predictor.is_stream,
        "streams": runner.engine is not None,
        "resumes": isinstance(runner.engine, Resumable),
        "max_batch": runner.batcher.max_batch,
        "details": predictor.details,
        "optimization": describe_execution(predictor),
        "provisional": predictor.execution is not None and predictor.execution.provisional,
    }
