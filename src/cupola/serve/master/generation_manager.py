"""The generations of a master: one in service, perhaps one being born, and those that drain.

What nginx does at once and hopes for (new workers, 100 ms, then QUIT to the old) waits here until
every process of the new generation says READY. If one cannot, the new generation ends and the old
one never noticed.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from cupola.serve.ipc.channel import Command
from cupola.serve.logs import Log
from cupola.serve.master import systemd
from cupola.serve.master.children import Child, Kind, Table
from cupola.serve.master.generation import Cycle, build_cycle
from cupola.serve.master.generation_processes import start_cache, start_children, start_worker
from cupola.serve.master.sockets import Listener
from cupola.serve.settings.settings import Settings

DEATHS = 3  # of one process at start, after which its generation is given up


class Succession:
    """`inherited`: sockets that an older master or systemd left us; `life`: read by children.

    `home` and `log` come with the first settings.
    """

    home: Path
    log: Log

    def __init__(self, table: Table, life: int, inherited: Sequence[Listener]) -> None:
        self.table, self.life, self.inherited = table, life, inherited
        self.current: Cycle | None = None
        self.pending: Cycle | None = None
        self.retired: list[Cycle] = []
        self.number = 0
        self.extra_workers = 0

    def cycles(self) -> Iterator[Cycle]:
        """All that have processes: the one in service first."""
        yield from filter(None, (self.current, self.pending, *self.retired))

    def children_of(self, cycle: Cycle) -> list[Child]:
        """A generation's processes, living or to be started again."""
        return [child for child in self.table if child.generation == cycle.generation]

    def settings_of(self, child: Child) -> Settings:
        """The settings under which a child was born."""
        for cycle in self.cycles():
            if cycle.generation == child.generation:
                return cycle.settings
        assert self.current is not None
        return self.current.settings

    # ---- birth

    def prepare(self, settings: Settings) -> None:
        """Builds a cycle and starts its processes beside those that run. CupolaError, OSError."""
        self.number += 1
        kept = self.current.listeners if self.current else self.inherited
        workers = max(1, settings.worker_count + self.extra_workers)
        cycle = build_cycle(self.number, settings, kept, self.home, workers)
        cycle.accept_early = self.current is None and not self.inherited
        cycle.started = time.monotonic()
        self.pending = cycle
        start_children(self.table, cycle, self.life, Kind.JUST_RESPAWN)

    def progress(self) -> bool:
        """Starts what is due, commits or abandons; False when there is no generation left."""
        now = time.monotonic()
        for child in self.table:
            if child.due is not None and child.due <= now:
                child.respawns += 1
                self.table.spawn(child)
        if self.pending is None:
            return True
        newborn = self.children_of(self.pending)
        if all(child.ready for child in newborn):
            self._commit(self.pending)
        elif any(not child.respawn or child.deaths >= DEATHS for child in newborn):
            return self._abandon(self.pending, "its processes fail at start")
        elif now - self.pending.started > self.pending.settings.ready_timeout:
            return self._abandon(self.pending, "it was not ready in time")
        return True

    def _commit(self, new: Cycle) -> None:
        """The new generation is ready: it takes over, the old one drains."""
        old, self.current, self.pending = self.current, new, None
        self.log = new.log
        new.accept_early = False  # a worker born from now on waits for its roster
        if old is not None:
            self.retired.append(old)
            self.table.tell(Command.QUIT, self._not_just_born(new))
            _close_removed(old, new)
        start_cache(self.table, new, self.life)
        self.log("notice", f"generation {new.generation} is ready")
        systemd.ready(f"generation {new.generation}")

    def _abandon(self, failed: Cycle, reason: str) -> bool:
        """The new generation failed: its processes end; True if an old one goes on."""
        self.pending = None
        self.log("error", f"generation {failed.generation} failed: {reason}")
        for child in self.children_of(failed):
            child.respawn = False
            self.table.signal(child, Command.TERMINATE)
            if child.alive:  # it may hang in its start, where it reads no channel
                os.kill(child.pid, signal.SIGKILL)
        if self.current is None:
            self.current = failed
            return False
        self.retired.append(failed)
        self.discard_retired()
        stays = f"generation {self.current.generation}"
        systemd.ready(f"{stays}; generation {failed.generation} failed")
        return True

    def _not_just_born(self, new: Cycle) -> list[Child]:
        """Everyone but the newborn of this generation, who skip exactly this one round."""
        chosen = [c for c in self.table if not (c.just_born and c.generation == new.generation)]
        for child in self.children_of(new):
            child.just_born, child.kind = False, Kind.RESPAWN
        return [child for child in chosen if child.kind is not Kind.DETACHED]

    # ---- life

    def start_workers_again(self) -> None:
        """All workers of the generation in service, beside those that may still drain."""
        assert self.current is not None
        for index in range(self.current.workers):
            start_worker(self.table, self.current, self.life, index, Kind.JUST_RESPAWN)

    def change_workers(self, step: int) -> bool:
        """One worker more or fewer; False if that takes a reload."""
        cycle = self.current
        if cycle is None or cycle.workers + step < 1:
            return True
        self.extra_workers += step
        if cycle.settings.reuseport:  # each socket must keep a worker
            return False
        cycle.workers += step
        if step > 0:
            start_worker(self.table, cycle, self.life, cycle.workers - 1, Kind.RESPAWN)
            return True
        leaving = [child for child in self.children_of(cycle) if child.role == "worker"]
        self.table.tell(Command.QUIT, [max(leaving, key=lambda child: child.index)])
        return True

    # ---- death

    def plan_respawn(self, child: Child, lived: float) -> None:
        """At once; with a doubling delay for one that keeps dying young."""
        settings = self.settings_of(child)
        child.deaths = child.deaths + 1 if lived < settings.young else 0
        wait = settings.respawn_delay * 2 ** (child.deaths - 2) if child.deaths > 1 else 0.0
        child.due = time.monotonic() + min(wait, settings.respawn_delay_max)

    def is_retired(self, child: Child) -> bool:
        """Whether its generation is out of service."""
        return any(cycle.generation == child.generation for cycle in self.retired)

    def discard_retired(self) -> None:
        """Removes what generations leave whose last process has gone."""
        for cycle in list(self.retired):
            if any(child.alive for child in self.children_of(cycle)):
                continue
            for child in self.children_of(cycle):
                self.table.children.pop(child.slot)
            used = [e for c in (self.current, self.pending) if c for e in c.listeners]
            cycle.discard(used)
            self.retired.remove(cycle)


def _close_removed(old: Cycle, new: Cycle) -> None:
    """Sockets that the new cycle does not use close only now, after the commit."""
    used = {id(one) for entry in new.listeners for one in entry.sockets}
    addresses = {entry.address for entry in new.listeners}
    for entry in old.listeners:
        entry.sockets = [one for one in entry.sockets if id(one) not in used]
        entry.close(unlink=entry.address not in addresses)
