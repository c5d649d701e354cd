"""RankPool: processes joined by gloo that are started once and used by many tests."""

import multiprocessing
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from waiting import until as until

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "cupola.parallel"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def serve(pipe: Connection, rank: int, world: int) -> None:
    """A rank's loop: (tensor, port, options, function, arguments) -> ("ok" | "error", result)."""
    import torch

    from cupola.parallel import Mesh

    torch.set_num_threads(1)
    mesh, laid_out = Mesh(), None
    while (order := pipe.recv()) is not None:
        layout, port, function, arguments = order
        try:
            if layout != laid_out:
                mesh.stop()
                mesh = Mesh.start(
                    **dict(layout),
                    init_method=f"tcp://127.0.0.1:{port}",
                    rank=rank,
                    world_size=world,
                )
                laid_out = layout
            pipe.send(("ok", function(mesh, *arguments)))
        except BaseException:
            pipe.send(("error", traceback.format_exc()))
    mesh.stop()


class RankPool:
    """`run(function, *arguments)` calls function(mesh, *arguments) on every rank."""

    def __init__(self, world: int) -> None:
        self.world = world
        self.pipes: list[Connection] = []
        self.processes = []
        for rank in range(world):
            ours, theirs = CONTEXT.Pipe()
            process = CONTEXT.Process(target=serve, args=(theirs, rank, world), daemon=True)
            process.start()
            self.pipes.append(ours)
            self.processes.append(process)

    def run(
        self, function: Callable[..., Any], *arguments: Any, tensor: int = 0, **options: Any
    ) -> list[Any]:
        """The ranks' results in order; AssertionError with the first rank's traceback."""
        layout = tuple(sorted({"tensor": tensor or self.world, **options}.items()))
        port = free_port()
        for pipe in self.pipes:
            pipe.send((layout, port, function, arguments))
        answers = [pipe.recv() for pipe in self.pipes]
        for status, result in answers:
            assert status == "ok", result
        return [result for _, result in answers]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)
            if process.is_alive():
                process.kill()
