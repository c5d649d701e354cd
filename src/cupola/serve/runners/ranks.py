"""The processes of one tensor-parallel model: rank 0 is the runner, the others follow it.

The zygote makes a `Ranks` before it forks, so that every rank is born with its lines: one socket
pair between rank 0 and each follower, and a listening socket on the loopback interface through
which the ranks find each other. When rank 0 is gone its followers read the end of their line and
leave; when a follower is gone the zygote ends the rest.
"""

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import orjson


class Ranks:
    """The lines of a group of `size` processes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.meeting = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.meeting.getsockname()[1]
        pairs = [socket.socketpair() for _ in range(1, size)]
        self.ours = [pair[0] for pair in pairs]  # rank 0's ends
        self.theirs = [pair[1] for pair in pairs]

    def close(self) -> None:
        """Closes every end; the zygote does so once the ranks are born."""
        for end in (self.meeting, *self.ours, *self.theirs):
            end.close()

    def join(self, rank: int, timeout: float) -> Any:
        """This rank's tensor group; of the lines it keeps only the ends that are its own."""
        from cupola.generation.tensor_parallel import join

        for place, (ours, theirs) in enumerate(zip(self.ours, self.theirs, strict=True), start=1):
            if rank:
                ours.close()
            if rank != place:
                theirs.close()
        listener = self.meeting.detach()
        if rank:
            os.close(listener)
        return join(rank, self.size, self.port, None if rank else listener, timeout)

    def teller(self) -> Callable[[dict[str, Any]], None]:
        """How rank 0 tells every follower an order."""

        def tell(order: dict[str, Any]) -> None:
            line = orjson.dumps(order) + b"\n"
            for end in self.ours:
                end.sendall(line)

        return tell

    def orders(self, rank: int) -> Iterator[dict[str, Any]]:
        """What rank 0 tells us, until it is gone."""
        with self.theirs[rank - 1].makefile("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):  # else rank 0 died while it wrote
                    yield orjson.loads(line)
