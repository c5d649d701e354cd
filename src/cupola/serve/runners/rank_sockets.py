"""The sockets of the processes of one tensor-parallel model.

Rank 0 is the runner; the other ranks are its workers. The zygote makes the sockets before it forks:
a pair between rank 0 and each other rank, and a listening socket on the loopback interface for the
process group. When rank 0 exits, the others read the end of their stream and exit; when another
rank exits, the zygote kills the rest.
"""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import orjson


class RankSockets:
    """The sockets of a group of `size` processes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.rendezvous = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.rendezvous.getsockname()[1]
        pairs = [socket.socketpair() for _ in range(1, size)]
        self.driver_ends = [pair[0] for pair in pairs]  # of rank 0
        self.worker_ends = [pair[1] for pair in pairs]

    def close(self) -> None:
        """Closes all sockets; the zygote does so once the ranks are forked."""
        for end in (self.rendezvous, *self.driver_ends, *self.worker_ends):
            end.close()

    def join(self, rank: int, timeout: float) -> Any:
        """Joins the process group as `rank` and closes the sockets of the other ranks."""
        from cupola.generation.tensor_parallel import join

        for other, worker_end in enumerate(self.worker_ends, start=1):
            if rank:
                self.driver_ends[other - 1].close()
            if rank != other:
                worker_end.close()
        listener = self.rendezvous.detach()
        if rank:
            os.close(listener)
        return join(rank, self.size, self.port, None if rank else listener, timeout)

    def broadcaster(self) -> Callable[[dict[str, Any]], None]:
        """A function with which rank 0 sends a command to the other ranks."""

        def broadcast(command: dict[str, Any]) -> None:
            line = orjson.dumps(command) + b"\n"
            for end in self.driver_ends:
                end.sendall(line)

        return broadcast

    def commands(self, rank: int) -> Iterator[dict[str, Any]]:
        """The commands of rank 0, until it exits."""
        with self.worker_ends[rank - 1].makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else rank 0 died while writing
                    yield orjson.loads(line)
