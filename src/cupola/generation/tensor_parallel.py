"""One language model on several ranks: rank 0 decides, the others take the same steps.

Every rank holds a Batcher over its part of the model. Before each step rank 0 tells the others
which requests came and went; from there on all do the same, since every rank sees the whole
logits and a choice depends on them, the seed and the position alone.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import TCPStore

from cupola.models.bloom import Batcher, Sampling, Token
from cupola.parallel import Group, Mesh
from cupola.runtime.predictor import EngineError

Order = dict[str, Any]  # {"engine": number, "changes": [...]} or {"engine": number, "close": True}


def join(rank: int, size: int, port: int, listener: int | None, timeout: float) -> Group:
    """The tensor group of `size` processes of this machine.

    They meet at a port of the loopback interface, where rank 0 listens on the descriptor
    `listener`. `timeout` is in seconds, for the meeting and for every collective.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # nobody from outside may join
    options: dict[str, Any] = {} if listener is None else {"master_listen_fd": listener}
    limit = timedelta(seconds=timeout)
    store = TCPStore("127.0.0.1", port, size, listener is not None, limit, **options)
    mesh = Mesh.start(
        tensor=size, timeout=timeout, rank=rank, world_size=size, store=store, backend="gloo"
    )
    return mesh.tensor


class Lead:
    """A Batcher whose steps the other ranks take as well; used as a Batcher is."""

    def __init__(self, batcher: Batcher, number: int, tell: Callable[[Order], None]) -> None:
        self.batcher, self.number = batcher, number
        self._tell = tell
        self._changes: list[list[Any]] = []

    @property
    def active(self) -> int:
        """Requests under way, waiting ones included."""
        return self.batcher.active

    def add(self, request_id: str, prompt: Iterable[int], sampling: Sampling) -> None:
        """Takes a request in, here and on the other ranks. InputError as from a Batcher."""
        tokens = list(prompt)
        self.batcher.add(request_id, tokens, sampling)
        self._changes.append(["add", request_id, tokens, asdict(sampling)])

    def cancel(self, request_id: str) -> None:
        """Forgets a request; unknown ids are ignored."""
        self.batcher.cancel(request_id)
        self._changes.append(["cancel", request_id])

    def step(self) -> list[Token]:
        """Runs the model once on all ranks. EngineError when a rank is gone or disagrees."""
        changes, self._changes = self._changes, []
        try:
            self._tell({"engine": self.number, "changes": changes})
            return self.batcher.step()
        except Exception as error:
            raise EngineError(f"the ranks of the model fell apart: {error}") from error

    def close(self) -> None:
        """The other ranks forget this Batcher."""
        self._tell({"engine": self.number, "close": True})


def follow(new_batcher: Callable[[], Batcher], orders: Iterable[Order]) -> None:
    """What the other ranks do: every step that rank 0 orders, until the orders end."""
    batchers: dict[int, Batcher] = {}
    for order in orders:
        number = order["engine"]
        if order.get("close"):
            batchers.pop(number, None)
            continue
        if number not in batchers:
            batchers[number] = new_batcher()
        for what, *details in order["changes"]:
            if what == "add":
                request_id, tokens, sampling = details
                batchers[number].add(request_id, tokens, Sampling(**sampling))
            else:
                batchers[number].cancel(*details)
        batchers[number].step()
