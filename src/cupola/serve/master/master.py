"""The master: supervises its children and does nothing else.

It opens the sockets and never accepts on them, and it never loads torch. One loop: sleep until a
signal, then serve the flags in nginx's order.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cupola.errors import CupolaError
from cupola.serve.ipc import paths
from cupola.serve.ipc.channel import Command
from cupola.serve.logs import Log
from cupola.serve.master import signals, sockets, systemd
from cupola.serve.master.children import FATAL, Child, Kind, Table
from cupola.serve.master.generation import give_to_workers
from cupola.serve.master.generation_manager import Succession
from cupola.serve.master.signals import Flag
from cupola.serve.master.status import master_status
from cupola.serve.master.upgrade import start_binary
from cupola.serve.settings.settings import Settings

FIRST_DELAY, LAST_TERM = 0.05, 1.0  # seconds; TERM doubles from one to the other, then KILL


class Master:
    """`load` reads the settings; it is called at start and at each reload."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        signals.block()
        self._load = load
        inherited = sockets.inherited()
        self.is_new_binary = bool(inherited) and os.environ.pop("CUPOLA_UPGRADE", "") == "1"
        self.parent = os.getppid()
        self.life = os.pipe()
        self.table = Table(self.life)
        self.succession = Succession(self.table, self.life[0], inherited)
        self.flags: set[Flag] = set()
        self.new_binary: Child | None = None
        self.noaccepting = False
        self.delay = 0.0
        self.counts: dict[str, int] = {}
        self.exit_code = 0

    # ---- start and loop

    def run(self) -> int:
        """Starts the first cycle and supervises until told to go; the process's exit code."""
        settings = self._load()
        self.home = paths.make_home(paths.runtime_root(settings.runtime_dir), os.getpid())
        self.pid_file = settings.pid_file
        self.succession.home = self.home
        self.succession.log = Log(settings.error_log, settings.log_level)
        try:
            self.succession.prepare(settings)
        except OSError as error:
            self.log("error", str(error))
            self._leave()
            return 1
        self._write_pid()
        self._write_status()
        self.log("notice", f"master {os.getpid()} started")
        while not self._turn():
            pass
        self._leave()
        return self.exit_code

    def log(self, level: str, message: str) -> None:
        """Into the error log of the generation in service."""
        self.succession.log(level, message)

    def _turn(self) -> bool:
        """One wake: the flags in nginx's order, then what is due. True when it is time to go."""
        arrived = signals.wait(self._sleep())
        for flag in arrived:
            self.counts[flag] = self.counts.get(flag, 0) + 1
        self.flags |= arrived
        self._read_channels()
        if self._take(Flag.REAP):
            self._reap()
        going = Flag.TERMINATE in self.flags or Flag.QUIT in self.flags
        if going and not any(c.kind is not Kind.DETACHED for c in self.table.living()):
            return True
        if Flag.TERMINATE in self.flags:
            self._terminate()
            return False
        if Flag.QUIT in self.flags:
            self._quit()
            return False
        self._serve_flags()
        self._make_progress()
        self._write_status()
        return False

    def _serve_flags(self) -> None:
        for flag, step in ((Flag.GROW, +1), (Flag.SHRINK, -1)):
            if self._take(flag) and not self.succession.change_workers(step):
                self.flags.add(Flag.RECONFIGURE)
        if Flag.RECONFIGURE in self.flags and self.succession.pending is None:
            self.flags.discard(Flag.RECONFIGURE)
            self._reconfigure()
        if self._take(Flag.RESTART) and self.succession.current:
            self._start_workers_again()
        if self._take(Flag.REOPEN):
            self._reopen()
        if self._take(Flag.CHANGE_BINARY):
            self._change_binary()
        if self._take(Flag.NOACCEPT):
            self._noaccept()

    def _take(self, flag: Flag) -> bool:
        if flag in self.flags:
            self.flags.discard(flag)
            return True
        return False

    def _sleep(self) -> float | None:
        """How long until something is due without a signal; None: for ever."""
        moments = [child.due for child in self.table if child.due is not None]
        if pending := self.succession.pending:
            moments.append(pending.started + pending.settings.ready_timeout)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # ---- a new generation

    def _reconfigure(self) -> None:
        if self.new_binary and self.succession.current:
            self.log("notice", "reload while a new binary runs: starting our workers again")
            self._start_workers_again()
            return
        systemd.reloading()
        self.log("notice", "reloading")
        try:
            self.succession.prepare(self._load())
        except (CupolaError, OSError) as error:
            stays = self.succession.current.generation if self.succession.current else 0
            self.log("error", f"reload refused, generation {stays} stays: {error}")
            systemd.ready("reload refused")

    def _start_workers_again(self) -> None:
        self.noaccepting = False
        self.succession.start_workers_again()

    def _make_progress(self) -> None:
        if not self.succession.progress():  # the first generation failed
            self.exit_code = 1
            self.flags.add(Flag.TERMINATE)
            self._terminate()

    # ---- going

    def _terminate(self) -> None:
        """TERM at once and at each alarm, which come 50, 100, 200 ... ms apart; at last KILL."""
        if self.delay == 0.0:
            systemd.stopping()
            self.delay = FIRST_DELAY
            self.table.tell(Command.TERMINATE, self.table.living())
        elif not self._take(Flag.SIGALRM):
            return
        else:
            command = Command.TERMINATE if self.delay <= LAST_TERM else None
            self.table.tell(command, self.table.living())
            self.delay *= 2
        signal.setitimer(signal.ITIMER_REAL, self.delay)

    def _quit(self) -> None:
        systemd.stopping()
        self.table.tell(Command.QUIT, [c for c in self.table.living() if not c.exiting])
        if cycle := self.succession.current:
            for listener in cycle.listeners:
                listener.close(unlink=self.new_binary is None)

    def _noaccept(self) -> None:
        cycle = self.succession.current
        if cycle and cycle.settings.daemon:
            self.noaccepting = True
            self.table.tell(Command.QUIT, [c for c in self.table.living() if c.role == "worker"])

    def _leave(self) -> None:
        """Removes what is ours on disk; under an upgrade the new binary owns the pid file."""
        self.log("notice", f"master {os.getpid()} exits")
        with suppress(OSError):
            if self.pid_file:
                own = self._old_pid_file() if self.new_binary else self.pid_file
                if own.read_text().strip() == str(os.getpid()):
                    own.unlink()
        paths.remove_home(self.home)

    # ---- children

    def _read_channels(self) -> None:
        self._take(Flag.CHANNEL)
        for child in self.table.living():
            for message in (child.channel.receive() if child.channel else None) or []:
                if message.command is Command.READY:
                    child.ready = True

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
                self._bury(child, os.waitstatus_to_exitcode(status))

    def _bury(self, child: Child, code: int) -> None:
        lived = time.monotonic() - child.started
        pid = child.pid
        self.table.forget(child)
        for cycle in self.succession.cycles():
            cycle.sweep_spool(pid)
        if child is self.new_binary:
            self._binary_gone()
            return
        how = f"signal {-code}" if code < 0 else f"code {code}"
        level = "info" if code == 0 else "warning"
        self.log(level, f"{child.role} {pid} ended with {how}")
        going = child.exiting or self.flags & {Flag.TERMINATE, Flag.QUIT}
        if child.respawn and code == FATAL:
            child.respawn = False
            self.log("error", f"{child.role} {pid} ended with fatal code {FATAL}: not respawned")
        if child.respawn and not going:
            self.succession.plan_respawn(child, lived)
            return
        child.respawn = False
        if child.exiting or child.kind is Kind.NORESPAWN or self.succession.is_retired(child):
            self.table.children.pop(child.slot)
        self.succession.discard_retired()

    # ---- logs, binary, files

    def _reopen(self) -> None:
        for cycle in filter(None, (self.succession.current, self.succession.pending)):
            try:
                cycle.log.file.reopen()
                if cycle.access_log:
                    cycle.access_log.reopen()
                give_to_workers(cycle)
            except OSError as error:
                self.log("error", f"reopen failed, the old log stays in use: {error}")
        self.table.tell(Command.REOPEN, self.table.living())

    def _change_binary(self) -> None:
        parent_lives = self.is_new_binary and os.getppid() == self.parent
        cycle = self.succession.current
        if self.new_binary or parent_lives or cycle is None:
            self.log("error", "upgrade ignored: another binary runs")
            return
        self.log("notice", "starting a new binary")
        if self.pid_file:
            self.pid_file.rename(self._old_pid_file())
        self.new_binary = start_binary(self.table, cycle.listeners)

    def _binary_gone(self) -> None:
        self.log("warning", "the new binary is gone")
        assert self.new_binary is not None
        self.table.children.pop(self.new_binary.slot)
        self.new_binary = None
        with suppress(OSError):
            if self.pid_file:
                self._old_pid_file().rename(self.pid_file)
        if self.noaccepting:
            self.flags.add(Flag.RESTART)

    def _old_pid_file(self) -> Path:
        assert self.pid_file is not None
        return self.pid_file.with_name(self.pid_file.name + paths.OLD_SUFFIX)

    def _write_pid(self) -> None:
        if self.pid_file:
            paths.write_atomically(self.pid_file, f"{os.getpid()}\n")

    def _write_status(self) -> None:
        paths.write_atomically(self.home / "status.json", master_status(self))
