"""The processes of one cycle: a zygote, the workers, the cache manager and the cache loader."""

from typing import NoReturn

from cupola.serve.cache.processes import run_loader, run_manager
from cupola.serve.ipc.channel import Channel
from cupola.serve.master.children import Child, Kind, Table
from cupola.serve.master.generation import Cycle
from cupola.serve.worker.worker import run_worker


def start_children(table: Table, cycle: Cycle, life: int, kind: Kind) -> None:
    """The zygote first, since loading takes longest; the workers wait for its runners."""

    def zygote(child: Child, channel: Channel) -> NoReturn:
        from cupola.serve.runners.zygote import run_zygote  # loads torch, so only here

        run_zygote(child, channel, cycle, life)

    table.add("zygote", 0, cycle.generation, zygote, kind)
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
