"""All runner slots of a generation, and the load requests that wait for some of them."""

import socket
from dataclasses import dataclass

from cupola.serve.ipc import frames
from cupola.serve.runners.own_weights import remove_weights
from cupola.serve.runners.runner_slot import RunnerSlot


@dataclass(eq=False)
class PendingLoad:
    """A worker's request to load a model. `replaces`: the slots to retire once it succeeds."""

    worker: socket.socket
    request_id: int
    added: list[RunnerSlot]
    replaces: list[RunnerSlot]

    def error(self) -> str | None:
        """Why the load failed, or None."""
        failed = next((one for one in self.added if one.state == "failed" or one.failure), None)
        return (failed.failure or "its process exited during start") if failed else None


class SlotTable:
    """Adds, retires and lists slots."""

    def __init__(self) -> None:
        self.slots: list[RunnerSlot] = []
        self.loads: list[PendingLoad] = []

    @property
    def all_ready(self) -> bool:
        """Whether every slot has a ready runner."""
        return all(slot.state == "ready" for slot in self.slots)

    def by_pid(self, pid: int) -> RunnerSlot | None:
        """The slot of a process."""
        return next((slot for slot in self.slots if pid in slot.pids), None)

    def of_model(self, name: str, version: str | None) -> list[RunnerSlot]:
        """The slots of a model, or of one version, that are in service."""
        return [
            slot
            for slot in self.slots
            if slot.plan.name == name and version in (None, slot.plan.version) and not slot.removed
        ]

    def retire(self, slot: RunnerSlot) -> None:
        """Takes a slot off the roster; its process exits when no worker is connected."""
        slot.removed, slot.due = True, None
        slot.release()
        if not slot.pids:
            slot.discard()
            self.remove(slot)

    def remove(self, slot: RunnerSlot) -> None:
        """Forgets a retired slot without a process; removes weights that no other slot uses."""
        self.slots.remove(slot)
        name = slot.plan.file_name
        if all(other.plan.file_name != name for other in self.slots):
            remove_weights(slot.generation.home, name)

    def finish_loads(self) -> list[tuple[socket.socket, frames.Frame]]:
        """Ends the loads that have succeeded or failed; the workers and the answers for them."""
        answers = []
        for load in list(self.loads):
            error = load.error()
            if error is None and not all(slot.state == "ready" for slot in load.added):
                continue
            self.loads.remove(load)
            for slot in load.replaces if error is None else load.added:
                if not slot.removed:
                    self.retire(slot)
            answers.append((load.worker, frames.control("done", id=load.request_id, error=error)))
        return answers

    def roster(self, *, complete: bool) -> frames.Frame:
        """All models with their sockets. A model being replaced is listed with its old slots."""
        hidden = {id(slot) for load in self.loads for slot in load.added}
        hidden |= {id(slot) for slot in self.slots if slot.replaces and slot.state != "ready"}
        shown = [slot for slot in self.slots if not slot.removed and id(slot) not in hidden]
        return frames.control(
            "roster",
            complete=complete or self.all_ready,
            runners=[slot.to_json() for slot in shown],
        )
