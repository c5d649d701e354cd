"""Sets requests aside that killed two runners, so that somebody can find out why."""

import os
from contextlib import suppress
from pathlib import Path

import orjson

from cupola.serve.ipc import frames as wire
from cupola.serve.worker.runner_connections import Call

KEEP = 100  # files; the oldest go first


def set_aside(folder: Path, call: Call) -> None:
    """Writes ID.json (what the runner was told) and ID.body; a full disk changes nothing."""
    frame, name = call.frame, f"{call.id:x}"
    told = {"model": call.model.name, "version": call.model.version,
            "json_size": frame.json_size, **frame.extra}  # fmt: skip
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.body").write_bytes(wire.collect(frame))
        (folder / f"{name}.json").write_bytes(orjson.dumps(told))
        for old in sorted(folder.iterdir(), key=os.path.getmtime)[: -2 * KEEP]:
            old.unlink()
