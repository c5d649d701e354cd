"""Where a running server keeps its sockets, its status and its process id.

The files of a master are in RUNTIME_DIR/PID, so its pid is enough to find them.
"""

import json
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

from cupola.errors import CupolaError


class NoServerError(CupolaError):
    """The pid file does not lead to a running master."""


def runtime_root(configured: Path | None = None) -> Path:
    """The folder for all servers of this user, in memory where the system supports it."""
    if configured is not None:
        return configured
    if named := os.environ.get("CUPOLA_RUNTIME_DIR"):
        return Path(named)
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    return base / f"cupola-{os.getuid()}"


def make_home(root: Path, pid: int) -> Path:
    """Makes the folder of the master `pid`; removes the folders of masters that have exited."""
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    for folder in root.iterdir():
        if folder.name.isdigit() and not is_alive(int(folder.name)):
            shutil.rmtree(folder, ignore_errors=True)
    home = root / str(pid)
    home.mkdir(mode=0o755, exist_ok=True)
    return home


def remove_home(home: Path) -> None:
    """Removes the folder of a master."""
    shutil.rmtree(home, ignore_errors=True)


def is_alive(pid: int) -> bool:
    """Whether a process with that id exists and is not a zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def write_atomically(path: Path, text: str) -> None:
    """Replaces a file's text as a whole; a full disk leaves the old text."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(text)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()


def read_pid(pid_file: Path) -> int:
    """The process id in a pid file; NoServerError unless that process is running."""
    try:
        pid = int(pid_file.read_text())
    except (OSError, ValueError):
        raise NoServerError(f"no process id in {pid_file}: is the server running?") from None
    if not is_alive(pid):
        raise NoServerError(f"{pid_file} names process {pid}, which is not running")
    return pid


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; empty if there is no such file yet."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_status(home: Path) -> dict[str, Any]:
    """The status that a master wrote last; empty before the first."""
    return read_json(home / "status.json")
