"""Keeps the requests that crashed runners, for analysis."""

import os
from contextlib import suppress
from pathlib import Path

import orjson

from cupola.serve.ipc.frames import load_body
from cupola.serve.worker.runner_connections import Call

KEEP = 100  # requests; the oldest are removed


def quarantine(folder: Path, call: Call) -> None:
    """Writes ID.body and ID.json (the rest of the frame); does nothing if the disk is full."""
    frame, name = call.frame, f"{call.id:x}"
    about = {"model": call.model.name, "version": call.model.version,
             "json_size": frame.json_size, **frame.extra}  # fmt: skip
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.body").write_bytes(load_body(frame))
        (folder / f"{name}.json").write_bytes(orjson.dumps(about))
        for old in sorted(folder.iterdir(), key=os.path.getmtime)[: -2 * KEEP]:
            old.unlink()
