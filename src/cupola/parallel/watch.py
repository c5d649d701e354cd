"""Watch: which rank is missing when a collective fails.

Every rank publishes, four times a second from a separate thread, how many collectives it has
entered. After a failure the others read which rank stopped publishing (its process is gone) or is
behind (it hangs elsewhere), so that the error can name it. This costs the collectives nothing.
"""

import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

from torch.distributed.distributed_c10d import Store

INTERVAL = 0.25  # seconds between two publications


@dataclass(frozen=True)
class Progress:
    """What one rank last published: its heartbeat, and per group (entered, collective)."""

    beat: int
    entered: dict[str, tuple[int, str]]


class Watch:
    """Publishes this rank's progress in the store of the process group, and reads the others'."""

    def __init__(self, store: Store, rank: int) -> None:
        self.store = store
        self.rank = rank
        self._entered: dict[str, tuple[int, str]] = {}
        self._beat = 0
        self._stop = threading.Event()
        self._publish()
        self._thread = threading.Thread(target=self._run, name="cupola-watch", daemon=True)
        self._thread.start()

    def enter(self, group: str, collective: str) -> None:
        """Records that this rank enters `collective` of `group`."""
        count, _ = self._entered.get(group, (0, ""))
        self._entered[group] = (count + 1, collective)

    def stop(self) -> None:
        """Ends the publishing thread."""
        self._stop.set()
        self._thread.join(timeout=5)

    def diagnose(self, group: str, ranks: Sequence[int]) -> str:
        """A description of which of `ranks` is missing in `group`.

        The first rank to find out stores it for the others: it may exit, and ranks that look later
        would report it instead.
        """
        others = [rank for rank in ranks if rank != self.rank]
        verdict = f"verdict/{group}"
        try:
            if self.store.check([verdict]):
                return self.store.get(verdict).decode()
            found = self._look(group, others)
            return self.store.compare_set(verdict, "", found).decode()
        except (RuntimeError, OSError):
            return "rank 0, which had the store, is gone"

    def _look(self, group: str, others: Sequence[int]) -> str:
        before = {rank: self._read(rank) for rank in others}
        time.sleep(4 * INTERVAL)
        after = {rank: self._read(rank) for rank in others}
        gone = [rank for rank in others if before[rank].beat == after[rank].beat]
        if gone:
            return f"rank {gone[0]} is dead or stopped"
        mine = self._entered[group][0]
        late = [rank for rank in others if after[rank].entered.get(group, (0, ""))[0] < mine]
        if late:
            last = after[late[0]].entered.get(group, (0, "nothing"))[1]
            return f"rank {late[0]} did not join (its last collective in this group was {last})"
        return "every rank is alive and in this collective: the network between them failed"

    def _run(self) -> None:
        while not self._stop.wait(INTERVAL):
            try:
                self._publish()
            except (RuntimeError, OSError):  # the store is gone, and with it the group
                return

    def _publish(self) -> None:
        self._beat += 1
        self.store.set(f"watch/{self.rank}", json.dumps([self._beat, self._entered]))

    def _read(self, rank: int) -> Progress:
        key = f"watch/{rank}"
        self.store.wait([key], timedelta(seconds=2))
        beat, entered = json.loads(self.store.get(key))
        return Progress(beat, {name: (count, last) for name, (count, last) in entered.items()})
