"""The file of a choice: what was chosen for a model on this machine, and what was measured."""

import fcntl
import json
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cupola.errors import CupolaError, DataError
from cupola.files import read_settings
from cupola.runtime.optimize.calibration import Outcome
from cupola.runtime.optimize.execution import Row

FORMAT = 4
PAUSE = 0.1  # seconds between two tries to lock


class StaleChoiceError(CupolaError, ValueError):
    """A file that holds no choice for this key."""


def file_of(folder: Path, wish: str) -> Path:
    """The file for one wish ("auto", "auto-int8") in the folder of a key."""
    return folder / f"{wish}.json"


@dataclass(frozen=True)
class Kept:
    """What was chosen. `complete_for`: measuring again pays only if graphs may take longer."""

    engine: str
    rows: tuple[Row, ...]
    complete_for: float


def read_choice(path: Path, key: Mapping[str, Any]) -> Kept | None:
    """The choice in a file; None without a file.

    StaleChoiceError if it is damaged, or a graph that it lacked has been built since.
    """
    if not path.exists():
        return None
    try:
        content = read_settings(path, DataError)
        if content["format"] != FORMAT or content["key"] != dict(key):
            raise StaleChoiceError(f"{path}: is for another machine or model")
        awaited = [path.with_name(Path(name).name) for name in content["awaited"]]
        if any(file.exists() for file in awaited):
            raise StaleChoiceError("a graph that was not ready then has been built since")
        complete_for = float(content["seconds"]) if awaited else math.inf
        complete_for = complete_for if content["is_clear"] is True else 0.0
        rows = tuple(_row(each) for each in content["rows"])
        chosen = content["engine"]
        if not any(row.engine == chosen and row.seconds is not None for row in rows):
            raise StaleChoiceError(f"{path}: chooses an engine that was not measured")
    except StaleChoiceError:
        raise
    except (DataError, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StaleChoiceError(f"{path}: damaged ({error})") from None
    return Kept(str(chosen), rows, complete_for)


def _row(content: Mapping[str, Any]) -> Row:
    seconds = content["seconds"]
    texts = [content[name] for name in ("engine", "difference", "reason")]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("expected texts")
    return Row(texts[0], None if seconds is None else float(seconds), *texts[1:])


def write_choice(path: Path, key: Mapping[str, Any], outcome: Outcome) -> None:
    """Writes a choice at once, so that nobody reads half of it; a full disk keeps none."""
    content = {
        "format": FORMAT,
        "key": dict(key),
        "engine": outcome.engine,
        "error": outcome.error,
        "is_clear": outcome.is_clear,
        "seconds": outcome.seconds,
        "awaited": outcome.awaited,
        "rows": [asdict(row) for row in outcome.rows],
    }
    part = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(OSError):
        try:
            part.write_text(json.dumps(content, indent=1) + "\n")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, seconds: float) -> Iterator[bool]:
    """Whether this process may measure: others wait up to `seconds` for the one that does.

    Where no file can be locked, on a full disk or one that can only be read, everybody may.
    """
    end = time.monotonic() + seconds
    try:
        file = (folder / "lock").open("w")
    except OSError:
        yield True
        return
    with file as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                if time.monotonic() > end:
                    yield False
                    return
                time.sleep(PAUSE)
            else:
                yield True
                return
