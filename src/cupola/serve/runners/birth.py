"""What a newborn runner does: settles, loads its model, proves it, says READY, serves."""

import gc
import json
import os
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from cupola.runtime.predictor import Predictor
from cupola.serve.runners.loading import in_background, load_predictor
from cupola.serve.runners.runner import Runner
from cupola.serve.runners.verify import verify

if TYPE_CHECKING:
    from cupola.serve.runners.nest import Nest


def live(nest: "Nest", pipe: socket.socket, life: int) -> int:
    """Runs until the mould is gone and no worker is connected; the exit code."""
    settings = nest.cycle.settings
    if settings.runner_priority:
        os.setpriority(os.PRIO_PROCESS, 0, settings.runner_priority)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(nest.threads)
    predictor = in_background(lambda: _load(nest), nest.cycle.loading_priority, life)
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


def _load(nest: "Nest") -> Predictor:
    predictor = load_predictor(nest.plan, nest.cycle.home / "weights")
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
        "max_batch": runner.batcher.max_batch,
    }
