"""The master's table of children: slots, kinds, spawning, signalling.

nginx's kinds decide two things: whether a child that ends is started again, and whether it has
missed the current round of signals because it was born in it ("just" spawned).
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from cupola.serve.ipc.channel import SIGNAL_OF, Channel, Command, Message
from cupola.serve.master import signals

FATAL = 2  # exit code of a child that must not be started again


class Kind(Enum):
    """How a child is treated when it ends, and whether it skips one round of signals."""

    NORESPAWN = "norespawn"
    JUST_SPAWN = "just_spawn"
    RESPAWN = "respawn"
    JUST_RESPAWN = "just_respawn"
    DETACHED = "detached"

    @property
    def respawns(self) -> bool:
        return self in (Kind.RESPAWN, Kind.JUST_RESPAWN)

    @property
    def just_born(self) -> bool:
        return self in (Kind.JUST_SPAWN, Kind.JUST_RESPAWN)


@dataclass
class Child:
    """One slot. `main` runs in the child and does not return."""

    slot: int
    role: str
    index: int
    generation: int
    main: Callable[["Child", Channel], NoReturn]
    kind: Kind
    respawn: bool
    pid: int = -1
    channel: Channel | None = None
    started: float = 0.0
    just_born: bool = False
    ready: bool = False
    exiting: bool = False
    stopping: bool = False
    deaths: int = 0
    respawns: int = 0
    due: float | None = None  # when a delayed respawn happens

    @property
    def alive(self) -> bool:
        return self.pid > 0


class Table:
    """All slots. A slot number is reused only after its child was reaped."""

    def __init__(self, life: tuple[int, int]) -> None:
        self.children: dict[int, Child] = {}
        self._life = life  # a pipe whose write end only the master holds

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self.children.values()))

    def living(self) -> list[Child]:
        """Children with a process."""
        return [child for child in self.children.values() if child.alive]

    def by_pid(self, pid: int) -> Child | None:
        """The child with that process id."""
        return next((child for child in self.children.values() if child.pid == pid), None)

    def add(
        self,
        role: str,
        index: int,
        generation: int,
        main: Callable[[Child, Channel], NoReturn],
        kind: Kind,
    ) -> Child:
        """Takes the lowest free slot and starts a child in it."""
        slot = next(n for n in range(len(self.children) + 1) if n not in self.children)
        child = Child(slot, role, index, generation, main, kind, kind.respawns)
        self.children[slot] = child
        self.spawn(child)
        return child

    def spawn(self, child: Child) -> None:
        """Forks `child` (again) in its slot, and tells the others of its channel."""
        ours, theirs = Channel.pair()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if pid == 0:
            self._become(child, ours, theirs)
        theirs.close()
        ours.raise_sigio()
        child.pid, child.channel, child.started = pid, ours, time.monotonic()
        child.ready, child.due, child.just_born = False, None, child.kind.just_born
        self._announce(child)

    def _become(self, child: Child, ours: Channel, theirs: Channel) -> NoReturn:
        """In the child: drops what is the master's, then runs; any escape is a plain exit."""
        code = 1
        try:
            signals.restore_defaults()
            os.close(self._life[1])
            ours.close()
            for other in self.children.values():
                if other.channel is not None and other is not child:
                    other.channel.close()
            child.pid = os.getpid()
            child.main(child, theirs)
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 1
        except BaseException as error:
            os.write(2, f"cupola: {child.role} {os.getpid()} failed: {error!r}\n".encode())
        finally:
            os._exit(code)

    def _announce(self, child: Child) -> None:
        """OPEN_CHANNEL with the new child's descriptor, to every other child."""
        if child.channel is None:
            return
        fd = child.channel.socket.fileno()
        message = Message(Command.OPEN_CHANNEL, child.slot, child.pid, child.generation, fd)
        for other in self.living():
            if other is not child and other.channel is not None:
                other.channel.send(message)

    def forget(self, child: Child) -> None:
        """The child was reaped: closes its channel and tells the others."""
        if child.channel is not None:
            child.channel.close()
        message = Message(Command.CLOSE_CHANNEL, child.slot, child.pid, child.generation)
        child.pid, child.channel, child.ready = -1, None, False
        for other in self.living():
            if other.channel is not None:
                other.channel.send(message)

    def signal(self, child: Child, command: Command | None) -> None:
        """One command by the channel, by kill() if that fails; None is KILL, always by kill()."""
        if not child.alive or child.kind is Kind.DETACHED:
            return
        if command is None:
            os.kill(child.pid, signal.SIGKILL)
        elif child.channel is None or not child.channel.send(Message(command)):
            os.kill(child.pid, SIGNAL_OF[command])
        if command in (Command.QUIT, Command.TERMINATE):
            child.exiting = True

    def tell(self, command: Command | None, children: Iterable[Child]) -> None:
        """One command to many; those told to go are not started again."""
        for child in children:
            if command in (Command.QUIT, Command.TERMINATE):
                child.respawn, child.due = False, None
            self.signal(child, command)
