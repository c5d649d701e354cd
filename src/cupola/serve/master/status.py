"""What the master tells of itself: one JSON file, written at each change, read by everyone."""

import json
import os
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cupola.serve.master.children import Child
    from cupola.serve.master.master import Master


def master_status(master: "Master") -> str:
    """The file's text: generations, processes, signals taken, whether a reload is under way."""
    cycle, pending = master.succession.current, master.succession.pending
    return json.dumps(
        {
            "pid": os.getpid(),
            "written": time.time(),
            "generation": cycle.generation if cycle else 0,
            "pending": pending.generation if pending else None,
            "new_binary": master.new_binary.pid if master.new_binary else None,
            "noaccepting": master.noaccepting,
            "listen": [entry.address for entry in cycle.listeners] if cycle else [],
            "signals": master.counts,
            "processes": [_describe(child) for child in master.table if child.alive],
        }
    )


def _describe(child: "Child") -> dict[str, Any]:
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
