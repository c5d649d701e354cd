"""The cache manager, which enforces size and age, and the cache loader, which fills the index.

As in nginx: the manager runs at once, then sleeps until the next entry expires (at most the
configured interval), and is respawned. The loader starts late, works in small steps, exits with 0
and is not respawned. Neither listens on a socket.
"""

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from cupola.serve.cache.index import CacheIndex
from cupola.serve.cache.response_cache import entry_path
from cupola.serve.generation import Generation
from cupola.serve.ipc import signals
from cupola.serve.ipc.channel import Channel, ChannelMessage, Command
from cupola.serve.ipc.listeners import close_all_but
from cupola.serve.process_setup import setup_process

ABANDONED_AFTER = 60.0  # seconds after which a partly written file counts as abandoned


class CacheProcess:
    """A process that works at intervals and reads the master's commands in between."""

    def __init__(self, generation: Generation, channel: Channel, parent_pipe: int) -> None:
        close_all_but([])
        setup_process(generation.settings)
        self.generation, self.channel, self.parent_pipe = generation, channel, parent_pipe
        self.settings = generation.settings
        assert self.settings.cache_path is not None
        self.folder = self.settings.cache_path
        self.folder.mkdir(parents=True, exist_ok=True)
        self.index = CacheIndex(self.folder)
        self._handle_signals()
        channel.send(ChannelMessage(Command.READY))

    def _handle_signals(self) -> None:
        for entry in signals.TABLE:
            is_ignored = entry.worker is None and entry.signal != signal.SIGCHLD
            signal.signal(entry.signal, signal.SIG_IGN if is_ignored else signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, lambda *_: self.generation.reopen_logs())
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signals.unblock()

    def sleep(self, seconds: float) -> None:
        """Waits; exits if the master says so or has died."""
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            channel = self.channel.socket.fileno()
            readable, _, _ = select.select([channel, self.parent_pipe], [], [], left)
            if self.parent_pipe in readable:
                os._exit(0)
            if readable:
                self._read_channel()
            if left == 0.0:
                return

    def _read_channel(self) -> None:
        for message in self.channel.receive() or []:
            if message.command in (Command.QUIT, Command.TERMINATE):
                os._exit(0)
            if message.command is Command.REOPEN:
                self.generation.reopen_logs()
            if message.fd is not None:
                os.close(message.fd)


def run_manager(generation: Generation, channel: Channel, parent_pipe: int) -> NoReturn:
    """Entry point of the cache manager."""
    process = CacheProcess(generation, channel, parent_pipe)
    settings = generation.settings
    while True:
        pause = evict(
            process.index, process.folder, settings.cache_max_size, settings.cache_max_age
        )
        process.sleep(min(pause, settings.cache_interval))


def evict(index: CacheIndex, folder: Path, max_size: int, max_age: float) -> float:
    """Removes expired entries, then the least recently used ones while the cache is too large.

    Returns the seconds until the next entry expires.
    """
    total = index.size()
    while True:
        batch = index.oldest()
        removed = []
        for key, size, used in batch:
            if time.time() - used > max_age or total > max_size:
                entry_path(folder, key).unlink(missing_ok=True)
                removed.append(key)
                total -= size
        index.remove(removed)
        if not removed:
            return max(0.01, batch[0][2] + max_age - time.time()) if batch else max_age


def run_loader(generation: Generation, channel: Channel, parent_pipe: int) -> NoReturn:
    """Entry point of the cache loader."""
    process = CacheProcess(generation, channel, parent_pipe)
    settings = generation.settings
    process.sleep(settings.cache_loader_delay)
    for _ in load_index(process.index, process.folder, settings.cache_loader_files):
        process.sleep(settings.cache_loader_sleep)
    os._exit(0)


def load_index(index: CacheIndex, folder: Path, step: int) -> Iterator[int]:
    """Adds the files on disk to the index, `step` at a time; removes abandoned partial files."""
    rows: list[tuple[str, int, float]] = []
    for path in folder.glob("?/??/*"):
        try:
            about = path.stat()
        except OSError:
            continue
        if path.name.startswith(".") or path.suffix == ".lock":
            if time.time() - about.st_mtime > ABANDONED_AFTER:
                path.unlink(missing_ok=True)
            continue
        rows.append((path.name, about.st_size, about.st_mtime))
        if len(rows) >= step:
            index.add_missing(rows)
            yield len(rows)
            rows = []
    index.add_missing(rows)
    yield len(rows)
