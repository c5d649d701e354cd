"""Runners as threads of one process (master_process: off), with a roster like the zygote's.

They use the same loop, sockets and frames as runner processes, without respawns or page sharing.
"""

import os
import socket
import sys
import threading
from functools import partial
from typing import Any

from cupola.cores import available_cores
from cupola.runtime.optimize.memory import keep_freed_memory
from cupola.serve.generation import Generation
from cupola.serve.ipc import frames
from cupola.serve.ipc.listeners import private_listener
from cupola.serve.ipc.scoreboard import Scoreboard
from cupola.serve.runners.loading import import_plugins, load_predictor, optimize
from cupola.serve.runners.main import describe
from cupola.serve.runners.runner import Runner
from cupola.serve.runners.sequences import Sequences
from cupola.serve.runners.telemetry import RunnerTelemetry
from cupola.serve.runners.verify import verify
from cupola.serve.settings.models import ModelPlan

BUILDING_SHARE = 0.5  # of the time limit for a generation: no runner could build graphs later


class ThreadedRunners:
    """Loads all models of a generation and serves each in a thread."""

    def __init__(self, generation: Generation) -> None:
        self.generation = generation
        import_plugins(generation.settings.plugins)
        keep_freed_memory()
        self.runners: list[Runner] = []
        self.roster: list[dict[str, Any]] = []
        self.clients: list[socket.socket] = []
        if "torch" in sys.modules:
            threads = generation.settings.compute_threads or available_cores()
            sys.modules["torch"].set_num_threads(threads)
        try:
            for number, plan in enumerate(generation.plans):
                self._start(number, plan)
        except BaseException:
            self.stop()
            raise
        self.listener = self._listen("zygote.sock")
        threading.Thread(target=self._send_roster, daemon=True).start()

    def _listen(self, name: str) -> socket.socket:
        return private_listener(self.generation.home / name)

    def _start(self, number: int, plan: ModelPlan) -> None:
        home = self.generation.home
        predictor = load_predictor(plan, home / "weights")
        verify(predictor, plan)
        log, timeout = self.generation.log, self.generation.settings.ready_timeout
        seconds = timeout * BUILDING_SHARE
        report = partial(log, "notice")
        predictor = optimize(predictor, plan, report, seconds=seconds)
        name = f"thread-{number}"
        runner = Runner(
            predictor,
            self._listen(f"{name}.sock"),
            Scoreboard(home / f"{name}.scoreboard", create=True),
            max_batch=plan.max_batch or predictor.max_batch,
            delay=plan.batch_delay,
            spool=self.generation.spool,
            spool_threshold=self.generation.settings.shm_threshold,
            sequences=Sequences(
                self.generation.settings.max_sequences, self.generation.settings.sequence_timeout
            ),
            telemetry=self._telemetry(plan.name),
        )
        self.runners.append(runner)
        self.roster.append(
            {
                **plan.to_json(),
                "index": 0,
                "socket": str(home / f"{name}.sock"),
                "state": "ready",
                "pids": [os.getpid()],
                "respawns": 0,
                "failure": "",
                **describe(predictor, runner),
            }
        )
        threading.Thread(target=runner.serve, daemon=True).start()

    def _telemetry(self, model: str) -> RunnerTelemetry | None:
        settings = self.generation.settings
        if not settings.otel_endpoint:
            return None
        return RunnerTelemetry(settings, model, self.generation.log)

    def _send_roster(self) -> None:
        """Sends the roster to each client, once."""
        frame = b"".join(frames.pack(frames.control("roster", complete=True, runners=self.roster)))
        while True:
            try:
                client, _ = self.listener.accept()
                client.sendall(frame)
            except OSError:
                return
            self.clients.append(client)

    def stop(self) -> None:
        """Stops the threads after their current batches."""
        for runner in self.runners:
            runner.stopped = True
            if runner.telemetry is not None:
                runner.telemetry.close(0.5)
