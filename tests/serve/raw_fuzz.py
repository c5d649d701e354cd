"""Mutated requests, and a client that sends many of them at a time and reads what comes back.

Case n of a seed is the same in every run: `python raw_fuzz.py SEED N` prints it.
"""

import asyncio
import gzip
import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

from request_table import SECTIONS
from serve_harness import infer_body, request_bytes

ENOUGH = 2 * 10**5  # bytes of one case at most
PATIENCE = 20.0  # seconds after which a connection that the server has not closed is a fault
TOKENS = [
    b"\r\n", b"\r\n\r\n", b"\n", b"\r", b"\0", b" ", b"\t", b":", b";", b",", b"%", b"%00", b"%2f",
    b"/", b"..", b"//", b"#", b"?", b"@", b"*", b"\xff", b"\x80\x81", b"\x0b", b"HTTP/1.0", b"0",
    b"HTTP/1.1", b"HTTP/2.0", b"GET ", b"POST ", b"HEAD ", b"OPTIONS ", b"CONNECT ", b"PRI ",
    b"Content-Length: 0\r\n", b"Content-Length: 5\r\n", b"Content-Length: 99999999999999999999\r\n",
    b"Content-Length: 900000\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: gzip\r\n",
    b"Content-Encoding: gzip\r\n", b"Content-Encoding: deflate\r\n", b"Expect: 100-continue\r\n",
    b"Accept-Encoding: gzip\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n",
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Host: x\r\n", b"Host: [::1]:80\r\n",
    b"Origin: x\r\n",
    b"Inference-Header-Content-Length: 3\r\n", b"Inference-Header-Content-Length: 999999\r\n",
    b"X-Request-Id: a\r\n", b"X-Request-Timeout: 1e-9\r\n", b"X-Request-Timeout: nan\r\n",
    b"Content-Type: multipart/form-data; boundary=b\r\n", b"Content-Type: image/png\r\n",
    b"Content-Type: application/x-npy\r\n", b"--b\r\n", b"0\r\n\r\n", b"1\r\n", b"ffffffff\r\n",
    b"NaN", b"-1", b"1e400", b"null", b"[", b"]", b"{", b"}", b'"', b"\\ud800", b'"shape"',
    b"[[[[[[[[",
]  # fmt: skip
PATHS = [
    "/", "/v2", "/v2/models/echo", "/v2/models/echo/config", "/v2/models/echo/stats", "/metrics",
    "/v2/models/stats", "/v2/health/live", "/openapi.json", "/v1/models", "/status.json",
    "/v2/models/echo/versions/1", "/v2/models/echo/ready", "/health", "/pages/index.html",
]  # fmt: skip


def seeds() -> list[bytes]:
    """Valid requests of all kinds, and those of the table."""
    body = infer_body([0.5] * 40).encode()
    post = "/v2/models/echo/infer"
    found = [f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for path in PATHS]
    found += [row.sent for section in SECTIONS.values() for row in section]
    for path in (post, "/v2/models/echo/versions/1/infer", "/v2/repository/index",
                 "/v2/models/speaker/generate_stream", "/v2/models/speaker/generate",
                 "/v1/completions", "/v2/repository/models/echo/load"):  # fmt: skip
        found.append(request_bytes(body.decode(), path))
    text = '{"text_input": "a b", "parameters": {"max_new_tokens": 3}}'
    found += [request_bytes(text, f"/v2/models/speaker/generate{s}") for s in ("", "_stream")]
    asked = '{"model": "speaker", "prompt": "a", "max_tokens": 3, "stream": true}'
    found += [request_bytes(asked, "/v1/completions")]
    spec = {"name": "x", "datatype": "FP32", "shape": [2], "parameters": {"binary_data_size": 8}}
    binary = json.dumps({"inputs": [spec]}).encode()
    kinds = [
        (gzip.compress(body), "Content-Encoding: gzip"),
        (b"[" + b"0.5," * 5000 + b"1]", "Content-Type: application/json"),
        (binary + b"\0" * 8, f"Inference-Header-Content-Length: {len(binary)}"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0",
         "Content-Type: image/png"),
        (b"\x93NUMPY\x01\0\x46\0{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
         + b" " * 12 + b"\n\0\0\0\0", "Content-Type: application/x-npy"),
        (b'--b\r\nContent-Disposition: form-data; name="x"; filename="y"\r\n\r\n1\r\n--b--\r\n',
         "Content-Type: multipart/form-data; boundary=b"),
    ]  # fmt: skip
    for data, field in kinds:
        head = f"POST {post} HTTP/1.1\r\nHost: x\r\n{field}\r\nContent-Length: {len(data)}\r\n\r\n"
        found.append(head.encode() + data)
    return found


