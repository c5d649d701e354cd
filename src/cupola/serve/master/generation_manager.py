"""The generations of a master: the current one, a pending one, and retired ones that drain.

nginx starts new workers, waits 100 ms and tells the old ones to quit. This manager waits until
every process of the new generation has reported READY. If one cannot, the new generation is
stopped and the old one stays untouched.
"""

import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cupola.serve.generation import Generation, build_generation
from cupola.serve.ipc.channel import Command
from cupola.serve.ipc.listeners import Listener
from cupola.serve.logs import Log
from cupola.serve.master import systemd
from cupola.serve.master.children import Child, ChildKind, ChildTable
from cupola.serve.master.generation_processes import start_cache, start_children, start_worker
from cupola.serve.settings.settings import Settings

START_ATTEMPTS = 3  # early exits of one process after which its generation is abandoned


class GenerationManager:
    """Starts, commits and retires generations.

    `parent_pipe` is the read end for the children; `inherited` holds the sockets of an older
    master or systemd. `home` and `log` are set with the first settings.
    """

    home: Path
    log: Log

    def __init__(self, table: ChildTable, parent_pipe: int, inherited: Sequence[Listener]) -> None:
        self.table, self.parent_pipe, self.inherited = table, parent_pipe, inherited
        self.current: Generation | None = None
        self.pending: Generation | None = None
        self.retired: list[Generation] = []
        self.number = 0
        self.extra_workers = 0
        table.on_spawn_failure = self._on_spawn_failure

    def all(self) -> Iterator[Generation]:
        """All generations with processes, the current one first."""
        yield from filter(None, (self.current, self.pending, *self.retired))

    def children_of(self, generation: Generation) -> list[Child]:
        """A generation's children, running or waiting for a respawn."""
        return [child for child in self.table if child.generation == generation.number]

    def settings_of(self, child: Child) -> Settings:
        """The settings of a child's generation."""
        for generation in self.all():
            if generation.number == child.generation:
                return generation.settings
        assert self.current is not None
        return self.current.settings

    # ---- starting

    def prepare(self, settings: Settings) -> None:
        """Builds a generation and starts its processes beside the running ones.

        It takes the place of one that is still being started, which may hang. Raises CupolaError
        or OSError, and changes nothing, if it cannot be built.
        """
        self.number += 1
        started = [entry for one in (self.current, self.pending) if one for entry in one.listeners]
        kept = started if self.current else [*self.inherited, *started]
        workers = max(1, settings.worker_count + self.extra_workers)
        generation = build_generation(self.number, settings, kept, self.home, workers)
        generation.accept_early = self.current is None and not self.inherited
        generation.started = time.monotonic()
        self.end_pending(f"superseded by generation {self.number}")
        self.pending = generation
        start_children(self.table, generation, self.parent_pipe, ChildKind.JUST_RESPAWN)

    def progress(self) -> bool:
        """Respawns children that are due; commits or abandons the pending generation.

        False if the first generation failed, so that there is none to serve.
        """
        now = time.monotonic()
        self._reconcile()
        for child in self.table:
            if child.due is not None and child.due <= now:
                child.respawns += 1
                child.due = None
                self.table.spawn(child)
        if self.pending is None:
            return True
        children = self.children_of(self.pending)
        if all(child.ready for child in children):
            self._commit(self.pending)
        elif any(not child.respawn or child.early_exits >= START_ATTEMPTS for child in children):
            return self._abandon(self.pending, "its processes fail at start")
        elif now - self.pending.started > self.pending.settings.ready_timeout:
            return self._abandon(self.pending, "it was not ready in time")
        return True

    def _commit(self, new: Generation) -> None:
        """Makes the pending generation the current one and drains its predecessor."""
        old, self.current, self.pending = self.current, new, None
        self.log = new.log
        new.accept_early = False  # a worker that is respawned later waits for its roster
        if old is not None:
            self.retired.append(old)
            self.table.broadcast(Command.QUIT, self._not_just_spawned(new))
            _close_removed(old.listeners, new)
        _close_removed(self.inherited, new, unlink=False)  # another process may still use them
        self.inherited = ()
        start_cache(self.table, new, self.parent_pipe)
        self.log("notice", f"generation {new.number} is ready")
        systemd.ready(f"generation {new.number}")

    def _abandon(self, failed: Generation, reason: str) -> bool:
        """Stops the pending generation; True if there is a current one."""
        self.pending = None
        self.log("error", f"generation {failed.number} failed: {reason}")
        self._kill(self.children_of(failed))
        if self.current is None:
            self.current = failed
            return False
        self.retired.append(failed)
        self.discard_retired()
        current = f"generation {self.current.number}"
        systemd.ready(f"{current}; generation {failed.number} failed")
        return True

    def _kill(self, children: Sequence[Child]) -> None:
        for child in children:
            child.respawn, child.due = False, None
            self.table.signal(child, Command.TERMINATE)
            if child.alive:  # it may hang during start, when it does not read its channel
                child.kill(signal.SIGKILL)

    def end_pending(self, reason: str) -> None:
        """Ends the generation that is being started, if there is one."""
        ended, self.pending = self.pending, None
        if ended is None:
            return
        self.log("notice", f"generation {ended.number} ended before it was ready: {reason}")
        children = self.children_of(ended)
        accepting = [one for one in children if one.role == "worker" and ended.accept_early]
        self.table.broadcast(Command.QUIT, accepting)  # they may have clients
        self._kill([child for child in children if child not in accepting])
        self.retired.append(ended)
        self.discard_retired()

    def _not_just_spawned(self, new: Generation) -> list[Child]:
        """All children but the new generation's, which skip exactly this one round."""
        chosen = [c for c in self.table if not (c.just_spawned and c.generation == new.number)]
        for child in self.children_of(new):
            child.just_spawned, child.kind = False, ChildKind.RESPAWN
        return [child for child in chosen if child.kind is not ChildKind.DETACHED]

    # ---- stopping

    def announce_stop(self) -> None:
        """Makes all workers report that they are not ready, while they still accept."""
        for generation in self.all():
            generation.leaving = True  # for workers that are respawned meanwhile
        workers = [child for child in self.table.living() if child.role == "worker"]
        self.table.broadcast(Command.DRAIN, workers)

    # ---- running

    def restart_workers(self) -> None:
        """Starts a full set of workers beside those that may still be draining."""
        assert self.current is not None
        for index in range(self.current.workers):
            start_worker(self.table, self.current, self.parent_pipe, index, ChildKind.JUST_RESPAWN)

    def change_workers(self, step: int) -> bool:
        """Starts or stops one worker; False if that requires a reload."""
        current = self.current
        if current is None or current.workers + step < 1:
            return True
        self.extra_workers += step
        if current.settings.reuseport:  # each socket must keep a worker
            return False
        current.workers += step
        if step > 0:
            index = current.workers - 1
            start_worker(self.table, current, self.parent_pipe, index, ChildKind.RESPAWN)
            return True
        workers = [child for child in self.children_of(current) if child.role == "worker"]
        self.table.broadcast(Command.QUIT, [max(workers, key=lambda child: child.index)])
        return True

    # ---- exits and failures

    def _reconcile(self) -> None:
        """Mends what a failed step has left: children without a process or a respawn to come."""
        for child in self.table:
            if child.alive or child.due is not None or child.kind is ChildKind.DETACHED:
                continue
            if child.respawn and not self.is_retired(child):
                self.schedule_respawn(child, 0.0)
            elif self.current is not None and child.generation == self.current.number:
                self.table.remove(child)
        self.discard_retired()

    def _on_spawn_failure(self, child: Child, error: Exception) -> None:
        """Tries again later, unless it is a process that runs once."""
        self.log("error", f"cannot start a {child.role}: {error}")
        if child.respawn:
            self.schedule_respawn(child, 0.0)

    def schedule_respawn(self, child: Child, uptime: float) -> None:
        """Respawns at once, or after a doubling delay if the child exited early several times."""
        settings = self.settings_of(child)
        child.early_exits = child.early_exits + 1 if uptime < settings.min_uptime else 0
        delay = settings.respawn_delay * 2 ** min(child.early_exits - 2, 32)
        wait = delay if child.early_exits > 1 else 0.0
        child.due = time.monotonic() + min(wait, settings.respawn_delay_max)

    def is_retired(self, child: Child) -> bool:
        """Whether the child's generation is retired."""
        return any(generation.number == child.generation for generation in self.retired)

    def discard_retired(self) -> None:
        """Cleans up after retired generations whose last process has exited."""
        for generation in list(self.retired):
            if any(child.alive for child in self.children_of(generation)):
                continue
            for child in self.children_of(generation):
                self.table.remove(child)
            self.retired.remove(generation)
            used = [entry for kept in (self.current, self.pending) if kept
                    for entry in kept.listeners]  # fmt: skip
            generation.discard(used)


def _close_removed(old: Sequence[Listener], new: Generation, *, unlink: bool = True) -> None:
    """Closes the sockets that the new generation does not use, after the commit."""
    used = {id(one) for entry in new.listeners for one in entry.sockets}
    addresses = {entry.address for entry in new.listeners}
    for entry in old:
        entry.sockets = [one for one in entry.sockets if id(one) not in used]
        entry.close(unlink=unlink and entry.address not in addresses)
