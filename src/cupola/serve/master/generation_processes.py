"""Starts the processes of a generation: zygote, workers, cache manager and cache loader."""

from typing import NoReturn

from cupola.serve.cache.processes import run_loader, run_manager
from cupola.serve.generation import Generation
from cupola.serve.ipc.channel import Channel
from cupola.serve.master.children import Child, ChildKind, ChildTable
from cupola.serve.routes import ROUTER
from cupola.serve.worker.worker import run_worker


def start_children(
    table: ChildTable, generation: Generation, parent_pipe: int, kind: ChildKind
) -> None:
    """The zygote first, since loading takes longest, then the workers, which wait for runners."""

    def zygote(child: Child, channel: Channel) -> NoReturn:
        from cupola.serve.runners.zygote import run_zygote  # imports torch, so only in the child

        run_zygote(generation, channel, parent_pipe)

    table.add("zygote", 0, generation.number, zygote, kind)
    for index in range(generation.workers):
        start_worker(table, generation, parent_pipe, index, kind)


def start_worker(
    table: ChildTable, generation: Generation, parent_pipe: int, index: int, kind: ChildKind
) -> None:
    """One more worker, with that index among the generation's workers."""

    def worker(child: Child, channel: Channel) -> NoReturn:
        run_worker(generation, channel, parent_pipe, child.slot, child.index, ROUTER)

    table.add("worker", index, generation.number, worker, kind)


def start_cache(table: ChildTable, generation: Generation, parent_pipe: int) -> None:
    """The cache manager, which is respawned, and the cache loader, which runs once."""
    if generation.settings.cache_path is None:
        return

    def manager(child: Child, channel: Channel) -> NoReturn:
        run_manager(generation, channel, parent_pipe)

    def loader(child: Child, channel: Channel) -> NoReturn:
        run_loader(generation, channel, parent_pipe)

    table.add("cache manager", 0, generation.number, manager, ChildKind.RESPAWN)
    table.add("cache loader", 0, generation.number, loader, ChildKind.NORESPAWN)
