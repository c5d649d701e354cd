"""Keeps the requests that crashed runners, for analysis."""

import os
from pathlib import Path

import orjson

from cupola.serve.ipc.frames import Body, load_body
from cupola.serve.worker.runner_connections import Call

KEEP = 100  # requests; the oldest are removed


def quarantine(folder: Path, call: Call) -> str:
    """Writes ID.body and ID.json (the rest of the frame); returns where, or why not, for the log.

    Only the workers' user can read the files.
    """
    frame, name = call.frame, f"{call.id:x}"
    about = {"model": call.model.name, "version": call.model.version,
             "json_size": frame.json_size, **frame.extra}  # fmt: skip
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(folder / f"{name}.body", load_body(frame))
        _write(folder / f"{name}.json", orjson.dumps(about))
        for old in sorted(folder.iterdir(), key=os.path.getmtime)[: -2 * KEEP]:
            old.unlink()
    except OSError as error:
        return f"but not kept in {folder}: {error.strerror}"
    return f"see {folder / name}.body"


def _write(path: Path, data: Body) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
    except OSError:
        path.unlink(missing_ok=True)
        raise
