"""The zygote: a process that has imported torch but executed no operator, and forks the runners.

A forked runner needs no imports and shares the zygote's pages, so it is ready once its weights are
mapped. The zygote holds the runners' listening sockets, so connections made during a respawn wait
in the kernel. It sends the workers the list of runners (the roster), kills a runner that hangs and
respawns one that has died. Once its models are ready, no failure ends it: what fails is logged, and
retried with a delay.
"""

import json
import os
import selectors
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from cupola.cores import available_cores, oversubscribed
from cupola.errors import ConfigError, CupolaError
from cupola.serve.generation import Generation
from cupola.serve.ipc import frames, paths, signals
from cupola.serve.ipc.channel import FATAL, Channel, ChannelMessage, Command
from cupola.serve.ipc.listeners import close_all_but
from cupola.serve.process_setup import setup_process
from cupola.serve.runners.control_server import ControlRequest, ControlServer
from cupola.serve.runners.loading import in_background
from cupola.serve.runners.main import run_process
from cupola.serve.runners.recycling import Recycler
from cupola.serve.runners.runner_slot import START_ATTEMPTS, RunnerSlot
from cupola.serve.runners.slot_table import PendingLoad, SlotTable
from cupola.serve.runners.warming import warm_up
from cupola.serve.settings.file import model_settings
from cupola.serve.settings.models import ModelPlan, plan_model
from cupola.serve.telemetry.exporting import LAST_EXPORT

CHECK_INTERVAL = 0.25  # seconds between two checks of the scoreboards
FAILURE_PAUSE = 0.01  # seconds after a step that failed
LINGER = 0.2  # seconds that a draining zygote stays after its last worker


def run_zygote(generation: Generation, channel: Channel, parent_pipe: int) -> NoReturn:
    """Entry point of the process: imports, then supervises runners until told to stop."""
    try:
        close_all_but([])
        setup_process(generation.settings)
        zygote = Zygote(generation, channel, parent_pipe)
        in_background(partial(warm_up, generation), generation.loading_priority)
        code = zygote.run()
    except (CupolaError, OSError) as error:
        generation.log("error", str(error))
        os._exit(FATAL)
    os._exit(code)


