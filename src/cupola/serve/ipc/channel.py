"""The channel between the master and a child: a socket pair that carries fixed-size commands.

One non-blocking, close-on-exec AF_UNIX stream pair per child, as in nginx. OPEN_CHANNEL passes a
file descriptor. Unlike nginx, the child answers with READY or FAILED. The master's end raises
SIGIO, which wakes sigtimedwait.
"""

import array
import fcntl
import os
import signal
import socket
import struct
from dataclasses import dataclass
from enum import IntEnum

FATAL = 2  # exit code of a child that must not be respawned
_LAYOUT = struct.Struct("<iiii")  # command, slot, pid, generation
F_SETSIG = 10


class Command(IntEnum):
    """The kinds of channel messages."""

    OPEN_CHANNEL = 1
    CLOSE_CHANNEL = 2
    QUIT = 3
    TERMINATE = 4
    REOPEN = 5
    READY = 6
    FAILED = 7
    DRAIN = 8  # the server stops: not ready, `Connection: close`, and still accepting


_KNOWN = frozenset(Command)
SIGNAL_OF = {
    Command.QUIT: signal.SIGQUIT,
    Command.TERMINATE: signal.SIGTERM,
    Command.REOPEN: signal.SIGUSR1,
}


@dataclass(frozen=True)
class ChannelMessage:
    """One command. Only OPEN_CHANNEL carries `fd`."""

    command: Command
    slot: int = -1
    pid: int = -1
    generation: int = 0
    fd: int | None = None


class Channel:
    """One end of the pair. A message is sent whole or not at all."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._partial = b""

    @staticmethod
    def pair() -> tuple["Channel", "Channel"]:
        """The master's end and the child's end."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        for end in (ours, theirs):
            end.setblocking(False)  # close-on-exec is Python's default
        return Channel(ours), Channel(theirs)

    def raise_sigio(self) -> None:
        """Makes arriving messages send SIGIO to this process."""
        fd = self.socket.fileno()
        fcntl.fcntl(fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(fd, F_SETSIG, signal.SIGIO)
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_ASYNC)

    def send(self, message: ChannelMessage) -> bool:
        """False if the channel is full or broken; the caller then falls back to a signal."""
        data = _LAYOUT.pack(message.command, message.slot, message.pid, message.generation)
        extra = []
        if message.fd is not None:
            extra = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [message.fd]))]
        try:
            return self.socket.sendmsg([data], extra) == len(data)
        except OSError:
            return False

    def receive(self) -> list[ChannelMessage] | None:
        """All messages that have arrived; None once the other end is closed."""
        messages: list[ChannelMessage] = []
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, _LAYOUT.size * 64, 64)
            except BlockingIOError:
                return messages
            except OSError:
                return messages or None
            if not data:
                return messages or None
            messages += self._split(data, fds)

    def _split(self, data: bytes, fds: list[int]) -> list[ChannelMessage]:
        data, waiting = self._partial + data, iter(fds)
        whole = len(data) - len(data) % _LAYOUT.size
        self._partial = data[whole:]
        found = []
        for command, slot, pid, generation in _LAYOUT.iter_unpack(data[:whole]):
            fd = next(waiting, None) if command == Command.OPEN_CHANNEL else None
            if command in _KNOWN:
                found.append(ChannelMessage(Command(command), slot, pid, generation, fd))
        for fd in waiting:  # of no message
            os.close(fd)
        return found

    def close(self) -> None:
        """Closes this end."""
        self.socket.close()
