"""A worker accepts connections, validates requests, forwards them to runners and responds.

It runs asyncio on uvloop and never imports torch. At QUIT it stops accepting, answers the requests
in flight, tells keep-alive clients `Connection: close` with their next answer, and exits when all
have left or the shutdown timeout has passed. It does the same when the master dies.
"""

import asyncio
import gc
import os
import signal
import socket
import time
from typing import NoReturn

import uvloop

from cupola.errors import CupolaError
from cupola.serve.generation import Generation
from cupola.serve.http.routing import Router
from cupola.serve.ipc import signals
from cupola.serve.ipc.channel import FATAL, Channel, ChannelMessage, Command
from cupola.serve.ipc.listeners import Listener, close_all_but
from cupola.serve.process_setup import setup_process
from cupola.serve.telemetry.exporting import LAST_EXPORT
from cupola.serve.worker.accepting import Acceptor, watch_timeouts
from cupola.serve.worker.app import Application
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import ModelDirectory

DRAIN_INTERVAL = 0.05  # seconds between two checks whether a draining worker is done


def run_worker(
    generation: Generation,
    channel: Channel,
    parent_pipe: int,
    slot: int,
    index: int,
    router: Router,
) -> NoReturn:
    """Entry point of the process. A failure during setup is fatal: exit code 2."""
    gc.freeze()  # keeps objects made before the fork out of collections, and their pages shared
    gc.set_threshold(20_000, 20, 50)
    try:
        setup_process(generation.settings, index, generation.settings.worker_priority)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            worker = Worker(generation, channel, parent_pipe, slot, index)
            code = runner.run(worker.run(router))
    except (CupolaError, OSError) as error:
        generation.log("error", f"worker {os.getpid()}: {error}")
        code = FATAL
    os._exit(code)


class Worker:
    """One worker, from start to its last answer. `slot` and `index` are its place in the table."""

    def __init__(
        self, generation: Generation, channel: Channel, parent_pipe: int, slot: int, index: int
    ) -> None:
        self.generation, self.channel, self.parent_pipe = generation, channel, parent_pipe
        self.slot, self.index = slot, index
        self.stopped = asyncio.Event()
        self.draining = False
        self.siblings: dict[int, int] = {}  # slot -> channel descriptor, from OPEN_CHANNEL

    async def run(self, router: Router) -> int:
        """Serves until stopped or drained; the exit code."""
        loop = asyncio.get_running_loop()
        self._handle_commands(loop)
        generation, settings = self.generation, self.generation.settings
        own = self._sockets()
        close_all_but(own)
        self.directory = ModelDirectory(generation, self.slot)
        metrics = Metrics(generation.metrics, self.slot)
        self.app = Application(generation, self.directory, metrics, router)
        self.app.draining = generation.leaving
        self.acceptor = Acceptor(self.app, own, self.app.proxies)
        if self.acceptor.limit < settings.worker_connections:
            generation.log(
                "warning",
                f"worker_connections lowered from {settings.worker_connections} to "
                f"{self.acceptor.limit}: the limit of open files is too small; see "
                "worker_rlimit_nofile",
            )
        watch_timeouts(self.app, min(1.0, settings.header_timeout / 4, settings.body_timeout / 4))
        if generation.accept_early:
            self.acceptor.start()
        ready = loop.create_task(self._become_ready())
        await self.stopped.wait()
        ready.cancel()
        metrics.connections.set(0)
        metrics.flush()
        self.directory.close()
        if self.app.telemetry is not None:
            self.app.telemetry.close(LAST_EXPORT if self.draining else 0.0)
        return 0

    def _sockets(self) -> dict[socket.socket, Listener]:
        count = self.generation.workers
        return {
            one: listener
            for listener in self.generation.listeners
            for one in listener.for_worker(self.index, count)
        }

    async def _become_ready(self) -> None:
        """Accepts clients and reports READY once every model has a connected runner."""
        await self.directory.complete.wait()
        if not self.draining:
            self.acceptor.start()
        self.channel.send(ChannelMessage(Command.READY))

    # ---- commands of the master

    def _handle_commands(self, loop: asyncio.AbstractEventLoop) -> None:
        handlers = {"quit": self.quit, "terminate": self.terminate, "reopen": self.reopen}
        for entry in signals.TABLE:
            if entry.signal == signal.SIGCHLD:
                continue
            if entry.worker is None or (
                entry.signal == signal.SIGWINCH and not self.generation.settings.daemon
            ):
                signal.signal(entry.signal, signal.SIG_IGN)
            else:
                loop.add_signal_handler(entry.signal, handlers[entry.worker])
        signals.unblock()
        loop.add_reader(self.channel.socket.fileno(), self._on_channel)
        loop.add_reader(self.parent_pipe, self._on_master_exit)

    def _on_channel(self) -> None:
        for message in self.channel.receive() or []:
            match message.command:
                case Command.QUIT:
                    self.quit()
                case Command.TERMINATE:
                    self.terminate()
                case Command.REOPEN:
                    self.reopen()
                case Command.DRAIN:
                    self.announce_stop()
                case Command.OPEN_CHANNEL if message.fd is not None:
                    self._close_sibling(message.slot)
                    self.siblings[message.slot] = message.fd
                case Command.CLOSE_CHANNEL:
                    self._close_sibling(message.slot)

    def _close_sibling(self, slot: int) -> None:
        if slot in self.siblings:
            os.close(self.siblings.pop(slot))

    def _on_master_exit(self) -> None:
        asyncio.get_running_loop().remove_reader(self.parent_pipe)
        self.generation.log("error", f"worker {os.getpid()}: the master has exited")
        self.announce_stop()
        self.quit()

    def terminate(self) -> None:
        """Stops at once."""
        self.stopped.set()

    def reopen(self) -> None:
        """Reopens the log files."""
        self.generation.reopen_logs()

    def announce_stop(self) -> None:
        """Reports that the server is not ready, and asks clients to close, but still accepts."""
        self.generation.leaving = self.app.draining = True

    def quit(self) -> None:
        """Starts to drain."""
        if self.draining:
            return
        self.draining = self.app.draining = True
        self.acceptor.close()
        self.deadline = time.monotonic() + self.generation.settings.worker_shutdown_timeout
        self._check_drained()

    def _check_drained(self) -> None:
        """Stops once all clients have left or the timeout has passed."""
        idle = not self.app.connections and not self.acceptor.busy and not self.app.active
        if idle or time.monotonic() > self.deadline:
            self.stopped.set()
            return
        asyncio.get_running_loop().call_later(DRAIN_INTERVAL, self._check_drained)
