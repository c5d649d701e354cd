"""The processes of one cycle: a mould, the workers, the cache manager and the cache loader."""

from typing import NoReturn

from cupola.serve.cache_processes import run_loader, run_manager
from cupola.serve.channel import Channel
from cupola.serve.cycle import Cycle
from cupola.serve.process import Child, Kind, Table
from cupola.serve.worker import run_worker


def start_children(table: Table, cycle: Cycle, life: int, kind: Kind) -> None:
    """The mould first, since loading takes longest; the workers wait for its runners."""

    def mould(child: Child, channel: Channel) -> NoReturn:
        from cupola.serve.mould import run_mould  # loads torch, so only here

        run_mould(child, channel, cycle, life)

    table.add("mould", 0, cycle.generation, mould, kind)
    for index in range(cycle.workers):
        start_worker(table, cycle, life, index, kind)


def start_worker(table: Table, cycle: Cycle, life: int, index: int, kind: Kind) -> None:
    """One worker more, at place `index` among the cycle's workers."""

    def worker(child: Child, channel: Channel) -> NoReturn:
        run_worker(child, channel, cycle, life)

    table.add("worker", index, cycle.generation, worker, kind)


def start_cache(table: Table, cycle: Cycle, life: int) -> None:
    """The manager, which is respawned, and the loader, which runs once."""
    if cycle.settings.cache_path is None:
        return

    def manager(child: Child, channel: Channel) -> NoReturn:
        run_manager(child, channel, cycle, life)

    def loader(child: Child, channel: Channel) -> NoReturn:
        run_loader(child, channel, cycle, life)

    table.add("cache manager", 0, cycle.generation, manager, Kind.RESPAWN)
    table.add("cache loader", 0, cycle.generation, loader, Kind.NORESPAWN)
