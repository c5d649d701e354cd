"""The master in a simulated system: signals, exits, time and failures come from a schedule.

The master's own code runs; fork, waitpid, channels, files and the clock are simulated. A schedule
is a sequence of bytes, so hypothesis can generate, shrink and replay it.
"""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cupola.errors import ConfigError
from cupola.serve.generation import Generation
from cupola.serve.ipc.channel import ChannelMessage, Command
from cupola.serve.ipc.signals import Flag
from cupola.serve.master import children, generation_manager, master, upgrade
from cupola.serve.settings.settings import Settings

ERRORS = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENOSPC, errno.EACCES, errno.EIO)
SIGNALS = (Flag.RECONFIGURE, Flag.RECONFIGURE, Flag.REOPEN, Flag.CHANGE_BINARY, Flag.NOACCEPT,
           Flag.GROW, Flag.SHRINK, Flag.SIGALRM, Flag.CHANNEL, Flag.REAP)  # fmt: skip
FAULTS = ("fork", "pair", "build", "load", "status", "set_aside", "reopen", "give", "sweep",
          "waitpid", "receive", "discard")  # fmt: skip
CODES = (0, 1, 2, 2, -9, -11)
SETTINGS = [
    Settings(workers=count, daemon=daemon, cache_path=cache, reuseport=reuseport,
             ready_timeout=20 if count == 1 else 10_000, drain_delay=3.0 * daemon)
    for count in (1, 3) for daemon in (False, True)
    for cache in (None, Path("/nowhere")) for reuseport in (False, True)
]  # fmt: skip
RECOVERY_TURNS = 200
STOP_TURNS = 60


class SimulatedChannel:
    """Both ends of a channel. `broken`: nothing can be sent."""

    def __init__(self, system: "System") -> None:
        self.system, self.broken, self.closed = system, False, False
        self.to_child: list[Command] = []
        self.to_master: list[ChannelMessage] = []
        self.socket = SimpleNamespace(fileno=lambda: 9)

    def raise_sigio(self) -> None:
        self.system.fail("raise_sigio")

    def send(self, message: ChannelMessage) -> bool:
        if not self.broken:
            self.to_child.append(message.command)
        return not self.broken

    def receive(self) -> list[ChannelMessage]:
        self.system.fail("receive")
        found, self.to_master = self.to_master, []
        return found

    def close(self) -> None:
        self.closed = True


class SimulatedGeneration(Generation):
    """A generation without files. `hangs`: its zygote never answers, and only KILL ends it."""

    system: "System"
    hangs = False

    def sweep_spool(self, pid: int) -> None:
        self.system.fail("sweep")

    def reopen_logs(self) -> None:
        self.system.fail("reopen")

    def discard(self, in_use: Any) -> None:
        self.system.fail("discard")


