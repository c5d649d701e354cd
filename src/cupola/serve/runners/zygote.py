"""The zygote: a process that has imported torch and run no operator, and forks runners.

A runner born from it is ready in the time it takes to map the weights: no import, no page twice.
The zygote holds the runners' listening sockets, so that connections made while a runner is being
born again wait in the kernel. It tells the workers which runners exist (the roster), kills a
runner that hangs, and starts again one that died.
"""

import json
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from cupola.errors import CupolaError
from cupola.serve.ipc import frames as wire
from cupola.serve.ipc import paths
from cupola.serve.ipc.channel import Channel, Command, Message
from cupola.serve.master import signals
from cupola.serve.master.children import FATAL, Child
from cupola.serve.master.generation import Cycle
from cupola.serve.master.sockets import close_all_but
from cupola.serve.privileges import settle
from cupola.serve.runners.control_server import Desk
from cupola.serve.runners.loading import import_plugins, in_background, plugin_class
from cupola.serve.runners.runner_slot import START_LIMIT, Nest
from cupola.serve.settings.models import ModelPlan, plan_model
from cupola.serve.settings.settings import ModelSettings, granted_cpus

TICK = 0.25  # seconds between two looks at the boards
FAREWELL = 0.2  # a draining zygote goes this long after its last worker


def run_zygote(child: Child, channel: Channel, cycle: Cycle, life: int) -> NoReturn:
    """Entry of the process: imports, then supervises until told to go."""
    try:
        close_all_but([])
        settle(cycle.settings, child.index, 0)
        zygote = Zygote(channel, cycle, life)
        in_background(zygote.warm, cycle.loading_priority)
        code = zygote.run()
    except (CupolaError, OSError) as error:
        cycle.log("error", str(error))
        os._exit(FATAL)
    os._exit(code)


