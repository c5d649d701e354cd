"""The pid file, which a binary upgrade renames so that the new master can write its own."""

import os
from contextlib import suppress
from pathlib import Path

from cupola.serve.ipc.paths import write_atomically

OLD_SUFFIX = ".oldbin"


class PidFile:
    """`path` is None if no pid file is configured."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @property
    def old_path(self) -> Path | None:
        """The path while a new binary runs."""
        return self.path and self.path.with_name(self.path.name + OLD_SUFFIX)

    def write(self) -> None:
        """Writes the id of this process."""
        if self.path:
            write_atomically(self.path, f"{os.getpid()}\n")

    def set_aside(self) -> None:
        """Renames the file, so that a new binary can write its own."""
        if self.path and self.old_path:
            self.path.rename(self.old_path)

    def restore(self) -> None:
        """Takes the name back after the new binary has exited."""
        with suppress(OSError):
            if self.path and self.old_path:
                self.old_path.rename(self.path)

    def remove(self, *, upgrading: bool) -> None:
        """Removes this process's file; during an upgrade, `path` belongs to the new binary."""
        own = self.old_path if upgrading else self.path
        with suppress(OSError):
            if own and own.read_text().strip() == str(os.getpid()):
                own.unlink()
