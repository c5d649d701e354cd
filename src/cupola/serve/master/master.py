"""The master supervises its children and does nothing else.

It opens the listening sockets but never accepts on them, and it never imports torch. Its loop
sleeps until a signal arrives, then processes the flags in nginx's order. Once the first generation
has started, no failure ends it: a step that fails is logged, and what it was for is retried.
"""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

from cupola.serve.generation import give_logs_to_workers
from cupola.serve.ipc import listeners, paths, signals
from cupola.serve.ipc.channel import FATAL, Command
from cupola.serve.ipc.signals import Flag
from cupola.serve.logs import Log
from cupola.serve.master import systemd
from cupola.serve.master.children import Child, ChildKind, ChildTable
from cupola.serve.master.generation_manager import GenerationManager
from cupola.serve.master.pid_file import PidFile
from cupola.serve.master.status import History, status_json
from cupola.serve.master.upgrade import start_binary
from cupola.serve.settings.settings import Settings

# TERM is repeated after 50, 100, 200 ... ms, up to a delay of 1 s; then KILL. In seconds.
FIRST_DELAY, LAST_TERM = 0.05, 1.0
LONGEST_SLEEP = 5.0  # seconds; what was missed because of a failure is then seen
STOPS = (Flag.TERMINATE, Flag.QUIT)
NOT_WHILE_STOPPING = {
    Flag.RECONFIGURE, Flag.CHANGE_BINARY, Flag.NOACCEPT, Flag.GROW, Flag.SHRINK,
}  # fmt: skip


