"""The pid file, which a binary upgrade renames so that the new master can write its own."""

import os
from contextlib import suppress
from pathlib import Path

from cupola.errors import ConfigError
from cupola.serve.ipc.paths import replace_text, write_atomically

OLD_SUFFIX = ".oldbin"


class PidFile:
    """`path` is None if no pid file is configured."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    @property
    def old_path(self) -> Path | None:
        """The path while a new binary runs."""
        return self.path and self.path.with_name(self.path.name + OLD_SUFFIX)

    def check(self) -> None:
        """ConfigError unless the file can be written; leaves an existing one as it is."""
        if self.path is None:
            return
        probe = self.path.with_name(f".{self.path.name}.{os.getpid()}.check")
        try:
            if self.path.is_dir():
                raise IsADirectoryError(None, "it is a folder")
            replace_text(probe, "")
            probe.unlink()
        except OSError as error:
            text = f"pid_file: cannot write {self.path}: {error.strerror or error}"
            raise ConfigError(text) from None

    def write(self) -> None:
        """Writes the id of this process; OSError."""
        if self.path:
            replace_text(self.path, f"{os.getpid()}\n")

    def set_aside(self) -> None:
        """Renames the file, so that a new binary can write its own; OSError."""
        if self.path and self.old_path:
            try:
                self.path.rename(self.old_path)
            except FileNotFoundError:  # somebody has removed it
                replace_text(self.old_path, f"{os.getpid()}\n")

    def restore(self) -> None:
        """Takes the name back after the new binary has exited."""
        if self.path and self.old_path:
            try:
                self.old_path.rename(self.path)
            except OSError:
                write_atomically(self.path, f"{os.getpid()}\n")

    def remove(self, *, upgrading: bool) -> None:
        """Removes this process's file; during an upgrade, `path` belongs to the new binary."""
        own = self.old_path if upgrading else self.path
        with suppress(OSError):
            if own and own.read_text().strip() == str(os.getpid()):
                own.unlink()
