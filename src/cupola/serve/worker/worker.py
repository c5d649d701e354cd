"""A worker: accepts, judges, forwards, answers. asyncio on uvloop, no torch.

At QUIT it leaves the listening sockets to others, answers what is in flight, tells keep-alive
clients `Connection: close` with their next answer, and goes when nobody is left or the shutdown
timeout has passed. When the master dies it does the same.
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
from cupola.serve.ipc.channel import Channel, Command, Message
from cupola.serve.master import signals
from cupola.serve.master.children import FATAL, Child
from cupola.serve.master.generation import Cycle
from cupola.serve.master.sockets import close_all_but
from cupola.serve.privileges import settle
from cupola.serve.worker.accepting import Acceptor, watch_time
from cupola.serve.worker.app import Application
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import Fleet

LOOK = 0.05  # seconds between two looks at whether a draining worker is done


def run_worker(child: Child, channel: Channel, cycle: Cycle, life: int) -> NoReturn:
    """Entry of the process. What cannot be set up is fatal: exit code 2."""
    gc.freeze()  # what was made before the fork stays out of collections, and its pages shared
    gc.set_threshold(20_000, 20, 50)
    try:
        settle(cycle.settings, child.index, cycle.settings.worker_priority)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            code = runner.run(Worker(child, channel, cycle, life).run())
    except (CupolaError, OSError) as error:
        cycle.log("error", f"worker {os.getpid()}: {error}")
        code = FATAL
    os._exit(code)


class Worker:
    """One worker's life, from start to the last answer."""

    def __init__(self, child: Child, channel: Channel, cycle: Cycle, life: int) -> None:
        self.child, self.channel, self.cycle, self.life = child, channel, cycle, life
        self.over = asyncio.Event()
        self.draining = False
        self.siblings: dict[int, int] = {}  # slot -> channel descriptor, by OPEN_CHANNEL

    async def run(self) -> int:
        """Serves until there is nothing left to do."""
        loop = asyncio.get_running_loop()
        self._listen_to_master(loop)
        settings = self.cycle.settings
        own = self._sockets()
        close_all_but(own)
        self.fleet = Fleet(self.cycle, self.child.slot)
        metrics = Metrics(self.cycle.metrics, self.child.slot, self.cycle.generation)
        self.app = Application(self.cycle, self.fleet, metrics)
        self.acceptor = Acceptor(self.app, own)
        watch_time(self.app, min(1.0, settings.header_timeout / 4, settings.body_timeout / 4))
        if self.cycle.accept_early:
            self.acceptor.start()
        ready = loop.create_task(self._become_ready())
        await self.over.wait()
        ready.cancel()
        metrics.connections.set(0)
        metrics.flush()
        self.fleet.close()
        return 0

    def _sockets(self) -> list[socket.socket]:
        count = self.cycle.workers
        return [
            one
            for listener in self.cycle.listeners
            for one in listener.for_worker(self.child.index, count)
        ]

    async def _become_ready(self) -> None:
        """READY once every model has a runner that said hello; only then new clients."""
        await self.fleet.complete.wait()
        if not self.draining:
            self.acceptor.start()
        self.channel.send(Message(Command.READY))

    # ---- the master's word

    def _listen_to_master(self, loop: asyncio.AbstractEventLoop) -> None:
        acts = {"quit": self.quit, "terminate": self.terminate, "reopen": self.reopen}
        for entry in signals.TABLE:
            if entry.signal == signal.SIGCHLD:
                continue
            if entry.worker is None or (
                entry.signal == signal.SIGWINCH and not self.cycle.settings.daemon
            ):
                signal.signal(entry.signal, signal.SIG_IGN)
            else:
                loop.add_signal_handler(entry.signal, acts[entry.worker])
        signals.unblock()
        loop.add_reader(self.channel.socket.fileno(), self._on_channel)
        loop.add_reader(self.life, self._master_died)

    def _on_channel(self) -> None:
        for message in self.channel.receive() or []:
            match message.command:
                case Command.QUIT:
                    self.quit()
                case Command.TERMINATE:
                    self.terminate()
                case Command.REOPEN:
                    self.reopen()
                case Command.OPEN_CHANNEL if message.fd is not None:
                    self._close_sibling(message.slot)
                    self.siblings[message.slot] = message.fd
                case Command.CLOSE_CHANNEL:
                    self._close_sibling(message.slot)

    def _close_sibling(self, slot: int) -> None:
        if slot in self.siblings:
            os.close(self.siblings.pop(slot))

    def _master_died(self) -> None:
        asyncio.get_running_loop().remove_reader(self.life)
        self.cycle.log("error", f"worker {os.getpid()}: the master is gone")
        self.quit()

    def terminate(self) -> None:
        """At once."""
        self.over.set()

    def reopen(self) -> None:
        """New log files; what cannot be opened leaves the old one in use."""
        for target in (self.cycle.log.file, self.cycle.access_log):
            if target is not None:
                try:
                    target.reopen()
                except OSError as error:
                    self.cycle.log("error", f"reopen failed, the old log stays in use: {error}")

    def quit(self) -> None:
        """Drains. Once only."""
        if self.draining:
            return
        self.draining = self.app.draining = True
        self.acceptor.close()
        self.deadline = time.monotonic() + self.cycle.settings.worker_shutdown_timeout
        self._look()

    def _look(self) -> None:
        """Is anybody left?"""
        nobody = not self.app.connections and not self.acceptor.busy and not self.app.active
        if nobody or time.monotonic() > self.deadline:
            self.over.set()
            return
        asyncio.get_running_loop().call_later(LOOK, self._look)