class Master:
    """`load` reads the settings; it is called at start and at each reload."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        signals.block()
        self._load = load
        inherited = listeners.inherited()
        self.is_new_binary = bool(inherited) and os.environ.pop("CUPOLA_UPGRADE", "") == "1"
        self.parent = os.getppid()
        parent_pipe = os.pipe()
        self.table = ChildTable(parent_pipe)
        self.generations = GenerationManager(self.table, parent_pipe[0], inherited)
        self.flags: set[Flag] = set()
        self.new_binary: Child | None = None
        self.noaccepting = False
        self.term_delay = 0.0
        self.stop_announced = False
        self.delayed_stop: tuple[Flag, float] | None = None  # which, and when
        self.history = History()
        self.exit_code = 0

    # ---- start and loop

    def run(self) -> int:
        """Starts the first generation and supervises until stopped; the process's exit code."""
        settings = self._load()
        self.home = paths.make_home(paths.runtime_root(settings.runtime_dir), os.getpid())
        self.pid_file = PidFile(settings.pid_file)
        self.pid_file.check()
        self.generations.home = self.home
        self.generations.log = Log(settings.error_log, settings.log_level)
        try:
            self.generations.prepare(settings)
        except OSError as error:
            self.log("error", str(error))
            self._leave()
            return 1
        try:
            self.pid_file.write()
        except OSError as error:
            self.log("error", f"pid_file: {error}")
            self._fail()
        self._attempt(self._write_status)
        self.log("notice", f"master {os.getpid()} started")
        while not self._turn():
            pass
        self._leave()
        return self.exit_code

    def _attempt(self, step: Callable[..., object], *arguments: Any) -> None:
        """Runs a step; a failure is logged and does not end the master."""
        try:
            step(*arguments)
        except Exception as error:
            self.log("error", f"master: {step.__name__.strip('_')} failed: {error!r}")

    def log(self, level: str, message: str) -> None:
        """Writes to the error log of the current generation."""
        self.generations.log(level, message)

    def _turn(self) -> bool:
        """Processes the pending flags in nginx's order, then what is due. True to exit."""
        arrived = signals.wait(self._sleep())
        self.history.take(arrived)
        self.flags |= arrived
        self._attempt(self._read_channels)
        self._take(Flag.REAP)
        self._attempt(self._reap)
        if self._stopping and all(c.kind is ChildKind.DETACHED for c in self.table.living()):
            return True
        self._attempt(self._delay_stop)
        if Flag.TERMINATE in self.flags:
            self._attempt(self._terminate)
        elif Flag.QUIT in self.flags:
            self._attempt(self._quit)
        else:
            self._process_flags()
            self._attempt(self._make_progress)
            self._attempt(self._write_status)
        return False

    @property
    def _stopping(self) -> bool:
        return Flag.TERMINATE in self.flags or Flag.QUIT in self.flags

    def _process_flags(self) -> None:
        if self.delayed_stop is not None and (ignored := self.flags & NOT_WHILE_STOPPING):
            self.log("notice", f"ignored, since the server stops: {', '.join(sorted(ignored))}")
            self.flags -= ignored
        for flag, step in ((Flag.GROW, +1), (Flag.SHRINK, -1)):
            if self._take(flag):
                self._attempt(self._change_workers, step)
        if self._take(Flag.RECONFIGURE):
            self._attempt(self._reconfigure)
        if self._take(Flag.RESTART) and self.generations.current:
            self._attempt(self._restart_workers)
        if self._take(Flag.REOPEN):
            self._attempt(self._reopen)
        if self._take(Flag.CHANGE_BINARY):
            self._attempt(self._change_binary)
        if self._take(Flag.NOACCEPT):
            self._attempt(self._noaccept)

    def _change_workers(self, step: int) -> None:
        if not self.generations.change_workers(step):
            self.flags.add(Flag.RECONFIGURE)

    def _take(self, flag: Flag) -> bool:
        if flag in self.flags:
            self.flags.discard(flag)
            return True
        return False

    def _sleep(self) -> float:
        """Seconds until something is due, unless a signal arrives."""
        if self._stopping:  # a child exits, or the timer of `_terminate` expires
            return LONGEST_SLEEP
        moments = [child.due for child in self.table if child.due is not None]
        if pending := self.generations.pending:
            moments.append(pending.started + pending.settings.ready_timeout)
        if self.delayed_stop is not None:
            moments.append(self.delayed_stop[1])
        now = time.monotonic()
        return max(0.0, min([LONGEST_SLEEP, *(moment - now for moment in moments)]))

    # ---- a new generation

    def _reconfigure(self) -> None:
        if self.new_binary and self.generations.current:
            self.log("notice", "reload while a new binary is running: restarting the old workers")
            self._restart_workers()
            return
        systemd.reloading()
        self.log("notice", "reloading")
        try:
            self.generations.prepare(self._load())
        except Exception as error:  # of any kind: the settings file may be anything
            current = self.generations.current
            kept = current.number if current else 0
            self.log("error", f"reload refused, keeping generation {kept}: {error}")
            systemd.ready("reload refused")

    def _restart_workers(self) -> None:
        self.noaccepting = False
        self.generations.restart_workers()

    def _make_progress(self) -> None:
        if not self.generations.progress():  # the first generation failed
            self._fail()

    def _fail(self) -> None:
        """Stops, because the start failed."""
        self.exit_code, self.stop_announced = 1, True
        self.flags.add(Flag.TERMINATE)
        self._terminate()

    # ---- stopping

    def _delay_stop(self) -> None:
        """Puts QUIT or TERM off by `drain_delay`, during which nothing but readiness changes.

        TERM during the delay ends it. Without a delay, only announces the stop. If another master
        accepts on the same sockets, clients need not notice anything.
        """
        asked = [flag for flag in STOPS if flag in self.flags]
        if self.delayed_stop is None:
            if not asked or self.stop_announced or self.new_binary or self._parent_is_alive:
                return
            self.stop_announced = True
            self.generations.announce_stop()
            current = self.generations.current
            if current and (delay := current.settings.drain_delay):
                self.delayed_stop = asked[0], time.monotonic() + delay
                self.flags -= set(STOPS)
                systemd.stopping()
                self.log("notice", f"stopping in {delay:g} s; until then not ready, but accepting")
            return
        flag, due = self.delayed_stop
        if Flag.TERMINATE in asked or time.monotonic() >= due:
            self.delayed_stop = None
            self.flags.add(flag)
        else:
            self.flags.discard(Flag.QUIT)

    @property
    def _parent_is_alive(self) -> bool:
        """Whether the master that started this one by USR2 is running."""
        return self.is_new_binary and os.getppid() == self.parent

    def _terminate(self) -> None:
        """Sends TERM at once and at each timer, whose delay doubles; finally KILL."""
        if self.term_delay == 0.0:
            systemd.stopping()
            self.term_delay = FIRST_DELAY
            self.table.broadcast(Command.TERMINATE, self.table.living())
        elif not self._take(Flag.SIGALRM):
            return
        else:
            command = Command.TERMINATE if self.term_delay <= LAST_TERM else None
            self.table.broadcast(command, self.table.living())
            self.term_delay *= 2
        signal.setitimer(signal.ITIMER_REAL, self.term_delay)

    def _quit(self) -> None:
        systemd.stopping()
        self.generations.end_pending("the server stops")
        self.table.broadcast(Command.QUIT, [c for c in self.table.living() if not c.exiting])
        if current := self.generations.current:
            for listener in current.listeners:
                listener.close(unlink=self.new_binary is None)

    def _noaccept(self) -> None:
        current = self.generations.current
        if current and current.settings.daemon:
            self.noaccepting = True
            workers = [child for child in self.table.living() if child.role == "worker"]
            self.table.broadcast(Command.QUIT, workers)

    def _leave(self) -> None:
        """Removes the files of this master."""
        self.log("notice", f"master {os.getpid()} exits")
        self.pid_file.remove(upgrading=self.new_binary is not None)
        paths.remove_home(self.home)

    # ---- children

    def _read_channels(self) -> None:
        self._take(Flag.CHANNEL)
        for child in self.table.living():
            for message in (child.channel.receive() if child.channel else None) or []:
                if message.command is Command.READY:
                    child.ready = True
                if message.fd is not None:
                    os.close(message.fd)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self.table.by_pid(pid)
            if child is not None:
                self._attempt(self._on_exit, child, os.waitstatus_to_exitcode(status))

    def _on_exit(self, child: Child, code: int) -> None:
        pid, uptime = child.pid, time.monotonic() - child.started
        self.table.on_exit(child)
        for generation in self.generations.all():
            self._attempt(generation.sweep_spool, pid)
        if child is self.new_binary:
            self._on_new_binary_exit()
            return
        how = f"signal {-code}" if code < 0 else f"code {code}"
        self.log("info" if code == 0 else "warning", f"{child.role} {pid} exited with {how}")
        pending = self.generations.pending
        is_starting = pending is not None and child.generation == pending.number
        if child.respawn and code == FATAL and is_starting:
            child.respawn = False
            self.log("error", f"{child.role} {pid} exited with fatal code {FATAL}: not respawned")
        stopping = child.exiting or self.flags & {Flag.TERMINATE, Flag.QUIT}
        if child.respawn and not stopping:
            self.generations.schedule_respawn(child, uptime)
            return
        child.respawn = False
        is_retired = self.generations.is_retired(child)
        if child.exiting or child.kind is ChildKind.NORESPAWN or is_retired:
            self.table.remove(child)
        self.generations.discard_retired()

    # ---- logs, upgrade, status

    def _reopen(self) -> None:
        for generation in filter(None, (self.generations.current, self.generations.pending)):
            generation.reopen_logs()
            try:
                give_logs_to_workers(generation.settings, generation.log, generation.access_log)
            except Exception as error:
                self.log("error", f"cannot give the log files to the workers' user: {error}")
        self.table.broadcast(Command.REOPEN, self.table.living())

    def _change_binary(self) -> None:
        current = self.generations.current
        if self.new_binary or self._parent_is_alive or current is None:
            why = "another binary is running" if current else "the server is not ready yet"
            self.log("error", f"upgrade ignored: {why}")
            return
        self.log("notice", "starting a new binary")
        try:
            self.pid_file.set_aside()
        except OSError as error:
            self.log("error", f"upgrade refused: cannot rename the pid file: {error}")
            return
        self.generations.end_pending("superseded by the new binary")  # frees its new addresses
        new_binary = start_binary(self.table, current.listeners)
        if new_binary.alive:
            self.new_binary = new_binary
        else:
            self.pid_file.restore()

    def _on_new_binary_exit(self) -> None:
        self.log("warning", "the new binary has exited")
        assert self.new_binary is not None
        self.table.remove(self.new_binary)
        self.new_binary = None
        self.pid_file.restore()
        if self.noaccepting:
            self.flags.add(Flag.RESTART)

    def _write_status(self) -> None:
        status = status_json(
            self.generations, self.new_binary, self.noaccepting, self.flags, self.history
        )
        paths.write_atomically(self.home / "status.json", status)
