"""Log files that survive rotation: reopened in place; the old descriptor is kept on failure.

A full disk or a closed pipe must not stop the server, so a write that fails is dropped.
"""

import os
import sys
import time

LEVELS = ("debug", "info", "notice", "warning", "error")


class LogFile:
    """A file or stream. Each line is one write call, so lines of processes do not mix."""

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
        """Appends text; it is lost if the disk is full."""
        try:
            os.write(self.fd, text.encode("utf-8", "backslashreplace"))
        except OSError:
            return

    def reopen(self) -> None:
        """Opens the new file before closing the old; OSError leaves the old one in use."""
        new = self._open()
        os.dup2(new, self.fd, inheritable=False)
        os.close(new)

    def close(self) -> None:
        """Closes the descriptor."""
        os.close(self.fd)


class Log:
    """The error log: time, level, process, message."""

    def __init__(self, target: str = "stderr", level: str = "notice") -> None:
        self.file = LogFile(target)
        self._threshold = LEVELS.index(level)

    def __call__(self, level: str, message: str) -> None:
        if LEVELS.index(level) >= self._threshold:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            self.file.write(f"{now} [{level}] {os.getpid()}: {message}\n")
