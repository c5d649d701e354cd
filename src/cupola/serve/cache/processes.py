"""The cache manager, which keeps size and age, and the cache loader, which finds what is there.

As nginx's: the manager works at once, then sleeps until the next entry grows too old (at most the
configured interval), and is respawned; the loader starts late, goes in small steps, exits with 0
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
from cupola.serve.ipc.channel import Channel, Command, Message
from cupola.serve.logs import Log
from cupola.serve.master import signals
from cupola.serve.master.children import Child
from cupola.serve.master.generation import Cycle
from cupola.serve.master.sockets import close_all_but
from cupola.serve.privileges import settle

ABANDONED = 60.0  # seconds after which a half-written file belongs to nobody


class Helper:
    """A process that works now and then, and listens to the master in between."""

    def __init__(self, child: Child, channel: Channel, cycle: Cycle, life: int) -> None:
        close_all_but([])
        settle(cycle.settings, child.index, 0)
        self.channel, self.life, self.log = channel, life, cycle.log
        self.settings = cycle.settings
        assert cycle.settings.cache_path is not None
        self.folder = cycle.settings.cache_path
        self.folder.mkdir(parents=True, exist_ok=True)
        self.index = CacheIndex(self.folder)
        for entry in signals.TABLE:
            act = entry.worker
            ignored = act is None and entry.signal != signal.SIGCHLD
            signal.signal(entry.signal, signal.SIG_IGN if ignored else signal.SIG_DFL)
        signal.signal(signal.SIGUSR1, lambda *_: _reopen(self.log))
        signal.signal(signal.SIGQUIT, lambda *_: os._exit(0))
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        signals.unblock()
        channel.send(Message(Command.READY))

    def sleep(self, seconds: float) -> None:
        """Waits; leaves the process when the master says so or is gone."""
        end = time.monotonic() + seconds
        while True:
            left = max(0.0, end - time.monotonic())
            channel = self.channel.socket.fileno()
            heard, _, _ = select.select([channel, self.life], [], [], left)
            if self.life in heard:
                os._exit(0)
            for message in (self.channel.receive() or []) if heard else []:
                if message.command in (Command.QUIT, Command.TERMINATE):
                    os._exit(0)
                if message.command is Command.REOPEN:
                    _reopen(self.log)
                if message.fd is not None:
                    os.close(message.fd)
            if left == 0.0:
                return


def _reopen(log: Log) -> None:
    try:
        log.file.reopen()
    except OSError as error:
        log("error", f"reopen failed, the old log stays in use: {error}")


def run_manager(child: Child, channel: Channel, cycle: Cycle, life: int) -> NoReturn:
    """Entry of the cache manager."""
    helper = Helper(child, channel, cycle, life)
    settings = cycle.settings
    while True:
        pause = manage(helper.index, helper.folder, settings.cache_max_size, settings.cache_max_age)
        helper.sleep(min(pause, settings.cache_interval))


def manage(index: CacheIndex, folder: Path, max_size: int, max_age: float) -> float:
    """Removes what is too old, then the least recently used while it is too much.

    Returns the seconds until the next entry grows too old.
    """
    total = index.size()
    while True:
        batch = index.oldest()
        gone = []
        for key, size, used in batch:
            if time.time() - used > max_age or total > max_size:
                (folder / key[-1] / key[-3:-1] / key).unlink(missing_ok=True)
                gone.append(key)
                total -= size
        index.remove(gone)
        if not gone:
            return max(0.01, batch[0][2] + max_age - time.time()) if batch else max_age


def run_loader(child: Child, channel: Channel, cycle: Cycle, life: int) -> NoReturn:
    """Entry of the cache loader."""
    helper = Helper(child, channel, cycle, life)
    settings = cycle.settings
    helper.sleep(settings.cache_loader_delay)
    for _ in load(helper.index, helper.folder, settings.cache_loader_files):
        helper.sleep(settings.cache_loader_sleep)
    os._exit(0)


def load(index: CacheIndex, folder: Path, step: int) -> Iterator[int]:
    """Enters the files on disk into the index, `step` at a time; removes forgotten halves."""
    rows: list[tuple[str, int, float]] = []
    for path in folder.glob("?/??/*"):
        try:
            about = path.stat()
        except OSError:
            continue
        if path.name.startswith(".") or path.suffix == ".lock":
            if time.time() - about.st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
            continue
        rows.append((path.name, about.st_size, about.st_mtime))
        if len(rows) >= step:
            index.add_missing(rows)
            yield len(rows)
            rows = []
    index.add_missing(rows)
    yield len(rows)
