"""Listening sockets: opened by the master, shared with the workers, passed to a new binary.

An address that is kept over a reload keeps its socket and thus its queue of pending connections.
With reuseport there is one socket per worker, all held by the master. If there are fewer workers
than sockets, the workers share the rest, so no socket is closed with connections pending in it.
"""

import errno
import os
import socket
import stat
import time
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cupola.errors import ConfigError

ENVIRONMENT = "CUPOLA_SOCKETS"
SYSTEMD_FIRST = 3
PASSED = "systemd:"  # before the address, in that variable, if systemd has opened the socket
TRIES, PAUSE = 5, 0.5
_open: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()  # all listening sockets we hold


@dataclass
class Listener:
    """One address and its open sockets: several with reuseport, else one.

    `proxied`: a connection starts with the PROXY protocol. `operations`: the endpoints for
    operators are answered here. `grpc`: it speaks gRPC. `passed`: opened by systemd, which keeps a
    unix path.
    """

    address: str
    sockets: list[socket.socket] = field(default_factory=list)
    proxied: bool = False
    operations: bool = True
    grpc: bool = False
    passed: bool = False

    def for_worker(self, index: int, workers: int) -> list[socket.socket]:
        """The sockets that worker `index` of `workers` accepts on."""
        if len(self.sockets) <= 1:
            return self.sockets
        return [s for n, s in enumerate(self.sockets) if n % workers == index % len(self.sockets)]

    def close(self, *, unlink: bool = True) -> None:
        """Closes the sockets. `unlink` removes a unix path; another master may still use it."""
        for one in self.sockets:
            one.close()
        if unlink and not self.passed and self.address.startswith("unix:"):
            with suppress(OSError):
                Path(self.address[5:]).unlink()


def parse_address(text: str) -> tuple[int, tuple[str, int] | str]:
    """("HOST:PORT", "[::1]:8000", ":8000", "unix:/path") -> (family, address for bind)."""
    if text.startswith("unix:"):
        return socket.AF_UNIX, text[5:]
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or len(port) > 5 or int(port) > 65535:
        raise ConfigError(f"listen: expected HOST:PORT or unix:/path, got {text!r}")
    if host.startswith("["):
        return socket.AF_INET6, (host.strip("[]"), int(port))
    return socket.AF_INET, (host or "0.0.0.0", int(port))


def open_listeners(
    addresses: Sequence[str],
    kept: Iterable[Listener],
    *,
    per_worker: int = 1,
    backlog: int = 1024,
    tries: int = TRIES,
    private: Sequence[str] = (),
) -> list[Listener]:
    """Listeners for `addresses`: those in `kept` are reused, the rest are bound.

    An address in use is tried five times, half a second apart. On failure, closes the sockets
    opened here, leaves those in `kept` alone and raises OSError. Every user may connect to a unix
    socket, as with nginx, but to those in `private` only the server's own.
    """
    kept = list(kept)
    known = {listener.address: listener.sockets for listener in kept}
    passed = {listener.address for listener in kept if listener.passed}
    opened: list[socket.socket] = []
    found = []
    try:
        for address in dict.fromkeys(addresses):
            have = list(known.get(address, []))
            while len(have) < (per_worker if parse_address(address)[0] != socket.AF_UNIX else 1):
                mode = 0o600 if address in private else 0o666
                have.append(_bind(address, per_worker > 1, backlog, tries, mode))
                opened.append(have[-1])
            found.append(Listener(address, have, passed=address in passed))
    except OSError:
        for one in opened:
            one.close()
        raise
    return found


def private_listener(path: Path) -> socket.socket:
    """A unix socket between the server's own processes; ConfigError."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(256)
    except OSError as error:
        listener.close()
        raise ConfigError(f"runtime_dir: cannot bind {path}: {error}") from None
    return listener


def _bind(address: str, reuseport: bool, backlog: int, tries: int, mode: int) -> socket.socket:
    family, where = parse_address(address)
    for attempt in range(1, tries + 1):
        made = socket.socket(family, socket.SOCK_STREAM)
        try:
            _configure(made, family, where, reuseport)
            made.bind(where)
            if isinstance(where, str):
                Path(where).chmod(mode)
            made.listen(backlog)
            made.setblocking(False)
            _open.add(made)
            return made
        except OSError as error:
            made.close()
            if error.errno != errno.EADDRINUSE or attempt == tries:
                raise OSError(
                    error.errno, f"cannot listen on {address}: {error.strerror}"
                ) from None
            time.sleep(PAUSE)
    raise AssertionError("unreachable")


def _configure(
    made: socket.socket, family: int, where: tuple[str, int] | str, reuseport: bool
) -> None:
    if isinstance(where, str):
        _remove_stale(where)
        return
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if reuseport:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)


def _remove_stale(path: str) -> None:
    """Removes a unix socket that no process listens on any more."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(Path(path).stat().st_mode):
            return
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                Path(path).unlink()


def close_all_but(kept: Iterable[socket.socket]) -> None:
    """Closes, in a child, the listening sockets that it does not accept on.

    Otherwise a socket could stay open that no process accepts on, and its clients would hang.
    """
    own = {id(one) for one in kept}
    for one in list(_open):
        if id(one) not in own:
            one.close()


def to_environment(listeners: Iterable[Listener]) -> tuple[str, list[int]]:
    """The environment variable that lists the descriptors for a new binary, and the descriptors."""
    parts, fds = [], []
    for listener in listeners:
        numbers = [one.fileno() for one in listener.sockets]
        fds += numbers
        origin = PASSED if listener.passed else ""
        parts.append(f"{origin}{listener.address}={','.join(map(str, numbers))}")
    return ";".join(parts), fds


def inherited() -> list[Listener]:
    """The listeners inherited from an older master, or from systemd by LISTEN_FDS; ConfigError."""
    found = []
    for part in filter(None, os.environ.pop(ENVIRONMENT, "").split(";")):
        address, _, numbers = part.rpartition("=")
        sockets = [_adopt(int(number)) for number in numbers.split(",")]
        passed = address.startswith(PASSED)
        found.append(Listener(address.removeprefix(PASSED), sockets, passed=passed))
    return found + _from_systemd()


def _adopt(fd: int) -> socket.socket:
    try:
        adopted = socket.socket(fileno=fd)
        listens = adopted.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise ConfigError(f"inherited descriptor {fd}: {error.strerror}") from None
    if not listens or adopted.type != socket.SOCK_STREAM:
        raise ConfigError(f"inherited descriptor {fd} is not a listening stream socket")
    adopted.set_inheritable(False)
    adopted.setblocking(False)
    _open.add(adopted)
    return adopted


def _from_systemd() -> list[Listener]:
    count, pid = os.environ.pop("LISTEN_FDS", "0"), os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []
    if not count.isdecimal():
        raise ConfigError(f"LISTEN_FDS: expected a number, got {count!r}")
    adopted = [_adopt(fd) for fd in range(SYSTEMD_FIRST, SYSTEMD_FIRST + int(count))]
    return [Listener(_name(one), [one], passed=True) for one in adopted]


def _name(bound: socket.socket) -> str:
    name = bound.getsockname()
    if bound.family == socket.AF_UNIX:
        return f"unix:{name}"
    host, port = name[:2]
    return f"[{host}]:{port}" if bound.family == socket.AF_INET6 else f"{host}:{port}"
