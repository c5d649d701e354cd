"""One language model on several ranks: rank 0 drives, the others run the same steps.

Every rank holds a Scheduler over its part of the model. Before each step rank 0 sends the others
the requests that were added or cancelled. From there on all do the same: every rank sees the whole
logits, and a choice depends only on them, the seed and the position.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import Any

from torch._C._distributed_c10d import TCPStore

from cupola.errors import EngineError
from cupola.generation.sampling import SamplingParams
from cupola.generation.scheduler import Scheduler
from cupola.generation.sequence import Token
from cupola.parallel import Group, Mesh

# {"engine": number, "changes": [...], "prefill": tokens} for a step, or
# {"engine": number, "close": True}.
StepOrder = dict[str, Any]


def join(rank: int, size: int, port: int, listener: int | None, timeout: float) -> Group:
    """The tensor group of `size` processes of this machine.

    They meet at a port of the loopback interface, where rank 0 listens on the file descriptor
    `listener`. `timeout` is in seconds, for the meeting and for every collective.
    """
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # unreachable from other machines
    options: dict[str, Any] = {} if listener is None else {"master_listen_fd": listener}
    limit = timedelta(seconds=timeout)
    store = TCPStore("127.0.0.1", port, size, listener is not None, limit, **options)
    mesh = Mesh.start(
        tensor=size, timeout=timeout, rank=rank, world_size=size, store=store, backend="gloo"
    )
    return mesh.tensor


class Driver:
    """Rank 0's Scheduler, whose steps the workers run as well; used as a Scheduler is."""

    def __init__(
        self, scheduler: Scheduler, number: int, send: Callable[[StepOrder], None]
    ) -> None:
        self.scheduler, self.number = scheduler, number
        self._send = send
        self._changes: list[list[Any]] = []

    @property
    def active(self) -> int:
        """Requests in progress, waiting ones included."""
        return self.scheduler.active

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self.scheduler.end_token_ids

    @property
    def preempted(self) -> list[str]:
        """The waiting requests that have generated tokens."""
        return self.scheduler.preempted

    def add(
        self,
        request_id: str,
        prompt: Iterable[int],
        sampling: SamplingParams,
        written: Sequence[int] = (),
    ) -> None:
        """Accepts a request on every rank. InputError as from a Scheduler."""
        tokens = list(prompt)
        self.scheduler.add(request_id, tokens, sampling, written)
        self._changes.append(["add", request_id, tokens, asdict(sampling), list(written)])

    def cancel(self, request_id: str) -> None:
        """Drops a request; unknown ids are ignored."""
        self.scheduler.cancel(request_id)
        self._changes.append(["cancel", request_id])

    def step(self) -> list[Token]:
        """Runs the model once on all ranks. EngineError when one of them fails."""
        changes, self._changes = self._changes, []
        prefill = self.scheduler.prefill_tokens  # of rank 0's own times: all must do the same
        try:
            self._send({"engine": self.number, "changes": changes, "prefill": prefill})
            return self.scheduler.step(prefill)
        except Exception as error:
            raise EngineError(f"a tensor-parallel rank failed: {error}") from error

    def close(self) -> None:
        """Lets the workers drop their schedulers."""
        self._send({"engine": self.number, "close": True})


def run_worker(new_scheduler: Callable[[], Scheduler], orders: Iterable[StepOrder]) -> None:
    """The loop of the other ranks: runs every step that rank 0 orders, until the orders end."""
    schedulers: dict[int, Scheduler] = {}
    for order in orders:
        number = order["engine"]
        if order.get("close"):
            schedulers.pop(number, None)
            continue
        if number not in schedulers:
            schedulers[number] = new_scheduler()
        for kind, *details in order["changes"]:
            if kind == "add":
                request_id, tokens, sampling, written = details
                schedulers[number].add(request_id, tokens, SamplingParams(**sampling), written)
            else:
                schedulers[number].cancel(*details)
        schedulers[number].step(order["prefill"])
