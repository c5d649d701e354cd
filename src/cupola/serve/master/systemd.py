"""sd_notify: reports the master's state to systemd, or to any listener on NOTIFY_SOCKET."""

import os
import socket
import time


def notify(*lines: str) -> bool:
    """Sends lines such as "READY=1"; False without NOTIFY_SOCKET or a listener on it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address[0] == "@":
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
            notifier.sendto("\n".join(lines).encode(), address)
    except OSError:
        return False
    return True


def ready(status: str) -> None:
    """The service is ready. MAINPID follows a binary upgrade."""
    notify("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")


def reloading() -> None:
    """A reload has started; `ready` ends it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def stopping() -> None:
    """The service is stopping."""
    notify("STOPPING=1")
