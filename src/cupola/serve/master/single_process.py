"""`master_process: off`: one process does it all, for debugging and for small machines.

QUIT and TERM both stop it; HUP loads the settings and the models again in place, and keeps the
old ones if that fails; WINCH and USR2 do nothing.
"""

import asyncio
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvloop

from cupola.errors import CupolaError
from cupola.serve.ipc import paths
from cupola.serve.master import signals, systemd
from cupola.serve.master.generation import Cycle, build_cycle
from cupola.serve.master.sockets import Listener, inherited
from cupola.serve.settings.settings import Settings
from cupola.serve.worker.accepting import Acceptor, watch_time
from cupola.serve.worker.app import Application
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import Fleet

STOP_LIMIT = 1.0  # seconds for answers in flight when told to stop


@dataclass
class Generation:
    """What one load of the settings made."""

    cycle: Cycle
    zygote: Any
    app: Application
    acceptor: Acceptor


def run_single(load: Callable[[], Settings]) -> int:
    """Serves until QUIT, TERM or INT; the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Single(load).run())


class Single:
    """The process; `current` is the generation in service."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        self._load = load
        self.over = asyncio.Event()
        self.current: Generation | None = None
        self.number = 0
        self._asked = False
        self._task: asyncio.Task[None] | None = None
        self._drains: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        settings = self._load()
        self.home = paths.make_home(paths.runtime_root(settings.runtime_dir), os.getpid())
        self._handle_signals()
        try:
            self.current = await self._start(settings, inherited())
        except (CupolaError, OSError) as error:
            print(f"cupola: {error}", flush=True)
            paths.remove_home(self.home)
            return 1
        pid_file = settings.pid_file
        if pid_file:
            paths.write_atomically(pid_file, f"{os.getpid()}\n")
        systemd.ready("one process")
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_reload)
        self.current.cycle.log("notice", f"process {os.getpid()} is ready")
        await self.over.wait()
        await self._stop(self.current, pid_file)
        return 0

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.over.set)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        for number in (signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        signals.unblock()

    async def _start(self, settings: Settings, kept: list[Listener]) -> Generation:
        from cupola.serve.runners.threads import ThreadZygote  # with it, torch

        self.number += 1
        cycle = build_cycle(self.number, settings, kept, self.home, 1)
        loop = asyncio.get_running_loop()
        zygote = await loop.run_in_executor(None, ThreadZygote, cycle)
        fleet = Fleet(cycle)
        app = Application(cycle, fleet, Metrics(cycle.metrics, 0, self.number))
        await asyncio.wait_for(fleet.complete.wait(), settings.ready_timeout)
        sockets = [one for listener in cycle.listeners for one in listener.sockets]
        if self.current:
            self.current.acceptor.pause()
        acceptor = Acceptor(app, sockets)
        acceptor.start()
        watch_time(app, min(1.0, settings.header_timeout / 4))
        return Generation(cycle, zygote, app, acceptor)

    def _on_reload(self) -> None:
        self._asked = True  # a HUP during a reload is one more reload, as the master does it
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._reload())

    async def _reload(self) -> None:
        while self._asked:
            self._asked = False
            old = self.current
            assert old is not None
            try:
                new = await self._start(self._load(), old.cycle.listeners)
            except Exception as error:
                old.cycle.log("error", f"reload refused: {error}")
                continue
            self.current, old.app.draining = new, True
            new.cycle.log("notice", f"generation {new.cycle.generation} is ready")
            draining = asyncio.get_running_loop().create_task(self._drain(old))
            self._drains.add(draining)
            draining.add_done_callback(self._drains.discard)

    async def _drain(self, old: Generation) -> None:
        while old.app.connections or old.app.active:
            await asyncio.sleep(0.1)
        old.app.context.fleet.close()
        old.zygote.stop()

    def _reopen(self) -> None:
        if self.current:
            for target in (self.current.cycle.log.file, self.current.cycle.access_log):
                try:
                    if target is not None:
                        target.reopen()
                except OSError as error:
                    self.current.cycle.log("error", f"reopen failed: {error}")

    async def _stop(self, current: Generation, pid_file: Path | None) -> None:
        current.app.draining = True
        current.acceptor.pause()
        for _ in range(int(STOP_LIMIT / 0.02)):
            if not current.app.active:
                break
            await asyncio.sleep(0.02)
        current.zygote.stop()
        if pid_file:
            pid_file.unlink(missing_ok=True)
        for listener in current.cycle.listeners:
            listener.close()
        paths.remove_home(self.home)