class Zygote:
    """The runners of one generation, and the workers that ask for them."""

    def __init__(self, channel: Channel, cycle: Cycle, life: int) -> None:
        self.channel, self.cycle, self.life = channel, cycle, life
        self.nests: list[Nest] = []
        self.waiting: list[tuple[socket.socket, int, list[Nest]]] = []
        self.said_ready = self.quitting = False
        self.code: int | None = None
        self.alone_since = 0.0
        self.incarnation = f"{os.getpid()}"
        self.selector = selectors.DefaultSelector()
        cpus = granted_cpus()
        runners = sum(plan.runners * plan.tensor_parallel for plan in cycle.plans)
        self.threads = cycle.settings.compute_threads or max(1, cpus // max(1, runners))

    def warm(self) -> None:
        """Imports all that runners need, once, so that they share its pages."""
        import_plugins(self.cycle.settings.plugins)
        tasks = {plan.task for plan in self.cycle.plans if plugin_class(plan.task) is None}
        if tasks:
            from cupola.runtime.load import warm  # with it, torch

            warm(tasks)

    # ---- the loop

    def run(self) -> int:
        """Supervises; the exit code. Models that cannot be loaded at start are fatal."""
        self._listen()
        for plan in self.cycle.plans:
            self._add(plan)
        self._told()
        while self.code is None:
            for key, _ in self.selector.select(self._pause()):
                key.data(key.fileobj)
            self._look_after()
        self._kill_all()
        return self.code

    def _listen(self) -> None:
        path = self.cycle.home / "zygote.sock"
        self.desk = Desk(path, self.selector, self.roster, self._obey)
        wake, wake_write = socket.socketpair()
        wake.setblocking(False)
        wake_write.setblocking(False)
        self.wake = (wake, wake_write)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
            signal.signal(number, self._on_signal)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for ignored in (signal.SIGHUP, signal.SIGUSR2, signal.SIGIO, signal.SIGWINCH):
            signal.signal(ignored, signal.SIG_IGN)
        signals.unblock()
        self._watch(wake, lambda _: wake.recv(4096))
        self._watch(self.channel.socket, self._on_channel)
        self._watch(self.life, self._master_died)

    def _watch(self, source: Any, react: Callable[[Any], object]) -> None:
        self.selector.register(source, selectors.EVENT_READ, react)

    def _pause(self) -> float:
        moments = [nest.due - time.monotonic() for nest in self.nests if nest.due is not None]
        return max(0.0, min([TICK, *moments]))

    def _on_signal(self, number: int, _: Any) -> None:
        if number == signal.SIGQUIT:
            self.quitting = True
        elif number == signal.SIGUSR1:
            self._reopen()
        else:
            self.code = 0

    def _on_channel(self, _: Any) -> None:
        for message in self.channel.receive() or []:
            if message.command is Command.QUIT:
                self.quitting = True
            elif message.command is Command.TERMINATE:
                self.code = 0
            elif message.command is Command.REOPEN:
                self._reopen()
            elif message.fd is not None:
                os.close(message.fd)

    def _reopen(self) -> None:
        with suppress(OSError):
            self.cycle.log.file.reopen()

    def _master_died(self, life: int) -> None:
        self.selector.unregister(life)
        self.quitting = True

    # ---- runners

    def _add(self, plan: ModelPlan) -> list[Nest]:
        made = [
            Nest(plan, index, self.incarnation, self.cycle, self.threads)
            for index in range(plan.runners)
        ]
        self.nests += made
        for nest in made:
            self._hatch(nest)
        return made

    def _hatch(self, nest: Nest) -> None:
        nest.hatch(self._forget_everything)
        self._watch(nest.pipe, lambda _: self._hear(nest))

    def _forget_everything(self, keep: Nest) -> None:
        """In a newborn runner: drops what belongs to the zygote."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self.desk.close()
        self.channel.close()
        for end in self.wake:
            end.close()
        for nest in self.nests:
            if nest is not keep:
                nest.close_zygote_side()

    def _hear(self, nest: Nest) -> None:
        """A runner says READY with its inputs and outputs, or why it cannot start."""
        data = nest.pipe.recv(1024 * 1024)
        if not data:
            self.selector.unregister(nest.pipe)
            return
        nest.heard += data
        if not nest.heard.endswith(b"\n"):
            return
        said = json.loads(nest.heard.splitlines()[0])  # of several ranks, the first to speak
        nest.heard = b""
        if "failed" in said:
            nest.failure = said["failed"]
            self.cycle.log("error", f"{nest.title}: {nest.failure}")
            return
        nest.state, nest.described = "ready", said
        self.cycle.log("info", f"{nest.title} is ready after {nest.age * 1000:.0f} ms")
        self._told()

    def _look_after(self) -> None:
        self._reap()
        now = time.monotonic()
        for nest in self.nests:
            if nest.due is not None and now >= nest.due:
                nest.respawns += 1
                self._hatch(nest)
            elif nest.hangs(self.cycle.settings.hang_timeout):
                self.cycle.log("error", f"{nest.title} hangs: killed")
                nest.kill()
        if self.quitting:
            self._farewell(now)

    def _farewell(self, now: float) -> None:
        """Goes once no worker has been connected for a moment; until then all is kept up."""
        if self.desk.workers:
            self.alone_since = 0.0
        elif not self.alone_since:
            self.alone_since = now
        elif now - self.alone_since > FAREWELL:
            self.code = 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            nest = next((nest for nest in self.nests if pid in nest.pids), None)
            if nest is not None:
                self._bury(nest, pid, os.waitstatus_to_exitcode(status))

    def _bury(self, nest: Nest, pid: int, code: int) -> None:
        self.cycle.sweep_spool(pid)
        self._hear_last_words(nest)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        self.cycle.log("warning", f"{nest.title} {pid} ended with {how}")
        if not nest.buried(pid, code):
            return
        code = nest.ended_with
        if nest.removed:
            self.nests.remove(nest)
        elif code == FATAL and not nest.was_ready and not self.said_ready:
            self.code = FATAL  # a model that cannot start: this generation is no good
        elif code == FATAL and not nest.described:
            nest.state, nest.due = "failed", None
        else:
            nest.plan_respawn(self.cycle.settings)
            if not self.said_ready and nest.deaths >= START_LIMIT:
                self.code = FATAL
        self._told()

    def _hear_last_words(self, nest: Nest) -> None:
        with suppress(OSError, ValueError, KeyError):
            self._hear(nest)
        with suppress(KeyError, ValueError):
            self.selector.unregister(nest.pipe)

    def _kill_all(self) -> None:
        for nest in self.nests:
            nest.kill()

    # ---- orders of workers

    def _obey(self, worker: socket.socket, order: dict[str, Any]) -> None:
        if order["op"] == "load":
            self._load(worker, order)
        elif order["op"] == "unload":
            self._unload(order)
            self.desk.tell(worker, wire.message("done", id=order["id"]))

    def _load(self, worker: socket.socket, order: dict[str, Any]) -> None:
        """A model beside, or instead of, those that run; answered once it is in service."""
        wanted = ModelSettings(**order["model"])
        plan = plan_model(wanted, self.cycle.settings)
        old = [n for n in self.nests if (n.plan.name, n.plan.version) == (plan.name, plan.version)]
        added = self._add(plan)
        for nest in added:
            nest.replaces = [other for other in old if not other.removed]
        self.waiting.append((worker, order["id"], added))

    def _unload(self, order: dict[str, Any]) -> None:
        gone = [n for n in self.nests if n.plan.name == order["name"] and not n.removed]
        if order.get("version"):
            gone = [nest for nest in gone if nest.plan.version == order["version"]]
        for nest in gone:
            self._retire(nest)
        self._told()

    def _retire(self, nest: Nest) -> None:
        """Off the roster at once; the process ends when its workers have let go of it."""
        nest.removed, nest.due = True, None
        nest.orphan()
        if not nest.pids:
            self.nests.remove(nest)

    # ---- what is so

    def _told(self) -> None:
        """Something changed: finishes loads, tells the workers, and once the master."""
        answers = self._finish_loads()
        self.desk.tell_all(self.roster())
        for worker, answer in answers:
            self.desk.tell(worker, answer)
        if not self.said_ready and all(nest.state == "ready" for nest in self.nests):
            self.said_ready = True
            self.channel.send(Message(Command.READY))
        text = json.dumps({"pid": os.getpid(), "runners": [n.to_json() for n in self.nests]})
        paths.write_atomically(self.cycle.home / "runners.json", text)

    def _finish_loads(self) -> list[tuple[socket.socket, wire.Frame]]:
        """The loads that succeeded or failed: who asked, and what to answer."""
        answers = []
        for entry in list(self.waiting):
            worker, number, added = entry
            failed = next((nest for nest in added if nest.state == "failed" or nest.failure), None)
            if failed is None and not all(nest.state == "ready" for nest in added):
                continue
            self.waiting.remove(entry)
            why = (failed.failure or "its process died at start") if failed else None
            for nest in added if failed else {o for n in added for o in n.replaces}:
                if not nest.removed:
                    self._retire(nest)
            for nest in added:
                nest.replaces = []
            answers.append((worker, wire.message("done", id=number, error=why)))
        return answers

    def roster(self) -> wire.Frame:
        """Every model with its runners' sockets; a model being replaced shows the old ones."""
        hidden = {id(nest) for _, _, added in self.waiting for nest in added}
        shown = [nest for nest in self.nests if not nest.removed and id(nest) not in hidden]
        return wire.message(
            "roster",
            complete=self.said_ready or all(nest.state == "ready" for nest in self.nests),
            runners=[nest.to_json() for nest in shown],
        )