class System:
    """The simulated system, and the driver: `wait` is where the master asks it for signals."""

    def __init__(self, schedule: bytes) -> None:
        self.schedule = iter(schedule)
        self.clock = 1000.0
        self.next_pid = 100
        self.running: set[int] = set()
        self.zombies: list[tuple[int, int]] = []
        self.channels: dict[int, SimulatedChannel] = {}
        self.faults: dict[str, list[int]] = {}
        self.arrived: set[Flag] = set()
        self.alarm: float | None = None
        self.settings = SETTINGS[0]
        self.told_to_stop = False
        self.was_ready = False
        self.stubborn = False
        self.hang = bool(schedule) and schedule[0] % 16 == 15  # of the next generation
        self.hang_at_last = bool(schedule) and schedule[0] % 3 == 1
        self.log: list[str] = []
        self.driver = self.drive()
        self.master: Any = None

    # ---- what the master calls

    def fail(self, what: str) -> None:
        if pending := self.faults.get(what):
            number = pending.pop()
            if number == 0:
                raise ValueError(f"injected in {what}")
            raise OSError(number, f"injected in {what}")

    def fork(self) -> int:
        self.fail("fork")
        self.next_pid += 1
        self.running.add(self.next_pid)
        return self.next_pid

    def waitpid(self, pid: int, options: int) -> tuple[int, int]:
        self.fail("waitpid")
        if self.zombies:
            return self.zombies.pop(0)
        if not self.running:
            raise ChildProcessError
        return 0, 0

    def kill(self, pid: int, number: int) -> None:
        assert pid in self.running or any(pid == zombie for zombie, _ in self.zombies), "stray kill"
        hanging = self.is_hanging(self.master.table.by_pid(pid))
        if number == signal.SIGKILL or not (self.stubborn or hanging):
            self.exit(pid, -number)

    def pair(self) -> tuple[SimulatedChannel, SimulatedChannel]:
        self.fail("pair")
        channel = SimulatedChannel(self)
        return channel, SimulatedChannel(self)

    def load(self) -> Settings:
        self.fail("load")
        return self.settings

    def build(self, number: int, settings: Settings, kept: Any, home: Path, workers: int) -> Any:
        self.fail("build")
        generation = SimulatedGeneration(number, settings, [], [], self.write, None, home, workers)  # type: ignore[arg-type]
        generation.system, generation.hangs = self, self.hang
        return generation

    def write(self, level: str, message: str) -> None:
        self.log.append(message)

    def set_alarm(self, which: int, seconds: float) -> None:
        self.alarm = self.clock + seconds

    # ---- events

    def exit(self, pid: int, code: int) -> None:
        if pid in self.running:
            self.running.discard(pid)
            self.zombies.append((pid, code << 8 if code >= 0 else -code))
            self.arrived.add(Flag.REAP)

    def living(self) -> list[Any]:
        return [child for child in self.master.table.living() if child.pid in self.running]

    def is_hanging(self, child: Any) -> bool:
        """Whether the child is the zygote of a generation whose models never load."""
        generations = self.master.generations.all()
        hanging = {generation.number for generation in generations if generation.hangs}
        return child is not None and child.role == "zygote" and child.generation in hanging

    def ready(self, child: Any) -> None:
        if self.is_hanging(child):
            return
        child.channel.to_master.append(ChannelMessage(Command.READY))
        self.arrived.add(Flag.CHANNEL)

    def obey(self) -> None:
        """Children do what the master has told them."""
        for child in self.living():
            if self.is_hanging(child):
                continue
            told = child.channel.to_child
            if Command.TERMINATE in told or Command.QUIT in told:
                if not self.stubborn:
                    self.exit(child.pid, 0)
            elif not child.ready and child.role != "new binary":
                self.ready(child)

    def wait(self, timeout: float | None) -> set[Flag]:
        """Called by the master: runs the schedule up to the next event."""
        failed = Flag.TERMINATE in self.master.flags and not self.told_to_stop
        self.was_ready |= self.master.generations.current is not None and not failed
        next(self.driver)
        if not self.arrived and timeout is not None:
            self.advance(timeout)
        found, self.arrived = self.arrived, set()
        return found

    def advance(self, seconds: float) -> None:
        self.clock += seconds
        if self.alarm is not None and self.alarm <= self.clock:
            self.alarm = None
            self.arrived.add(Flag.SIGALRM)

    def drive(self) -> Iterator[None]:
        if next(self.schedule, 0) % 8:  # usually the start succeeds
            for _ in range(3):
                self.obey()
                yield
        for byte in self.schedule:
            self.act(byte % 16, byte // 16 + 16 * next(self.schedule, 0))
            yield
        yield from self.recover()
        yield from self.stop()

    def act(self, action: int, value: int) -> None:
        living = self.living()
        if action <= 3:
            self.arrived.add(SIGNALS[value % len(SIGNALS)])
        elif action <= 5 and living:
            self.exit(living[value % len(living)].pid, CODES[value // 16 % len(CODES)])
        elif action <= 7 and living:
            self.ready(living[value % len(living)])
        elif action == 8:
            self.obey()
        elif action == 9:
            self.advance((0.01, 0.3, 2.0, 30.0)[value % 4])
        elif action <= 12:
            errors = [*ERRORS, 0]
            name = FAULTS[value % len(FAULTS)]
            self.faults[name] = [errors[value // 16 % len(errors)]] * (1 + value % 5)
        elif action == 13:
            self.settings = SETTINGS[value % len(SETTINGS)]
            self.hang = value % 3 == 0
        elif action == 14 and living:
            living[value % len(living)].channel.broken = True
        elif value % 64 == 63:
            self.told_to_stop = True
            self.stubborn = value % 256 == 255  # of TERM, only KILL helps
            self.arrived.add(Flag.TERMINATE if value % 256 > 127 else Flag.QUIT)

    # ---- what must hold

    def recover(self) -> Iterator[None]:
        """Without failures, the master gets back to a full set of ready processes."""
        if self.told_to_stop or Flag.TERMINATE in self.master.flags:
            return
        self.faults.clear()
        if self.hang_at_last:
            self.hang = True
            self.arrived.add(Flag.RECONFIGURE)
            yield
        self.hang = False
        if any(self.is_hanging(child) for child in self.living()):
            self.arrived.add(Flag.RECONFIGURE)  # the newest settings win
        for _ in range(RECOVERY_TURNS):
            self.obey()
            if not self.arrived and self.is_complete():
                return
            self.advance(0.5)
            yield
            if Flag.TERMINATE in self.master.flags:  # the first generation has failed
                return
        raise AssertionError(f"does not recover: {self.state()}; {self.log[-12:]}")

    def is_complete(self) -> bool:
        manager = self.master.generations
        current = manager.current
        if current is None or manager.pending or manager.retired:
            return False
        if Flag.RECONFIGURE in self.master.flags:
            return False
        kept = [c for c in manager.children_of(current) if c.ready and not c.exiting]
        roles = [child.role for child in kept]
        workers = 0 if self.master.noaccepting else current.workers
        return roles.count("zygote") == 1 and roles.count("worker") >= workers

    def state(self) -> Any:
        return [vars(child) for child in self.master.table], self.master.flags

    def stop(self) -> Iterator[None]:
        if not self.told_to_stop and Flag.TERMINATE not in self.master.flags:
            self.told_to_stop, self.stubborn = True, True
            self.arrived.add(Flag.TERMINATE)
        for _ in range(STOP_TURNS):
            if Flag.QUIT in self.master.flags:
                self.obey()
            if self.alarm is not None and not self.arrived:
                self.advance(self.alarm - self.clock)
            yield
        raise AssertionError(f"does not stop: {self.state()}")


class Overlay:
    """A module with some of its functions replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class Simulation:
    """Runs schedules. Made once, since replacing what the master calls takes longer than a run."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.system: Any = None

        def call(name: str) -> Callable[..., Any]:
            return lambda *arguments: getattr(self.system, name)(*arguments)

        def failing(what: str) -> Callable[..., None]:
            return lambda *_, **__: self.system.fail(what)

        clock = SimpleNamespace(monotonic=lambda: self.system.clock, time=lambda: 0.0)
        fake_os = Overlay(os, fork=call("fork"), waitpid=call("waitpid"), kill=call("kill"),
                          pipe=lambda: (-1, -1), environ={})  # fmt: skip
        for module in (master, children, generation_manager):
            patch.setattr(module, "time", clock)
        for module in (master, children):
            patch.setattr(module, "os", fake_os)
        patch.setattr(master, "signals", SimpleNamespace(block=lambda: None, wait=call("wait")))
        patch.setattr(master, "signal", Overlay(signal, setitimer=call("set_alarm")))
        patch.setattr(master, "listeners", SimpleNamespace(inherited=list))
        patch.setattr(master, "Log", lambda *_: self.system.write)
        patch.setattr(master, "give_logs_to_workers", failing("give"))
        patch.setattr(master, "status_json", lambda *_: "{}")
        patch.setattr(master, "paths", SimpleNamespace(
            runtime_root=Path, make_home=lambda *_: Path("/home"), remove_home=lambda _: None,
            write_atomically=failing("status")))  # fmt: skip
        pid_file = SimpleNamespace(check=lambda: None, write=failing("write"), restore=lambda: None,
                                   set_aside=failing("set_aside"),
                                   remove=lambda upgrading: None)  # fmt: skip
        patch.setattr(master, "PidFile", lambda _: pid_file)
        patch.setattr(children, "Channel", SimpleNamespace(pair=call("pair")))
        patch.setattr(generation_manager, "build_generation", call("build"))
        patch.setattr(upgrade, "to_environment", lambda _: ("", []))

    def run(self, schedule: bytes) -> System:
        """Runs the master on a schedule; AssertionError if a supervisor's promise is broken."""
        self.system = system = System(schedule)
        system.master = master.Master(lambda: self.system.load())
        system.settings = Settings(runtime_dir=Path("/nowhere"))
        try:
            code = system.master.run()
        except ConfigError:
            raise AssertionError("an error left the master") from None
        first_start_failed = not system.told_to_stop and code == 1
        assert system.told_to_stop or (first_start_failed and not system.was_ready), system.log
        assert not [c for c in system.living() if c.role != "new binary"]
        return system
