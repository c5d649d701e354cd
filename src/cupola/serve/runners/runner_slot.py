"""A runner slot: the place of one runner, whose processes may be replaced.

The slot owns the listening socket, so the address stays the same when the process is respawned.
"""

import math
import os
import random
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, NoReturn

from cupola.serve.generation import Generation
from cupola.serve.ipc.listeners import private_listener
from cupola.serve.ipc.scoreboard import Scoreboard
from cupola.serve.runners.rank_sockets import RankSockets
from cupola.serve.settings.models import ModelPlan

_slot_numbers = count()
START_ATTEMPTS = 3  # exits before the first READY after which a model has failed


@dataclass(frozen=True)
class RunnerStart:
    """What a forked process gets. `report`: where it tells the zygote that it is ready or failed.

    `parent_pipe`: read end and write end of a pipe; only the zygote keeps the write end.
    """

    rank: int
    report: socket.socket
    parent_pipe: tuple[int, int]
    ranks: RankSockets | None


class RunnerSlot:
    """State of one slot. `state` is starting, ready, waiting or failed."""

    def __init__(
        self, plan: ModelPlan, index: int, prefix: str, generation: Generation, threads: int
    ) -> None:
        self.plan, self.index, self.generation, self.threads = plan, index, generation, threads
        self.title = f"runner {plan.name}:{plan.version}#{index}"
        self.number = next(_slot_numbers)
        self.stem = f"{prefix}-{self.number}"  # short: a unix path has at most 107 bytes
        self.path = generation.home / f"{self.stem}.sock"
        self.listener = private_listener(self.path)
        self.state = "starting"
        self.pids: list[int] = []
        self.scoreboard: Scoreboard | None = None
        self.report: socket.socket | None = None
        self.received, self.failure = b"", ""
        self.description: dict[str, Any] = {}
        self.was_ready = self.removed = False
        self.exit_code = 0  # of the first process of the group to exit
        self.early_exits = self.spawns = self.respawns = 0
        self.due: float | None = None  # when a delayed respawn happens
        self.replaces: RunnerSlot | None = None  # until this slot takes its place
        self.recycles = 0
        spread = random.uniform(1.0, 1.25)  # so that not all are replaced at once
        self.request_limit = spread * (plan.runner_max_requests or math.inf)
        self.load_seconds, self.memory_at_start = 0.0, 0
        self.measures = False  # builds and compares the engines of its model before it is ready
        self.provisional = False  # its model's engines have not been measured
        self.started_at = 0.0
        self._parent_pipe_write = -1

    @property
    def uptime(self) -> float:
        """Seconds since the process was spawned."""
        return time.monotonic() - self.started_at

    def spawn(self, main: Callable[["RunnerSlot", RunnerStart], NoReturn]) -> socket.socket:
        """Forks the runner, and the other ranks of a tensor-parallel model.

        Returns the zygote's end of the report socket. OSError if the system has no process or
        descriptor left; ranks that were forked before are killed.
        """
        self.spawns += 1
        self.due, self.state, self.received = None, "starting", b""
        self.started_at, self.was_ready, self.exit_code = time.monotonic(), False, 1
        self._open_scoreboard()
        with ExitStack() as ours, ExitStack() as theirs:
            self.report, report = socket.socketpair()
            ours.callback(self.report.close)
            theirs.callback(report.close)
            self.report.setblocking(False)  # other ranks may hold the other end after one exited
            parent_pipe = os.pipe()
            theirs.callback(os.close, parent_pipe[0])
            ours.callback(os.close, parent_pipe[1])
            size = self.plan.tensor_parallel
            ranks = RankSockets(size) if size > 1 else None
            if ranks is not None:
                theirs.callback(ranks.close)
            with suppress(OSError, ValueError):
                sys.stdout.flush()
            ours.callback(self.kill)
            for rank in range(size):
                pid = os.fork()
                if pid == 0:
                    main(self, RunnerStart(rank, report, parent_pipe, ranks))
                self.pids.append(pid)
            ours.pop_all()
        self.release()
        self._parent_pipe_write = parent_pipe[1]
        return self.report

    def _open_scoreboard(self) -> None:
        if self.scoreboard is not None:
            self.scoreboard.close()
        self.scoreboard = None
        path = self.generation.home / f"{self.stem}-{self.spawns}.scoreboard"
        self.scoreboard = Scoreboard(path, create=True)
        self.scoreboard.heartbeat()
        self._remove_old_scoreboards()

    def _remove_old_scoreboards(self) -> None:
        """Keeps the last two: workers may still read which requests the last crash affected."""
        for old in self.generation.home.glob(f"{self.stem}-*.scoreboard"):
            number = int(old.stem.rpartition("-")[2])
            if number < self.spawns - 2:
                old.unlink(missing_ok=True)

    def is_hung(self, limit: float) -> bool:
        """Whether a ready runner has had no heartbeat for more than `limit` seconds."""
        board = self.scoreboard
        return self.state == "ready" and board is not None and board.idle_for > limit

    def kill(self) -> None:
        """Sends KILL to all processes of the slot."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def release(self) -> None:
        """Lets the runner exit once no worker is connected to it."""
        if self._parent_pipe_write >= 0:
            os.close(self._parent_pipe_write)
            self._parent_pipe_write = -1

    def on_exit(self, pid: int, code: int) -> bool:
        """Records that a process was reaped and kills its group. True once all have exited."""
        if len(self.pids) == self.plan.tensor_parallel:
            self.exit_code, self.was_ready = code, self.state == "ready"
            self.state = "waiting"
        self.pids.remove(pid)
        if self.pids:
            self.kill()
            return False
        if self.removed:
            self.discard()
        return True

    def discard(self) -> None:
        """Closes a slot without a process and removes its files."""
        self.close()
        if self.scoreboard is not None:
            self.scoreboard.close()
            self.scoreboard = None
        for left in (self.path, *self.generation.home.glob(f"{self.stem}-*.scoreboard")):
            with suppress(OSError):
                left.unlink(missing_ok=True)

    def schedule_respawn(self) -> None:
        """Respawns at once, or after a doubling delay if the runner exited early several times."""
        settings = self.generation.settings
        is_early = self.uptime < settings.min_uptime or not self.was_ready
        self.early_exits = self.early_exits + 1 if is_early else 0
        if not self.was_ready and self.early_exits >= START_ATTEMPTS and not self.description:
            self.failure = self.failure or "its process exited during start"
        delay = settings.respawn_delay * 2 ** min(self.early_exits - 2, 32)
        wait = delay if self.early_exits > 1 else 0.0
        self.due = time.monotonic() + min(wait, settings.respawn_delay_max)
        self.state = "waiting"

    def close(self) -> None:
        """Closes the zygote's descriptors of this slot."""
        self.listener.close()
        self.release()
        if self.report is not None:
            self.report.close()

    def to_json(self) -> dict[str, Any]:
        """The slot's entry in the roster."""
        return {
            **self.plan.to_json(),
            "index": self.index,
            "socket": str(self.path),
            "state": self.state,
            "pids": self.pids,
            "respawns": self.respawns,
            "recycles": self.recycles,
            "failure": self.failure,
            **self.description,
        }
