"""The master's table of children: slots, kinds, spawning, signaling.

The kinds are nginx's. They decide two things: whether a child that exits is respawned, and whether
it skips the current round of signals because it was spawned during it ("just" spawned).
"""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from cupola.serve.ipc import signals
from cupola.serve.ipc.channel import SIGNAL_OF, Channel, ChannelMessage, Command


class ChildKind(Enum):
    """How a child is treated when it exits, and whether it skips one round of signals."""

    NORESPAWN = "norespawn"
    JUST_SPAWN = "just_spawn"
    RESPAWN = "respawn"
    JUST_RESPAWN = "just_respawn"
    DETACHED = "detached"

    @property
    def respawns(self) -> bool:
        return self in (ChildKind.RESPAWN, ChildKind.JUST_RESPAWN)

    @property
    def just_spawned(self) -> bool:
        return self in (ChildKind.JUST_SPAWN, ChildKind.JUST_RESPAWN)


@dataclass
class Child:
    """One slot of the table. `main` runs in the child process and does not return."""

    slot: int
    role: str
    index: int
    generation: int
    main: Callable[["Child", Channel], NoReturn]
    kind: ChildKind
    respawn: bool
    pid: int = -1
    channel: Channel | None = None
    started: float = 0.0
    just_spawned: bool = False
    ready: bool = False
    exiting: bool = False
    early_exits: int = 0  # exits in a row before `min_uptime`
    respawns: int = 0
    due: float | None = None  # when a delayed respawn happens

    @property
    def alive(self) -> bool:
        return self.pid > 0

    def kill(self, number: signal.Signals) -> None:
        """Sends a signal."""
        with suppress(ProcessLookupError, PermissionError):
            os.kill(self.pid, number)


class ChildTable:
    """All children. A slot number is reused only after its child was reaped.

    `on_spawn_failure` is called when the system has no process or descriptor left.
    """

    def __init__(self, parent_pipe: tuple[int, int]) -> None:
        self.children: dict[int, Child] = {}
        self.on_spawn_failure: Callable[[Child, Exception], None] = _raise
        self._parent_pipe = parent_pipe  # only the master holds the write end

    def __iter__(self) -> Iterator[Child]:
        return iter(list(self.children.values()))

    def living(self) -> list[Child]:
        """Children with a running process."""
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
        kind: ChildKind,
    ) -> Child:
        """Starts a child in the lowest free slot. One that is not respawned may fail to start."""
        slot = next(n for n in range(len(self.children) + 1) if n not in self.children)
        child = Child(slot, role, index, generation, main, kind, kind.respawns)
        self.children[slot] = child
        self.spawn(child)
        if not (child.alive or child.respawn):
            self.remove(child)
        return child

    def spawn(self, child: Child) -> None:
        """Forks `child` in its slot, or reports that this failed."""
        try:
            self._fork(child)
        except Exception as error:
            self.on_spawn_failure(child, error)

    def _fork(self, child: Child) -> None:
        """Forks `child` and announces its channel to the other children."""
        with ExitStack() as undo:
            ours, theirs = Channel.pair()
            undo.callback(theirs.close)
            undo.callback(ours.close)
            ours.raise_sigio()
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._run_child(child, ours, theirs)
            undo.pop_all()
        theirs.close()
        child.pid, child.channel, child.started = pid, ours, time.monotonic()
        child.ready, child.due, child.just_spawned = False, None, child.kind.just_spawned
        self._announce(child)

    def _run_child(self, child: Child, ours: Channel, theirs: Channel) -> NoReturn:
        """In the child: closes what belongs to the master, then runs `main` and exits."""
        code = 1
        try:
            signals.restore_defaults()
            os.close(self._parent_pipe[1])
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
        """Sends OPEN_CHANNEL with the new child's descriptor to the other children."""
        if child.channel is None:
            return
        fd = child.channel.socket.fileno()
        message = ChannelMessage(Command.OPEN_CHANNEL, child.slot, child.pid, child.generation, fd)
        for other in self.living():
            if other is not child and other.channel is not None:
                other.channel.send(message)

    def on_exit(self, child: Child) -> None:
        """Marks a reaped child as stopped, closes its channel and informs the other children."""
        if child.channel is not None:
            child.channel.close()
        message = ChannelMessage(Command.CLOSE_CHANNEL, child.slot, child.pid, child.generation)
        child.pid, child.channel, child.ready = -1, None, False
        for other in self.living():
            if other.channel is not None:
                other.channel.send(message)

    def remove(self, child: Child) -> None:
        """Frees the slot of a child that is not respawned."""
        del self.children[child.slot]

    def signal(self, child: Child, command: Command | None) -> None:
        """Sends a command over the channel, or by kill() if that fails. None means SIGKILL."""
        if not child.alive or child.kind is ChildKind.DETACHED:
            return
        if command is None:
            child.kill(signal.SIGKILL)
            return
        sent = child.channel is not None and child.channel.send(ChannelMessage(command))
        if not sent and command in SIGNAL_OF:
            child.kill(SIGNAL_OF[command])
        if command in (Command.QUIT, Command.TERMINATE):
            child.exiting = True

    def broadcast(self, command: Command | None, children: Iterable[Child]) -> None:
        """Sends a command to several children. QUIT and TERMINATE also disable respawning."""
        for child in children:
            if command in (Command.QUIT, Command.TERMINATE):
                child.respawn, child.due = False, None
            self.signal(child, command)


def _raise(child: Child, error: Exception) -> None:
    raise error
