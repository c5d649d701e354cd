"""Log files that survive rotation: reopened in place; the old descriptor is kept on failure.

A full disk or a closed pipe must not stop the server, so a write that fails is dropped. A log file
is never opened through a symbolic link, which somebody else may have put in its place.
"""

import os
import stat
import sys
import time

STREAMS = {"stderr": 2, "/dev/stderr": 2, "stdout": 1, "/dev/stdout": 1}
LEVELS = ("debug", "info", "notice", "warning", "error")


class LogFile:
    """A file or stream. Each line is one write call, so lines of processes do not mix."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.fd = self._open()

    def _open(self) -> int:
        stream = STREAMS.get(self.target)
        if stream is not None:
            return os.dup(sys.__stderr__.fileno() if stream == 2 and sys.__stderr__ else stream)
        # O_NONBLOCK: a pipe without a reader must not stop the server
        flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        try:
            fd = os.open(self.target, flags | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            return self._open_existing(flags)
        os.fchmod(fd, 0o644)  # whatever the umask
        return fd

    def _open_existing(self, flags: int) -> int:
        try:
            return os.open(self.target, flags)
        except OSError as error:
            if not os.path.islink(self.target):  # noqa: PTH114
                raise
            text = f"{self.target} is a symbolic link; name the file it leads to"
            raise OSError(error.errno, text) from None

    def give_to(self, user: int, group: int) -> None:
        """Makes `user` the owner of the open file, if it is a plain file with no other name."""
        found = os.fstat(self.fd)
        if stat.S_ISREG(found.st_mode) and found.st_uid != user:
            if found.st_nlink != 1 or found.st_uid != os.geteuid():
                raise OSError(f"{self.target} is a link, or belongs to user {found.st_uid}")
            os.fchown(self.fd, user, group)

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


def escape(text: str) -> str:
    """The text without characters that could start a line or confuse a terminal."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _code(ord(c)) for c in text)


def _code(number: int) -> str:
    return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}"


class Log:
    """The error log: time, level, process, message."""

    def __init__(self, target: str = "stderr", level: str = "notice") -> None:
        self.file = LogFile(target)
        self._threshold = LEVELS.index(level)

    def __call__(self, level: str, message: str) -> None:
        if LEVELS.index(level) >= self._threshold:
            now = time.strftime("%Y-%m-%d %H:%M:%S")
            self.file.write(f"{now} [{level}] {os.getpid()}: {escape(message)}\n")
