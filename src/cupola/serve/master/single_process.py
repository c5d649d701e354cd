"""`master_process: off`: one process does everything, for debugging and for small machines.

QUIT, TERM and INT stop it. HUP reloads the settings and the models in place and keeps the old ones
if that fails. WINCH and USR2 do nothing.
"""

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import uvloop

from cupola.cores import limit_spinning
from cupola.errors import ConfigError, CupolaError
from cupola.serve.generation import Generation, build_generation
from cupola.serve.ipc import paths, signals
from cupola.serve.ipc.listeners import Listener, inherited
from cupola.serve.master import systemd
from cupola.serve.master.pid_file import PidFile
from cupola.serve.routes import ROUTER
from cupola.serve.settings.settings import Settings
from cupola.serve.telemetry.exporting import LAST_EXPORT
from cupola.serve.worker.accepting import Acceptor, watch_timeouts
from cupola.serve.worker.app import Application
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import ModelDirectory
from cupola.serve.worker.telemetry import WorkerTelemetry

T = TypeVar("T")
STOP_TIMEOUT = 1.0  # seconds to finish open requests when stopping


@dataclass
class ActiveGeneration:
    """A generation with the runners and the application that serve it."""

    generation: Generation
    runners: Any
    app: Application
    acceptor: Acceptor


async def in_thread(work: Callable[[], T], abandon: Callable[[T], object]) -> T:
    """The result of `work`, from a thread that does not keep the process from ending.

    If nobody waits any more when it is done, its result is passed to `abandon`.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()

    def deliver(result: Any, error: BaseException | None) -> None:
        if error is not None and not answer.done():
            answer.set_exception(error)
        elif not answer.done():
            answer.set_result(result)
        elif error is None:
            abandon(result)

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except BaseException as error:
            failure = error
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(deliver, result, failure)

    threading.Thread(target=run, daemon=True).start()
    return await answer


def run_single_process(load: Callable[[], Settings]) -> int:
    """Serves until QUIT, TERM or INT; the exit code."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(SingleProcess(load).run())


class SingleProcess:
    """The process. `current` is the generation that accepts connections."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        self._load = load
        self.stopped = asyncio.Event()
        self.current: ActiveGeneration | None = None
        self.number = 0
        self._reload_task: asyncio.Task[None] | None = None
        self._drain_tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> int:
        settings = self._load()
        os.umask(0o077)
        pid_file = PidFile(settings.pid_file)
        pid_file.check()
        self.home = paths.make_home(paths.runtime_root(settings.runtime_dir), os.getpid())
        self._handle_signals()
        starting = asyncio.create_task(self._start(settings, inherited()))
        waiting = asyncio.create_task(self.stopped.wait())
        await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if not starting.done():  # told to stop while a model loads, which may hang
            paths.remove_home(self.home)
            return 0
        try:
            self.current = starting.result()
        except (CupolaError, OSError) as error:
            print(f"cupola: {error}", flush=True)
            paths.remove_home(self.home)
            return 1
        pid_file.write()
        systemd.ready("one process")
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_reload)
        self.current.generation.log("notice", f"process {os.getpid()} is ready")
        await self.stopped.wait()
        await self._stop(self.current)
        pid_file.remove(upgrading=False)
        paths.remove_home(self.home)
        return 0

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop, number)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is something to reload
        loop.add_signal_handler(signal.SIGUSR1, self._reopen)
        for number in (signal.SIGUSR2, signal.SIGWINCH, signal.SIGTTIN, signal.SIGTTOU):
            signal.signal(number, signal.SIG_IGN)
        signals.unblock()

    async def _start(self, settings: Settings, kept: list[Listener]) -> ActiveGeneration:
        limit_spinning()
        from cupola.serve.runners.threads import ThreadedRunners  # imports torch

        self.number += 1
        generation = build_generation(self.number, settings, kept, self.home, 1)
        runners = directory = None
        try:
            loading = in_thread(lambda: ThreadedRunners(generation), ThreadedRunners.stop)
            runners = await asyncio.wait_for(loading, settings.ready_timeout)
            directory = ModelDirectory(generation)
            app = Application(generation, directory, Metrics(generation.metrics, 0), ROUTER)
            await asyncio.wait_for(directory.complete.wait(), settings.ready_timeout)
        except BaseException as error:
            if directory is not None:
                directory.close()
            if runners is not None:
                runners.stop()
            generation.discard(kept)
            if isinstance(error, TimeoutError):
                text = f"the models were not ready within {settings.ready_timeout:g} s"
                raise ConfigError(text) from None
            raise
        sockets = {one: entry for entry in generation.listeners for one in entry.sockets}
        if self.current:
            self.current.acceptor.pause()
        acceptor = Acceptor(app, sockets, app.proxies)
        acceptor.start()
        watch_timeouts(app, min(1.0, settings.header_timeout / 4))
        return ActiveGeneration(generation, runners, app, acceptor)

    def _on_stop(self, number: signal.Signals) -> None:
        """Stops after `drain_delay`; TERM or INT a second time, at once."""
        if self.current is None or self.current.generation.leaving:
            if number != signal.SIGQUIT or self.current is None:
                self.stopped.set()
            return
        self.current.generation.leaving = self.current.app.draining = True
        delay = self.current.generation.settings.drain_delay
        asyncio.get_running_loop().call_later(delay, self.stopped.set)

    def _on_reload(self) -> None:
        if self.current and self.current.generation.leaving:
            return
        try:
            settings = self._load()
        except Exception as error:
            self._refuse(error)
            return
        if self._reload_task is not None:  # the newest wins; the other one may hang
            self._reload_task.cancel()
        self._reload_task = asyncio.get_running_loop().create_task(self._reload(settings))

    def _refuse(self, error: Exception) -> None:
        assert self.current is not None
        self.current.generation.log("error", f"reload refused: {error}")

    async def _reload(self, settings: Settings) -> None:
        old = self.current
        assert old is not None
        try:
            new = await self._start(settings, old.generation.listeners)
        except Exception as error:
            self._refuse(error)
        else:
            new.generation.leaving = new.app.draining = old.generation.leaving
            self.current, old.app.draining = new, True
            new.generation.log("notice", f"generation {new.generation.number} is ready")
            draining = asyncio.get_running_loop().create_task(self._drain(old))
            self._drain_tasks.add(draining)
            draining.add_done_callback(self._drain_tasks.discard)

    async def _drain(self, old: ActiveGeneration) -> None:
        while old.app.connections or old.app.active:
            await asyncio.sleep(0.1)
        old.app.context.directory.close()
        old.runners.stop()
        await in_thread(lambda: _close(old.app.telemetry), lambda done: None)

    def _reopen(self) -> None:
        if self.current:
            self.current.generation.reopen_logs()

    async def _stop(self, current: ActiveGeneration) -> None:
        current.app.draining = True
        current.acceptor.pause()
        for _ in range(int(STOP_TIMEOUT / 0.02)):
            if not current.app.active:
                break
            await asyncio.sleep(0.02)
        current.runners.stop()
        await in_thread(lambda: _close(current.app.telemetry), lambda done: None)
        for listener in current.generation.listeners:
            listener.close()


def _close(telemetry: WorkerTelemetry | None) -> None:
    if telemetry is not None:
        telemetry.close(LAST_EXPORT)