class Zygote:
    """Supervises the runners of one generation."""

    def __init__(self, generation: Generation, channel: Channel, parent_pipe: int) -> None:
        self.generation, self.channel, self.parent_pipe = generation, channel, parent_pipe
        self.table = SlotTable()
        self.recycler = Recycler(self.table, self._add_like, self._publish, generation.log)
        self.reported_ready = self.quitting = False
        self.code: int | None = None
        self.idle_since = 0.0
        self.loads = 0
        self.selector = selectors.DefaultSelector()
        self.cores = available_cores()
        self.has_warned = False  # of more threads than cores
        runners = sum(plan.runners * plan.tensor_parallel for plan in generation.plans)
        share = max(1, self.cores // max(1, runners))
        self.threads = generation.settings.compute_threads or share

    # ---- the loop

    def run(self) -> int:
        """Supervises until stopped; the exit code. A model that cannot be loaded is fatal."""
        self._listen()
        for plan in self.generation.plans:
            self._add(plan)
        self._publish()
        while self.code is None:
            for key, _ in self.selector.select(self._pause()):
                self._attempt(key.data, key.fileobj)
            self._attempt(self._supervise)
        if self.quitting and self.generation.settings.otel_endpoint:
            self._let_runners_export()
        for slot in self.table.slots:
            slot.kill()
        return self.code

    def _let_runners_export(self) -> None:
        """Gives the runners, which no worker needs any more, the time for their last spans."""
        for slot in self.table.slots:
            slot.release()
        end = time.monotonic() + LAST_EXPORT + 0.5
        while any(slot.pids for slot in self.table.slots) and time.monotonic() < end:
            for slot in self.table.slots:
                slot.pids[:] = [pid for pid in slot.pids if os.waitpid(pid, os.WNOHANG)[0] == 0]
            time.sleep(0.01)

    def _attempt(self, step: Callable[..., object], *arguments: Any) -> None:
        """Runs a step; a failure is logged and does not end the zygote."""
        try:
            step(*arguments)
        except Exception as error:
            name = getattr(step, "__name__", "step").strip("_<>")
            self.generation.log("error", f"zygote: {name} failed: {error!r}")
            time.sleep(FAILURE_PAUSE)  # the cause may still be there in the next turn

    def _listen(self) -> None:
        path = self.generation.home / "zygote.sock"
        self.control = ControlServer(path, self.selector, self._roster, self._on_request)
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
        self._watch(self.parent_pipe, self._on_master_exit)

    def _watch(self, source: Any, react: Callable[[Any], object]) -> None:
        self.selector.register(source, selectors.EVENT_READ, react)

    def _pause(self) -> float:
        now = time.monotonic()
        moments = [slot.due - now for slot in self.table.slots if slot.due is not None]
        return max(0.0, min([CHECK_INTERVAL, *moments]))

    def _on_signal(self, number: int, _: Any) -> None:
        if number == signal.SIGQUIT:
            self.quitting = True
        elif number == signal.SIGUSR1:
            self.generation.reopen_logs()
        else:
            self.code = 0

    def _on_channel(self, _: Any) -> None:
        for message in self.channel.receive() or []:
            if message.command is Command.QUIT:
                self.quitting = True
            elif message.command is Command.TERMINATE:
                self.code = 0
            elif message.command is Command.REOPEN:
                self.generation.reopen_logs()
            elif message.fd is not None:
                os.close(message.fd)

    def _on_master_exit(self, parent_pipe: int) -> None:
        self.selector.unregister(parent_pipe)
        self.quitting = True

    # ---- runners

    def _add(self, plan: ModelPlan) -> list[RunnerSlot]:
        prefix = str(os.getpid())
        added: list[RunnerSlot] = []
        try:
            for index in range(plan.runners):
                added.append(RunnerSlot(plan, index, prefix, self.generation, self.threads))
        except Exception:
            for slot in added:
                slot.close()
            raise
        self.table.slots += added
        self._warn_if_oversubscribed()
        for slot in added:
            self._spawn(slot)
        return added

    def _warn_if_oversubscribed(self) -> None:
        """Logs once that the runners have more threads than there are cores.

        With one thread each, the runners of different models are no problem: an idle one sleeps.
        """
        by_model: Counter[tuple[str, str]] = Counter()
        for slot in self.table.slots:
            by_model[slot.plan.name, slot.plan.version] += slot.plan.tensor_parallel
        processes = max(by_model.values()) if self.threads == 1 else by_model.total()
        problem = oversubscribed(processes, self.threads, self.cores)
        if problem and not self.has_warned:
            self.has_warned = True
            self.generation.log("warning", problem)

    def _add_like(self, old: RunnerSlot) -> RunnerSlot:
        """Starts a runner that is to replace another one, with measured engines."""
        slot = RunnerSlot(old.plan, old.index, str(os.getpid()), self.generation, self.threads)
        slot.replaces, slot.measures = old, old.provisional
        self.table.slots.append(slot)
        self._spawn(slot)
        return slot

    def _spawn(self, slot: RunnerSlot) -> None:
        try:
            report = slot.spawn(partial(run_process, detach=self._detach))
        except OSError as error:
            self.generation.log("error", f"cannot start {slot.title}: {error}")
            slot.failure = f"cannot start: {error}"
            if not slot.pids:  # else when the ranks that were started have been reaped
                self._retry(slot)
            return
        self._watch(report, lambda _: self._on_report(slot))

    def _detach(self, keep: RunnerSlot) -> None:
        """In a forked runner: closes what belongs to the zygote."""
        signal.set_wakeup_fd(-1)
        self.selector.close()
        self.control.close()
        self.channel.close()
        for end in self.wake:
            end.close()
        for slot in self.table.slots:
            if slot is not keep:
                slot.close()

    def _on_report(self, slot: RunnerSlot) -> None:
        """Reads a runner's description (it is ready), or why it has failed."""
        assert slot.report is not None
        try:
            data = slot.report.recv(1024 * 1024)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.selector.unregister(slot.report)
            return
        slot.received += data
        if not slot.received.endswith(b"\n"):
            return
        line, slot.received = (
            slot.received.splitlines()[0],
            b"",
        )  # of several ranks, the first one's
        report = json.loads(line)
        if "failed" in report:
            slot.failure = report["failed"]
            self.generation.log("error", f"{slot.title}: {slot.failure}")
            return
        slot.provisional = report.pop("provisional", False)
        slot.state, slot.description, slot.failure = "ready", report, ""
        self.recycler.on_ready(slot)
        self.generation.log("info", f"{slot.title} is ready after {slot.uptime * 1000:.0f} ms")
        self._publish()

    def _supervise(self) -> None:
        self._reap()
        now = time.monotonic()
        for slot in list(self.table.slots):
            if slot.due is not None and now >= slot.due:
                slot.respawns += 1
                self._spawn(slot)
            elif slot.is_hung(self.generation.settings.hang_limit):
                self.generation.log("error", f"{slot.title} hangs: killed")
                slot.kill()
        if self.quitting:
            self._drain(now)
        elif self.reported_ready:
            self.recycler.step(now)

    def _drain(self, now: float) -> None:
        """Exits once no worker has been connected for a moment."""
        if self.control.workers:
            self.idle_since = 0.0
        elif not self.idle_since:
            self.idle_since = now
        elif now - self.idle_since > LINGER:
            self.code = 0

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if (slot := self.table.by_pid(pid)) is not None:
                self._attempt(self._on_exit, slot, pid, os.waitstatus_to_exitcode(status))

    def _on_exit(self, slot: RunnerSlot, pid: int, code: int) -> None:
        self.generation.sweep_spool(pid)
        self._read_last_report(slot)
        how = f"signal {-code}" if code < 0 else f"code {code}"
        level = "notice" if slot.removed and code == 0 else "warning"
        self.generation.log(level, f"{slot.title} {pid} exited with {how}")
        if not slot.on_exit(pid, code):
            return
        if slot.report is not None:
            slot.report.close()
        is_fatal = slot.exit_code == FATAL
        if slot.removed:
            self.table.remove(slot)
        elif is_fatal and not slot.was_ready and not self.reported_ready:
            self.code = FATAL  # a model that cannot start fails the generation
        elif is_fatal and not slot.description:
            slot.state, slot.due = "failed", None
        else:
            self._retry(slot)
        self._publish()

    def _retry(self, slot: RunnerSlot) -> None:
        """Schedules the respawn; a model that cannot start at first fails the generation."""
        slot.schedule_respawn()
        if not self.reported_ready and slot.early_exits >= START_ATTEMPTS:
            self.code = FATAL

    def _read_last_report(self, slot: RunnerSlot) -> None:
        if slot.report is None:
            return
        with suppress(OSError, ValueError, KeyError, TypeError):
            self._on_report(slot)
        with suppress(KeyError, ValueError):
            self.selector.unregister(slot.report)

    # ---- requests of workers

    def _on_request(self, worker: socket.socket, request: ControlRequest) -> None:
        if self.generation.settings.admin == "off":
            raise ConfigError("the admin endpoints are off; see the setting `admin`")
        if request["op"] == "load":
            self._load(worker, request)
        elif request["op"] == "unload":
            for slot in self.table.of_model(request["name"], request.get("version")):
                self.table.retire(slot)
            self._publish()
            self.control.send(worker, frames.control("done", id=request["id"]))

    def _load(self, worker: socket.socket, request: ControlRequest) -> None:
        """Adds a model or replaces a version; answered once it is in service."""
        model = model_settings(request["model"])
        settings = self.generation.settings
        self.loads += 1  # a load reads the weights again, also those of the same version
        plan = replace(plan_model(model, settings, offline=True), load=self.loads)
        wanted = sum(slot.plan.tensor_parallel for slot in self.table.slots)
        wanted += plan.runners * plan.tensor_parallel
        if wanted > settings.max_runners:
            raise ConfigError(
                f"{plan.name}: there would be {wanted} runner processes, with max_runners = "
                f"{settings.max_runners}"
            )
        replaces = self.table.of_model(plan.name, plan.version)
        added = self._add(plan)
        self.table.loads.append(PendingLoad(worker, request["id"], added, replaces))

    # ---- state

    def _roster(self) -> frames.Frame:
        return self.table.roster(complete=self.reported_ready)

    def _publish(self) -> None:
        """After a change: answers finished loads, informs the workers and, once, the master."""
        answers = self.table.finish_loads()
        self.control.broadcast(self._roster())
        for worker, answer in answers:
            self.control.send(worker, answer)
        if not self.reported_ready and self.table.all_ready:
            self.reported_ready = True
            self.channel.send(ChannelMessage(Command.READY))
        runners = [slot.to_json() for slot in self.table.slots]
        text = json.dumps({"pid": os.getpid(), "runners": runners})
        paths.write_atomically(self.generation.home / "runners.json", text)
