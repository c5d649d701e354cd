"""Log files that survive rotation: reopened in place, old descriptor kept if that fails.

A full disk or a closed pipe must never stop the server, so a write that fails is dropped.
"""

import os
import sys
import time
from pathlib import Path

LEVELS = ("debug", "info", "notice", "warning", "error")


class LogFile:
    """A file (or stream) that takes whole lines; one write call a line, so lines never mix."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.fd = self._open()

    def _open(self) -> int:
        if self.target == "stderr":
            return os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)
        if self.target == "stdout":
            return os.dup(1)
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        return os.open(self.target, flags, 0o644)

    def write(self, text: str) -> None:
        """Appends; a write that the disk refuses is lost, the server goes on."""
        try:
            os.write(self.fd, text.encode("utf-8", "backslashreplace"))
        except OSError:
            return

    def reopen(self, owner: tuple[int, int] | None = None) -> None:
        """Opens the new file before closing the old; OSError leaves the old one in use."""
        new = self._open()
        if owner is not None and self.target not in ("stderr", "stdout"):
            os.chown(new, *owner)
        os.dup2(new, self.fd, inheritable=False)
        os.close(new)

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.fd)


class Log:
    """The error log: time, level, process, message."""

    def __init__(self, target: str = "stderr", level: str = "notice") -> None:
        self.file = LogFile(target)
        self._least = LEVELS.index(level)

    def __call__(self, level: str, message: str) -> None:
        if LEVELS.index(level) >= self._least:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            self.file.write(f"{now} [{level}] {os.getpid()}: {message}\n")


def is_file(target: str) -> bool:
    """Whether a log target names a file."""
    return target not in ("stderr", "stdout", "off") and bool(Path(target).name)
