"""The master: supervises its children and does nothing else.

It opens the sockets and never accepts on them, and it never loads torch. One loop: sleep until a
signal, then serve the flags in nginx's order. What nginx does at once and hopes for (new workers,
100 ms, then QUIT to the old) waits here until every process of the new generation says READY.
"""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from cupola.errors import CupolaError
from cupola.serve import paths, signals, sockets, systemd
from cupola.serve.channel import Command
from cupola.serve.cycle import Cycle, build_cycle, give_to_workers
from cupola.serve.generation import start_cache, start_children, start_worker
from cupola.serve.logs import Log
from cupola.serve.process import FATAL, Child, Kind, Table
from cupola.serve.settings import Settings
from cupola.serve.signals import Flag
from cupola.serve.status import master_status
from cupola.serve.upgrade import start_binary

FIRST_DELAY, LAST_TERM = 0.05, 1.0  # seconds; TERM doubles from one to the other, then KILL


class Master:
    """`load` reads the settings; it is called at start and at each reload."""

    def __init__(self, load: Callable[[], Settings]) -> None:
        signals.block()
        self._load = load
        self.inherited = sockets.inherited()
        self.is_new_binary = bool(self.inherited) and os.environ.pop("CUPOLA_UPGRADE", "") == "1"
        self.parent = os.getppid()
        self.life = os.pipe()
        self.table = Table(self.life)
        self.flags: set[Flag] = set()
        self.cycle: Cycle | None = None
        self.pending: Cycle | None = None
        self.retired: list[Cycle] = []
        self.generation = 0
        self.extra_workers = 0
        self.new_binary: Child | None = None
        self.noaccepting = False
        self.delay = 0.0
        self.counts: dict[str, int] = {}
        self.log = Log()
        self.exit_code = 0

    # ---- start and loop

    def run(self) -> int:
        """Starts the first cycle and supervises until told to go; the process's exit code."""
        settings = self._load()
        self.log = Log(settings.error_log, settings.log_level)
        self.home = paths.make_home(paths.runtime_root(settings.runtime_dir), os.getpid())
        self.pid_file = settings.pid_file
        try:
            self._prepare(settings, first=True)
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
        if self._take(Flag.GROW):
            self._change_workers(+1)
        if self._take(Flag.SHRINK):
            self._change_workers(-1)
        if Flag.RECONFIGURE in self.flags and self.pending is None:
            self.flags.discard(Flag.RECONFIGURE)
            self._reconfigure()
        if self._take(Flag.RESTART) and self.cycle:
            self._start_workers_again(self.cycle)
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
        if self.pending:
            moments.append(self.pending.started + self.pending.settings.ready_timeout)
        return max(0.0, min(moments) - time.monotonic()) if moments else None

    # ---- a new generation

    def _prepare(self, settings: Settings, *, first: bool = False) -> None:
        """Builds a cycle and starts its processes beside those that run."""
        self.generation += 1
        kept = self.cycle.listeners if self.cycle else self.inherited
        workers = max(1, settings.worker_count + self.extra_workers)
        cycle = build_cycle(self.generation, settings, kept, self.home, workers)
        cycle.accept_early = first and not self.inherited
        cycle.started = time.monotonic()
        self.pending = cycle
        start_children(self.table, cycle, self.life[0], Kind.JUST_RESPAWN)

    def _reconfigure(self) -> None:
        if self.new_binary and self.cycle:
            self.log("notice", "reload while a new binary runs: starting our workers again")
            self._start_workers_again(self.cycle)
            self.noaccepting = False
            return
        systemd.reloading()
        self.log("notice", "reloading")
        try:
            self._prepare(self._load())
        except (CupolaError, OSError) as error:
            self.log("error", f"reload refused, generation {self._current()} stays: {error}")
            systemd.ready("reload refused")

    def _start_workers_again(self, cycle: Cycle) -> None:
        for index in range(cycle.workers):
            start_worker(self.table, cycle, self.life[0], index, Kind.JUST_RESPAWN)

    def _make_progress(self) -> None:
        now = time.monotonic()
        for child in self.table:
            if child.due is not None and child.due <= now:
                child.respawns += 1
                self.table.spawn(child)
        if self.pending is None:
            return
        newborn = self._children_of(self.pending)
        if all(child.ready for child in newborn):
            self._commit()
        elif any(not child.respawn or child.deaths >= 3 for child in newborn):
            self._abandon("its processes fail at start")
        elif now - self.pending.started > self.pending.settings.ready_timeout:
            self._abandon("it was not ready in time")

    def _commit(self) -> None:
        """The new generation is ready: it takes over, the old one drains."""
        old, self.cycle, self.pending = self.cycle, self.pending, None
        assert self.cycle is not None
        self.log = self.cycle.log
        self.cycle.accept_early = False  # a worker born from now on waits for its roster
        if old is not None:
            self.retired.append(old)
            self._tell(Command.QUIT, self._not_just_born(self.cycle))
            self._close_removed(old)
        start_cache(self.table, self.cycle, self.life[0])
        self.log("notice", f"generation {self.cycle.generation} is ready")
        systemd.ready(f"generation {self.cycle.generation}")

    def _abandon(self, reason: str) -> None:
        """The new generation failed: its processes end, the old one never noticed."""
        failed, self.pending = self.pending, None
        assert failed is not None
        self.log("error", f"generation {failed.generation} failed: {reason}")
        for child in self._children_of(failed):
            child.respawn = False
            self.table.signal(child, Command.TERMINATE)
            if child.alive:  # it may hang in its start, where it reads no channel
                os.kill(child.pid, signal.SIGKILL)
        if self.cycle is None:
            self.exit_code = 1
            self.cycle = failed
            self.flags.add(Flag.TERMINATE)
            self._terminate()
            return
        self.retired.append(failed)
        self._discard_retired()
        systemd.ready(f"generation {self.cycle.generation}; generation {failed.generation} failed")

    def _not_just_born(self, new: Cycle) -> list[Child]:
        """Everyone but the newborn of this generation, who skip exactly this one round."""
        chosen = [c for c in self.table if not (c.just_born and c.generation == new.generation)]
        for child in self._children_of(new):
            child.just_born, child.kind = False, Kind.RESPAWN
        return [child for child in chosen if child.kind is not Kind.DETACHED]

    def _close_removed(self, old: Cycle) -> None:
        """Sockets that the new cycle does not use close only now, after the commit."""
        if self.cycle:
            used = {id(one) for entry in self.cycle.listeners for one in entry.sockets}
            addresses = {entry.address for entry in self.cycle.listeners}
            for entry in old.listeners:
                entry.sockets = [one for one in entry.sockets if id(one) not in used]
                entry.close(unlink=entry.address not in addresses)

    def _change_workers(self, step: int) -> None:
        cycle = self.cycle
        if cycle is None or cycle.workers + step < 1:
            return
        self.extra_workers += step
        if cycle.settings.reuseport:  # each socket must keep a worker: a full reload sorts it
            self.flags.add(Flag.RECONFIGURE)
            return
        cycle.workers += step
        if step > 0:
            start_worker(self.table, cycle, self.life[0], cycle.workers - 1, Kind.RESPAWN)
            return
        leaving = [c for c in self._children_of(cycle) if c.role == "worker"]
        self._tell(Command.QUIT, [max(leaving, key=lambda c: c.index)])

    # ---- going

    def _terminate(self) -> None:
        """TERM at once and at each alarm, which come 50, 100, 200 ... ms apart; at last KILL."""
        if self.delay == 0.0:
            systemd.stopping()
            self.delay = FIRST_DELAY
            self._tell(Command.TERMINATE, self.table.living())
        elif not self._take(Flag.SIGALRM):
            return
        else:
            command = Command.TERMINATE if self.delay <= LAST_TERM else None
            self._tell(command, self.table.living())
            self.delay *= 2
        signal.setitimer(signal.ITIMER_REAL, self.delay)

    def _quit(self) -> None:
        systemd.stopping()
        self._tell(Command.QUIT, [c for c in self.table.living() if not c.exiting])
        if self.cycle:
            for listener in self.cycle.listeners:
                listener.close(unlink=self.new_binary is None)

    def _noaccept(self) -> None:
        if self.cycle and self.cycle.settings.daemon:
            self.noaccepting = True
            self._tell(Command.QUIT, [c for c in self.table.living() if c.role == "worker"])

    def _tell(self, command: Command | None, children: list[Child]) -> None:
        for child in children:
            if command in (Command.QUIT, Command.TERMINATE):
                child.respawn, child.due = False, None
            self.table.signal(child, command)

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

    def _children_of(self, cycle: Cycle) -> list[Child]:
        return [child for child in self.table if child.generation == cycle.generation]

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
        for cycle in filter(None, (self.cycle, self.pending, *self.retired)):
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
            self._plan_respawn(child, lived)
            return
        child.respawn = False
        if child.exiting or child.kind is Kind.NORESPAWN or self._is_retired(child):
            self.table.children.pop(child.slot)
        self._discard_retired()

    def _plan_respawn(self, child: Child, lived: float) -> None:
        """At once; with a doubling delay for one that keeps dying young."""
        settings = self._settings_of(child)
        child.deaths = child.deaths + 1 if lived < settings.young else 0
        wait = settings.respawn_delay * 2 ** (child.deaths - 2) if child.deaths > 1 else 0.0
        child.due = time.monotonic() + min(wait, settings.respawn_delay_max)

    def _settings_of(self, child: Child) -> Settings:
        for cycle in filter(None, (self.pending, self.cycle)):
            if cycle.generation == child.generation:
                return cycle.settings
        assert self.cycle is not None
        return self.cycle.settings

    def _is_retired(self, child: Child) -> bool:
        return any(cycle.generation == child.generation for cycle in self.retired)

    def _discard_retired(self) -> None:
        for cycle in list(self.retired):
            if not any(child.alive for child in self._children_of(cycle)):
                for child in self._children_of(cycle):
                    self.table.children.pop(child.slot)
                used = [e for c in (self.cycle, self.pending) if c for e in c.listeners]
                cycle.discard(used)
                self.retired.remove(cycle)

    # ---- logs, binary, files

    def _reopen(self) -> None:
        for cycle in filter(None, (self.cycle, self.pending)):
            try:
                cycle.log.file.reopen()
                if cycle.access_log:
                    cycle.access_log.reopen()
                give_to_workers(cycle)
            except OSError as error:
                self.log("error", f"reopen failed, the old log stays in use: {error}")
        self._tell(Command.REOPEN, self.table.living())

    def _change_binary(self) -> None:
        parent_lives = self.is_new_binary and os.getppid() == self.parent
        if self.new_binary or parent_lives or self.cycle is None:
            self.log("error", "upgrade ignored: another binary runs")
            return
        self.log("notice", "starting a new binary")
        if self.pid_file:
            self.pid_file.rename(self._old_pid_file())
        self.new_binary = start_binary(self.table, self.cycle.listeners)

    def _binary_gone(self) -> None:
        self.log("warning", "the new binary is gone")
        assert self.new_binary is not None
        self.table.children.pop(self.new_binary.slot)
        self.new_binary = None
        with suppress(OSError):
            if self.pid_file:
                self._old_pid_file().rename(self.pid_file)
        if self.noaccepting:
            self.noaccepting = False
            self.flags.add(Flag.RESTART)

    def _old_pid_file(self) -> Path:
        assert self.pid_file is not None
        return self.pid_file.with_name(self.pid_file.name + paths.OLD_SUFFIX)

    def _write_pid(self) -> None:
        if self.pid_file:
            paths.write_atomically(self.pid_file, f"{os.getpid()}\n")

    def _write_status(self) -> None:
        paths.write_atomically(self.home / "status.json", master_status(self))

    def _current(self) -> int:
        return self.cycle.generation if self.cycle else 0
