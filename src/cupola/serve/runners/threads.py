"""Runners as threads of one process, and the roster that a zygote would tell (master_process off).

The same loop, the same sockets, the same frames; only births, deaths and the sharing of pages are
missing.
"""

import os
import socket
import sys
import threading
from dataclasses import asdict
from typing import Any

from cupola.serve.ipc import frames as wire
from cupola.serve.ipc.scoreboard import Board
from cupola.serve.master.generation import Cycle
from cupola.serve.runners.loading import import_plugins, load_predictor
from cupola.serve.runners.main import describe
from cupola.serve.runners.runner import Runner
from cupola.serve.runners.verify import verify
from cupola.serve.settings.models import ModelPlan
from cupola.serve.settings.settings import granted_cpus


class ThreadZygote:
    """Loads every model of a cycle in this process and serves each in a thread."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle = cycle
        import_plugins(cycle.settings.plugins)
        self.runners: list[Runner] = []
        self.roster: list[dict[str, Any]] = []
        self.clients: list[socket.socket] = []
        try:
            for number, plan in enumerate(cycle.plans):
                self._start(number, plan)
        except BaseException:
            self.stop()
            raise
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(cycle.settings.compute_threads or granted_cpus())
        self.listener = self._listen("zygote.sock")
        threading.Thread(target=self._tell, daemon=True).start()

    def _listen(self, name: str) -> socket.socket:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.cycle.home / name))
        listener.listen(256)
        return listener

    def _start(self, number: int, plan: ModelPlan) -> None:
        settings = self.cycle.settings
        predictor = load_predictor(plan, self.cycle.home / "weights")
        verify(predictor, plan)
        name = f"thread-{number}"
        runner = Runner(
            predictor,
            self._listen(f"{name}.sock"),
            Board(self.cycle.home / f"{name}.board", create=True),
            max_batch=plan.max_batch or predictor.max_batch,
            delay=plan.batch_delay,
            spool=self.cycle.spool,
            spool_threshold=settings.shm_threshold,
        )
        self.runners.append(runner)
        self.roster.append(
            {
                **asdict(plan),
                "index": 0,
                "socket": str(self.cycle.home / f"{name}.sock"),
                "state": "ready",
                "pids": [os.getpid()],
                "respawns": 0,
                "failure": "",
                **describe(predictor, runner),
            }
        )
        threading.Thread(target=runner.serve, daemon=True).start()

    def _tell(self) -> None:
        """The roster, once, to whoever connects."""
        frame = wire.pack(wire.message("roster", complete=True, runners=self.roster))
        while True:
            try:
                client, _ = self.listener.accept()
                client.sendall(b"".join(frame))
            except OSError:
                return
            self.clients.append(client)

    def stop(self) -> None:
        """Ends the threads, each after the batch it is in."""
        for runner in self.runners:
            runner.stopped = True