SEEDS = seeds()


def case(seed: int, number: int) -> list[bytes]:
    """The parts of one case, each sent as a packet; the first requests of a seed are valid."""
    chance = random.Random(f"{seed}/{number}")
    data = chance.choice(SEEDS)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
        data = chance.choice(MUTATIONS)(chance, data)[:ENOUGH]
    parts = chance.choice((1, 1, 1, 2, 3))
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(parts - 1))
    return [data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True) if a < b]


# ---- mutations


def _span(chance: random.Random, data: bytes) -> tuple[int, int]:
    start = chance.randrange(len(data) + 1)
    return start, min(len(data), start + chance.choice((1, 1, 2, 4, 16, 100)))


def _flip(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + bytes([chance.randrange(256)]) + data[start + 1 :]


def _insert(chance: random.Random, data: bytes) -> bytes:
    start = chance.randrange(len(data) + 1)
    return data[:start] + chance.choice(TOKENS) * chance.choice((1, 1, 1, 2, 300)) + data[start:]


def _insert_line(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    lines.insert(chance.randrange(1, len(lines) + 1), chance.choice(TOKENS).removesuffix(b"\r\n"))
    return b"\r\n".join(lines)


def _delete(chance: random.Random, data: bytes) -> bytes:
    start, end = _span(chance, data)
    return data[:start] + data[end:]


def _repeat(chance: random.Random, data: bytes) -> bytes:
    start, end = _span(chance, data)
    return data[:end] + data[start:end] * chance.choice((1, 2, 30, 1000)) + data[end:]


def _swap_lines(chance: random.Random, data: bytes) -> bytes:
    lines = data.split(b"\r\n")
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\r\n".join(lines)


def _truncate(chance: random.Random, data: bytes) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _append(chance: random.Random, data: bytes) -> bytes:
    return data + chance.choice(SEEDS)


def _splice(chance: random.Random, data: bytes) -> bytes:
    other = chance.choice(SEEDS)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def _number(chance: random.Random, data: bytes) -> bytes:
    found = list(re.finditer(rb"\d+", data))
    if not found:
        return data
    at = chance.choice(found)
    new = chance.choice((b"0", b"-1", b"1", b"16", b"65536", b"4294967296", b"9" * 25, b"1e9"))
    return data[: at.start()] + new + data[at.end() :]


MUTATIONS: list[Callable[[random.Random, bytes], bytes]] = [
    _flip, _insert, _insert_line, _delete, _repeat, _swap_lines, _truncate, _append,
    _splice, _number,
]  # fmt: skip


# ---- the client


class Sender(asyncio.Protocol):
    """Sends one case, reads to the end, and counts the statuses."""

    transport: asyncio.Transport

    def __init__(self, parts: list[bytes], half_close: bool) -> None:
        self.parts, self.half_close = parts, half_close
        self.received = b""
        self.loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self.loop.create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self._send()

    def _send(self) -> None:
        if self.transport.is_closing():
            return
        if self.parts:
            self.transport.write(self.parts.pop(0))
            self.loop.call_later(0.001, self._send)
        elif self.half_close:
            self.transport.write_eof()

    def data_received(self, data: bytes) -> None:
        self.received += data

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_result(None)


async def send_cases(
    port: int, seed: int, numbers: range, at_once: int = 200
) -> tuple[Counter[str], list[str]]:
    """Sends the cases; how often each status came, and what went wrong with which case."""
    statuses: Counter[str] = Counter()
    faults: list[str] = []
    pending = iter(numbers)

    async def client() -> None:
        loop = asyncio.get_running_loop()
        for number in pending:
            sender = Sender(case(seed, number), number % 2 == 0)
            await loop.create_connection(lambda sender=sender: sender, "127.0.0.1", port)
            try:
                await asyncio.wait_for(sender.ended, PATIENCE)
            except TimeoutError:
                sender.transport.abort()
                faults.append(f"case {number} of seed {seed}: still open")
            found = re.findall(rb"HTTP/1\.1 (\d{3}) [A-Z]", sender.received)
            is_http = sender.received.startswith(b"HTTP/1.1 ") or not sender.received
            if b"500" in found or not is_http:
                faults.append(f"case {number} of seed {seed}: {sender.received[-300:]!r}")
            statuses.update(status.decode() for status in found or [b"none"])

    await asyncio.gather(*(client() for _ in range(at_once)))
    return statuses, faults


if __name__ == "__main__":
    print(case(int(sys.argv[1]), int(sys.argv[2])))
