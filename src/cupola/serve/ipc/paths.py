"""Where a running server keeps its sockets, its status and its process id.

The files of a master are in RUNTIME_DIR/PID, so its pid is enough to find them.
"""

import json
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import Any

from cupola.errors import ConfigError, CupolaError


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
    """Makes the folder of the master `pid`; removes the folders of masters that have exited.

    Only this user may enter it. ConfigError if another user could write to an existing `root`.
    """
    _make_root(root)
    for folder in root.iterdir():
        if folder.name.isdigit() and (folder.name == str(pid) or not is_alive(int(folder.name))):
            shutil.rmtree(folder, ignore_errors=True)
    home = root / str(pid)
    restore_home(home)
    return home


def _make_root(root: Path) -> None:
    root.parent.mkdir(parents=True, exist_ok=True)
    try:
        root.mkdir(mode=0o700)
        root.chmod(0o700)
    except FileExistsError:
        check_root(root)


def restore_home(home: Path) -> None:
    """Makes the folder of a master unless it exists; somebody may have removed it."""
    if not home.is_dir():
        _make_root(home.parent)
        home.mkdir(mode=0o700)
        home.chmod(0o700)  # whatever the umask


def admit_group(home: Path, group: int) -> None:
    """Lets the group of workers that have a user of their own enter the home of a master."""
    root = home.parent
    mode = stat.S_IMODE(root.stat().st_mode)
    if mode & 0o011 != 0o011:
        root.chmod(mode | 0o011)
    os.chown(home, -1, group)
    home.chmod(0o750)


def check_root(root: Path, setting: str = "runtime_dir") -> None:
    """ConfigError unless an existing folder, which `setting` names, is safe from other users."""
    found = root.lstat()
    if stat.S_ISLNK(found.st_mode) and found.st_uid in (0, os.geteuid()):
        found = root.stat()
    hint = f"set {setting} to a folder of your own"
    if not stat.S_ISDIR(found.st_mode):
        raise ConfigError(f"{setting}: {root} is not a folder; {hint}")
    if found.st_uid not in (0, os.geteuid()):
        raise ConfigError(f"{setting}: {root} belongs to user {found.st_uid}; {hint}")
    if found.st_mode & 0o022:
        mode = stat.S_IMODE(found.st_mode)
        raise ConfigError(f"{setting}: other users may write to {root} (mode {mode:o}); {hint}")


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
    with suppress(OSError):
        replace_text(path, text)


def replace_text(path: Path, text: str) -> None:
    """Replaces a file's text as a whole, readable by all; OSError leaves the old text."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "w") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(text)
        part.replace(path)
    except OSError:
        with suppress(OSError):
            part.unlink()
        raise


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
