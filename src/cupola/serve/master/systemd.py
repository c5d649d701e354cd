"""sd_notify: tells systemd (or whoever listens on NOTIFY_SOCKET) how the master stands."""

import os
import socket
import time


def notify(*lines: str) -> bool:
    """Sends e.g. "READY=1"; False without a NOTIFY_SOCKET or if nobody listens on it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto("\n".join(lines).encode(), address)
        except OSError:
            return False
    return True


def ready(status: str) -> None:
    """The service answers; MAINPID follows a binary upgrade."""
    notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")


def reloading() -> None:
    """A reload has begun; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The service is going down."""
    notify("STOPPING=1")
