"""Sets requests aside that killed two runners, so that somebody can find out why."""

import os
from contextlib import suppress
from pathlib import Path

import orjson

from cupola.serve.links import Call

KEEP = 100  # files; the oldest go first


def set_aside(folder: Path, call: Call) -> None:
    """Writes ID.json (the header) and ID.body; a disk that refuses changes nothing."""
    name = "".join(c if c.isalnum() or c in "-_" else "_" for c in call.id)
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        body = Path(call.header["spool"]).read_bytes() if "spool" in call.header else call.body
        (folder / f"{name}.body").write_bytes(bytes(body))
        (folder / f"{name}.json").write_bytes(orjson.dumps(call.header))
        for old in sorted(folder.iterdir(), key=os.path.getmtime)[: -2 * KEEP]:
            old.unlink()
