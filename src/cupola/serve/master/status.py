"""The master's status: one JSON file, written at each change, read by all processes."""

import json
import os
import time
from typing import Any

from cupola.serve.master.children import Child
from cupola.serve.master.generation_manager import GenerationManager


def status_json(
    manager: GenerationManager,
    new_binary: Child | None,
    noaccepting: bool,
    signals_taken: dict[str, int],
) -> str:
    """The text of the file: generations, processes, signals taken, whether a reload is pending."""
    current, pending = manager.current, manager.pending
    return json.dumps(
        {
            "pid": os.getpid(),
            "written": time.time(),
            "generation": current.number if current else 0,
            "pending": pending.number if pending else None,
            "new_binary": new_binary.pid if new_binary else None,
            "noaccepting": noaccepting,
            "listen": [listener.address for listener in current.listeners] if current else [],
            "signals": signals_taken,
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
