"""The master's status: one JSON file, written at each change, read by all processes."""

import json
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from cupola.serve.ipc.signals import TABLE, Flag
from cupola.serve.master.children import Child
from cupola.serve.master.generation_manager import GenerationManager

REMEMBERED = 40  # events
ROUTINE = {Flag.CHANNEL, Flag.SIGALRM}  # flags that are no events


class History:
    """Signals taken, counted by flag, and the latest events: signals, and changes of generation."""

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.events: deque[dict[str, Any]] = deque(maxlen=REMEMBERED)
        self._generations: tuple[int | None, int | None] = (None, None)

    def take(self, arrived: Iterable[Flag]) -> None:
        """Counts the flags that signals have set."""
        for flag in arrived:
            self.taken[flag] = self.taken.get(flag, 0) + 1
            if flag not in ROUTINE:
                self._add("signal", flag.value)

    def follow(self, current: int | None, pending: int | None) -> None:
        """Notes a generation that begins to load, takes over, or is given up."""
        before, loading = self._generations
        self._generations = (current, pending)
        if pending is not None and pending != loading:
            self._add("loading", pending)
        if loading is not None and loading not in (current, pending):
            self._add("given up", loading)
        if current is not None and current != before:
            self._add("serving", current)

    def _add(self, what: str, value: str | int) -> None:
        self.events.append({"time": time.time(), "what": what, "value": value})


def status_json(
    manager: GenerationManager,
    new_binary: Child | None,
    noaccepting: bool,
    flags: Iterable[Flag],
    history: History,
) -> str:
    """The text of the file: generations, processes, flags, signals taken, the latest events."""
    current, pending = manager.current, manager.pending
    history.follow(current.number if current else None, pending.number if pending else None)
    return json.dumps(
        {
            "pid": os.getpid(),
            "written": time.time(),
            "generation": current.number if current else 0,
            "pending": pending.number if pending else None,
            "new_binary": new_binary.pid if new_binary else None,
            "noaccepting": noaccepting,
            "listen": [listener.address for listener in current.listeners] if current else [],
            "flags": sorted(flags),
            "signals": history.taken,
            "events": list(history.events),
            "table": [
                {
                    "signal": entry.signal.name,
                    "flag": entry.flag,
                    "command": entry.command,
                    "meaning": entry.meaning,
                }
                for entry in TABLE
            ],
            "processes": [_describe(child) for child in manager.table if child.alive],
        }
    )


def _describe(child: Child) -> dict[str, Any]:
    return {
        "role": child.role,
        "index": child.index,
        "slot": child.slot,
        "pid": child.pid,
        "generation": child.generation,
        "state": "draining" if child.exiting else "ready" if child.ready else "starting",
        "respawns": child.respawns,
        "uptime": round(time.monotonic() - child.started, 3),
    }
