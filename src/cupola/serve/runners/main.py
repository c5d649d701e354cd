"""What a newborn runner does: settles, loads its model, proves it, says READY, serves."""

import gc
import json
import os
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cupola.runtime.predictor import Predictor, Resumable
from cupola.serve.runners.loading import in_background, load_predictor
from cupola.serve.runners.ranks import Ranks
from cupola.serve.runners.runner import Runner
from cupola.serve.runners.verify import verify

if TYPE_CHECKING:
    from cupola.serve.runners.runner_slot import Nest


def live(nest: "Nest", pipe: socket.socket, life: int, ranks: Ranks | None) -> int:
    """Runs until the zygote is gone and no worker is connected; the exit code."""
    settings = nest.cycle.settings
    _settle(nest)
    group = ranks and ranks.join(0, settings.hang_timeout)
    nice = nest.cycle.loading_priority
    predictor = in_background(lambda: _proved(nest, ranks, group), nice, life)
    board = nest.board
    assert board is not None
    runner = Runner(
        predictor,
        nest.listener,
        board,
        max_batch=nest.plan.max_batch or predictor.max_batch,
        delay=nest.plan.batch_delay,
        spool=nest.cycle.spool,
        spool_threshold=settings.shm_threshold,
        life=life,
    )
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    board.beat()
    pipe.sendall(json.dumps(describe(predictor, runner)).encode() + b"\n")
    runner.serve()
    return 0


def live_as_follower(nest: "Nest", rank: int, ranks: Ranks) -> int:
    """Loads its part of the model and takes the steps of rank 0 until that is gone."""
    from cupola.generation.tensor_parallel import run_worker

    _settle(nest)
    group = ranks.join(rank, nest.cycle.settings.hang_timeout)
    plan, folder = nest.plan, nest.cycle.home / "weights"
    nice = nest.cycle.loading_priority
    predictor: Any = in_background(lambda: load_predictor(plan, folder, group), nice)
    gc.freeze()
    run_worker(predictor.new_scheduler, ranks.orders(rank))
    return 0


def _settle(nest: "Nest") -> None:
    priority = nest.cycle.settings.runner_priority
    if priority:
        os.setpriority(os.PRIO_PROCESS, 0, priority)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(nest.threads)


def _proved(nest: "Nest", ranks: Ranks | None, group: Any) -> Any:
    predictor: Any = load_predictor(nest.plan, nest.cycle.home / "weights", group)
    if ranks is not None:
        predictor.send = ranks.teller()
    verify(predictor, nest.plan)
    return predictor


def describe(predictor: Predictor, runner: Runner) -> dict[str, object]:
    """What workers tell clients about the model."""
    return {
        "task": predictor.task,
        "inputs": [asdict(spec) for spec in predictor.inputs],
        "outputs": [asdict(spec) for spec in predictor.outputs],
        "deterministic": predictor.deterministic,
        "streams": runner.engine is not None,
        "resumes": isinstance(runner.engine, Resumable),
        "max_batch": runner.batcher.max_batch,
    }
