"""Replaces runners that have answered many requests, use much memory, or have unmeasured engines.

The replacement starts in a slot of its own. Once it is ready, the workers connect to it; then the
old runner gets no new requests and exits after its last answer, so nothing is lost. One runner is
replaced at a time. A runner that uses twice its memory limit is killed.

The first runner of a model on a machine answers at once, with an engine that needs no measuring.
Its replacement measures all engines before it is ready, and keeps the choice for later starts. A
model with a state keeps its runner, whose streams would end, and takes the choice up at its next
start.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from cupola.bundles.optimizations import ALL_SECONDS
from cupola.serve.runners.runner_slot import RunnerSlot
from cupola.serve.runners.slot_table import SlotTable

OVERLAP = 1.0  # seconds in which the workers connect to the replacement before the old one retires
RETRY_AFTER = 30.0  # seconds after a replacement that could not be started
MEASURING = 2 * ALL_SECONDS  # in which a runner that builds and measures engines must be ready
LOADS = 3  # a runner serves for at least this many times as long as it takes to load
HARD = 2  # times the limit


def memory_of(pid: int) -> int:
    """Bytes of a process that no file backs, such as shared weights: RssAnon and VmSwap."""
    total = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, value = line.partition(":")
            if name in ("RssAnon", "VmSwap"):
                total += int(value.split()[0]) * 1024
    return total


class Recycler:
    """Decides which runner is replaced, and when. `add` starts a slot like the given one."""

    def __init__(
        self,
        table: SlotTable,
        add: Callable[[RunnerSlot], RunnerSlot],
        publish: Callable[[], None],
        log: Callable[[str, str], None],
    ) -> None:
        self._table, self._add, self._publish, self._log = table, add, publish, log
        self._new: RunnerSlot | None = None
        self._ready_at: float | None = None
        self._not_before = 0.0
        self._killed: set[int] = set()

    def step(self, now: float) -> None:
        """Kills runners over the hard limit; starts, finishes or gives up a replacement."""
        for slot in [one for one in self._table.slots if one.state == "ready"]:
            self._enforce(slot)
        if self._new is not None:
            self._follow(self._new, now)
        elif now >= self._not_before:
            for slot in self._in_service():
                if reason := self._reason(slot):
                    self._log("notice", f"{slot.title} is replaced: {reason}")
                    self._ready_at, self._new = None, self._add(slot)
                    return

    def _enforce(self, slot: RunnerSlot) -> None:
        limit = slot.plan.runner_memory_limit
        if not limit or self._killed.intersection(slot.pids):
            return
        if (used := _memory(slot)) > HARD * max(limit, slot.memory_at_start):
            self._log("error", f"{slot.title} uses {used} bytes: killed")
            slot.kill()
            running = {pid for one in self._table.slots for pid in one.pids}
            self._killed = (self._killed & running) | set(slot.pids)  # until they have ended

    def on_ready(self, slot: RunnerSlot) -> None:
        """Measures a runner that has just become ready."""
        slot.load_seconds = slot.uptime
        if limit := slot.plan.runner_memory_limit:
            slot.memory_at_start = _memory(slot)
            if slot.memory_at_start > limit:
                used = f"{slot.title} uses {slot.memory_at_start} bytes before its first request"
                self._log("warning", f"{used}: runner_memory_limit = {limit} is too small")

    def _in_service(self) -> Iterator[RunnerSlot]:
        busy = {id(one) for load in self._table.loads for one in (*load.added, *load.replaces)}
        for slot in list(self._table.slots):
            if slot.state == "ready" and not slot.removed and id(slot) not in busy:
                yield slot

    def _reason(self, slot: RunnerSlot) -> str:
        """Why a runner should be replaced now, or nothing."""
        settings = slot.generation.settings
        if slot.uptime - slot.load_seconds < max(settings.min_uptime, LOADS * slot.load_seconds):
            return ""
        served = slot.scoreboard.served if slot.scoreboard else 0
        if served >= slot.request_limit:
            return f"it has answered {served} requests"
        if slot.provisional:
            return "its engines are measured"
        limit = slot.plan.runner_memory_limit
        if limit and slot.memory_at_start <= limit < (used := _memory(slot)):
            return f"it uses {used} bytes, over runner_memory_limit = {limit}"
        return ""

    def _follow(self, new: RunnerSlot, now: float) -> None:
        old = new.replaces
        if new.removed or old is None:  # the model was unloaded
            self._new = None
        elif new.failure or new.state == "failed" or self._too_slow(new):
            self._log("error", f"{new.title} is kept: {new.failure or 'no replacement'}")
            self._give_up(new, old)
            self._not_before = now + RETRY_AFTER
        elif new.state != "ready":
            self._ready_at = None
        elif new.measures and old.description.get("stateful"):
            self._log("notice", f"{new.title} is measured; its next start uses the engine chosen")
            self._give_up(new, old)
        elif self._ready_at is None:
            self._ready_at = now
        elif now - self._ready_at > OVERLAP:
            new.recycles, old.recycles, new.replaces = old.recycles + 1, 0, None
            new.respawns, old.respawns = new.respawns + old.respawns, 0
            new.measures = new.provisional = False  # should it have to start again
            if not old.removed:
                self._table.retire(old)
            self._new = None
            self._publish()

    def _give_up(self, new: RunnerSlot, old: RunnerSlot) -> None:
        """Keeps the old runner, whose engines are not measured again in this generation."""
        self._table.retire(new)
        self._new = None
        if new.measures:
            for slot in self._table.of_model(old.plan.name, old.plan.version):
                slot.provisional = False

    def _too_slow(self, new: RunnerSlot) -> bool:
        limit = MEASURING if new.measures else new.generation.settings.ready_timeout
        return new.state != "ready" and new.uptime > limit


def _memory(slot: RunnerSlot) -> int:
    return max(map(memory_of, slot.pids), default=0)
