"""A nest: the place of one runner, whoever lives in it now.

The nest owns the listening socket, so the address stays while processes come and go.
"""

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from typing import Any

from cupola.errors import ConfigError, CupolaError
from cupola.serve.ipc.scoreboard import Board
from cupola.serve.master.children import FATAL
from cupola.serve.master.generation import Cycle
from cupola.serve.runners.main import live, live_as_follower
from cupola.serve.runners.ranks import Ranks
from cupola.serve.settings.models import ModelPlan
from cupola.serve.settings.settings import Settings

_numbers = count()
START_LIMIT = 3  # deaths before the first READY that make a model unfit to serve


class Nest:
    """State of one runner's place; `state` is starting, ready, waiting or failed."""

    def __init__(
        self, plan: ModelPlan, index: int, incarnation: str, cycle: Cycle, threads: int
    ) -> None:
        self.plan, self.index, self.cycle, self.threads = plan, index, cycle, threads
        self.title = f"runner {plan.name}:{plan.version}#{index}"
        self.stem = f"{incarnation}-{next(_numbers)}"  # short: a unix path holds 107 bytes
        self.path = cycle.home / f"{self.stem}.sock"
        self.listener = socket.socket(socket.AF_UNIX)
        try:
            self.listener.bind(str(self.path))
        except OSError as error:
            raise ConfigError(f"runtime_dir: cannot bind {self.path}: {error}") from None
        self.listener.listen(256)
        self.state = "starting"
        self.pids: list[int] = []
        self.board: Board | None = None
        self.pipe: socket.socket
        self.life_write = -1
        self.heard, self.failure = b"", ""
        self.described: dict[str, Any] = {}
        self.was_ready = self.removed = False
        self.ended_with = 0  # exit code of the first of its processes to end
        self.replaces: list[Nest] = []
        self.born = self.deaths = self.births = self.respawns = 0
        self.due: float | None = None
        self.born_at = 0.0

    @property
    def age(self) -> float:
        """Seconds since the living process was born."""
        return time.monotonic() - self.born_at

    def hatch(self, forget: Callable[["Nest"], None]) -> None:
        """Forks the runner, and its followers where the model is split over ranks."""
        self.births += 1
        self.due, self.state, self.heard = None, "starting", b""
        self.born_at = time.monotonic()
        board_path = self.cycle.home / f"{self.stem}-{self.births}.board"
        self.board = Board(board_path, create=True)
        self.board.beat()
        self.pipe, theirs = socket.socketpair()
        life_read, life_write = os.pipe()
        self._remove_old_boards()
        size = self.plan.tensor_parallel
        ranks = Ranks(size) if size > 1 else None
        sys.stdout.flush()
        for rank in range(size):
            pid = os.fork()
            if pid == 0:
                self._become(theirs, (life_read, life_write), forget, rank, ranks)
            self.pids.append(pid)
        theirs.close()
        os.close(life_read)
        if ranks is not None:
            ranks.close()
        if self.life_write >= 0:
            os.close(self.life_write)
        self.life_write = life_write

    def _become(
        self,
        theirs: socket.socket,
        life: tuple[int, int],
        forget: Callable[["Nest"], None],
        rank: int,
        ranks: Ranks | None,
    ) -> None:
        code = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1):
                signal.signal(
                    number, signal.SIG_DFL if number != signal.SIGUSR1 else signal.SIG_IGN
                )
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(life[1])
            forget(self)
            self.pipe.close()
            if rank and ranks is not None:
                self.listener.close()
                os.close(life[0])
                code = live_as_follower(self, rank, ranks)
            else:
                code = live(self, theirs, life[0], ranks)
        except CupolaError as error:
            self._say(theirs, {"failed": str(error)})
            code = FATAL
        except BaseException as error:
            self._say(theirs, {"failed": f"{type(error).__name__}: {error}"})
            traceback.print_exc()
            code = 1 if isinstance(error, MemoryError) else FATAL
        finally:
            os._exit(code)

    @staticmethod
    def _say(pipe: socket.socket, words: dict[str, Any]) -> None:
        with suppress(OSError):
            pipe.sendall(json.dumps(words).encode() + b"\n")

    def _remove_old_boards(self) -> None:
        """All but the last two: workers may still have to read whom the last death hit."""
        for old in self.cycle.home.glob(f"{self.stem}-*.board"):
            number = int(old.stem.rpartition("-")[2])
            if number < self.births - 2:
                old.unlink(missing_ok=True)

    def hangs(self, limit: float) -> bool:
        """Whether its loop has not turned for longer than `limit` seconds."""
        return self.state == "ready" and self.board is not None and self.board.silent_for > limit

    def kill(self) -> None:
        """KILL to every process of the nest."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def orphan(self) -> None:
        """Lets the runner go once no worker is connected."""
        if self.life_write >= 0:
            os.close(self.life_write)
            self.life_write = -1

    def buried(self, pid: int, code: int) -> bool:
        """One of its processes was reaped; the others must end too. True once all are gone."""
        if len(self.pids) == self.plan.tensor_parallel:
            self.ended_with, self.was_ready = code, self.state == "ready"
            self.state = "waiting"
        self.pids.remove(pid)
        if self.pids:
            self.kill()
            return False
        if self.removed:
            self.close_zygote_side()
            self.path.unlink(missing_ok=True)
        return True

    def plan_respawn(self, settings: Settings) -> None:
        """At once; with a doubling delay for one that keeps dying young."""
        young = self.age < settings.young or not self.was_ready
        self.deaths = self.deaths + 1 if young else 0
        if not self.was_ready and self.deaths >= START_LIMIT and not self.described:
            self.failure = self.failure or "its process died at start"
        wait = settings.respawn_delay * 2 ** (self.deaths - 2) if self.deaths > 1 else 0.0
        self.due = time.monotonic() + min(wait, settings.respawn_delay_max)
        self.state = "waiting"

    def close_zygote_side(self) -> None:
        """Closes what the zygote holds for this nest."""
        self.listener.close()
        self.orphan()
        with suppress(AttributeError, OSError):
            self.pipe.close()

    def to_json(self) -> dict[str, Any]:
        """The nest's line in the roster."""
        return {
            **self.plan.to_json(),
            "index": self.index,
            "socket": str(self.path),
            "state": self.state,
            "pids": self.pids,
            "respawns": self.respawns,
            "failure": self.failure,
            **self.described,
        }
