"""Mixed load and faults for minutes, without growth. Run by bench/server_loss.py --soak.

The first third includes reloads and upgrades. After it, the same master, zygote and workers run
through the other faults, so that their leaks become visible.
"""

import itertools
import socket
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "serve"))
from serve_harness import Running, infer_body, request_bytes

from loss_acts import ACTS
from loss_clients import Clients

ALL = ("calm", "reload", "runner", "calm", "worker", "rotate", "broken", "upgrade")
LASTING = ("calm", "runner", "calm", "rotate", "broken")
HEAD = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\n"
EVERY = 10.0  # seconds between two rows
GROWTH = 1.1  # maximum ratio of the last third over the second


@dataclass
class Row:
    """The resources of the server at one moment."""

    memory: float  # MB, PSS of all processes
    descriptors: int
    processes: int
    segments: int  # files in the runtime folder, in shared memory
    megabytes: float  # and their size


def look(server: Running) -> Row:
    memory, descriptors, processes = 0.0, 0, server.processes()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            memory += process.memory_full_info().pss / 1e6
            descriptors += process.num_fds()
    files = [path for path in server.runtime.rglob("*") if path.is_file()]
    size = 0.0
    for path in files:
        with suppress(OSError):
            size += path.stat().st_size / 1e6
    return Row(memory, descriptors, len(processes), len(files), size)


def hostile(server: Running) -> None:
    """A misbehaving client: partial requests, false lengths, large bodies, early disconnects."""
    with suppress(OSError), server.raw() as client:
        client.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    with suppress(OSError), server.raw() as client:
        client.sendall(b"nonsense\r\n\r\n")
    with suppress(OSError), server.raw() as client:
        client.sendall(request_bytes(infer_body(do="sleep", s=0.05)))
    with suppress(OSError), server.raw() as client:
        large = b"x" * 3_000_000
        client.sendall(HEAD + b"Content-Length: 3000000\r\n\r\n")
        client.sendall(large)
        client.shutdown(socket.SHUT_WR)
        client.recv(65536)


def soak(server: Running, minutes: float, connections: int) -> int:
    """Prints a row at intervals; exit code 1 if the last third uses more than the second."""
    clients = Clients(server.port, connections)
    rows: list[Row] = []
    clients.start()
    began, due = time.monotonic(), 0.0
    first, end = began + minutes * 20, began + minutes * 60
    print(f"{'minute':>6} {'PSS MB':>8} {'fds':>5} {'procs':>5} {'files':>5} {'MB':>7}")
    try:
        for number in itertools.count():
            now = time.monotonic()
            faults = ALL if now < first else LASTING
            ACTS[faults[number % len(faults)]](server)
            hostile(server)
            if now >= due:
                time.sleep(1.5)  # until a drained generation has exited
                rows.append(look(server))
                print(line((now - began) / 60, rows[-1]), flush=True)
                due = time.monotonic() + EVERY
            if now > end:
                break
    finally:
        clients.stop()
        last = look(server)
        server.stop()
    print(f"without clients: {last}; runtime folder left behind: {server.runtime.exists()}")
    outcomes = clients.outcomes.values()
    failed: Counter[str] = Counter()
    for outcome in outcomes:
        failed += outcome.failed
    print(f"{sum(outcome.sent for outcome in outcomes)} sent, failed: {dict(failed)}")
    return int(grew(rows))


def line(minute: float, row: Row) -> str:
    memory, *counts, size = astuple(row)
    return f"{minute:6.1f} {memory:8.1f} {' '.join(f'{n:5d}' for n in counts)} {size:7.1f}"


def grew(rows: list[Row]) -> bool:
    """Compares the medians of the last two thirds."""
    third = max(1, len(rows) // 3)
    bad = False
    for field in Row.__dataclass_fields__:
        before, after = (
            sorted(getattr(row, field) for row in part)
            for part in (rows[third : 2 * third], rows[-third:])
        )
        ratio = after[len(after) // 2] / max(1e-9, before[len(before) // 2])
        bad |= ratio > GROWTH
        print(f"{field}: last third over the second {ratio:.3f} (aim <= {GROWTH})")
    return bad
