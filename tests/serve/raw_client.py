"""Sends raw bytes and reports how a server took them: statuses, framing, and the connection."""

import re
import socket
from dataclasses import dataclass

READY = "/v2/health/ready"
PROBE = f"GET {READY} HTTP/1.1\r\nHost: x\r\nX-Request-Id: probe\r\nConnection: close\r\n\r\n"
SILENCE = 0.2  # seconds without a byte, after which the server is taken to wait for more
PATIENCE = 20.0  # seconds for a server that is slow because the machine is


@dataclass
class Exchange:
    """What one connection brought.

    answers: of each response its status, and how its end is known if not by Content-Length.
    end: "open" if a further request on the connection was answered, "closed" if not, and "waits"
        if the server neither answered nor closed.
    """

    answers: list[str]
    end: str
    received: bytes

    def __str__(self) -> str:
        return " ".join([*self.answers, self.end])


def exchange(port: int, data: bytes, *, waits: bool = False, heads: int = 0) -> Exchange:
    """Sends `data` and, in the same packet, a request that asks the server to close.

    waits: the server is expected to wait for more, so no further request is sent.
    heads: the number of the first answers that have no body, since HEAD was asked.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(data if waits else data + PROBE.encode())
        client.settimeout(SILENCE if waits else PATIENCE)
        received, silent = b"", False
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionError:
            pass
        except TimeoutError:
            silent = True
    answers, probed = split_answers(received, heads)
    return Exchange(answers, "waits" if silent else "open" if probed else "closed", received)


def split_answers(data: bytes, heads: int) -> tuple[list[str], bool]:
    """The answers but that to PROBE, and whether this came."""
    found: list[str] = []
    while data:
        match = re.match(rb"HTTP/1\.1 (\d+)[^\r\n]*\r\n((?:[^\r\n]+\r\n)*)\r\n", data)
        if match is None:
            return [*found, f"no HTTP: {data[:60]!r}"], False
        status, head = match[1].decode(), match[2].decode("latin-1").lower()
        if re.search("^x-request-id: probe\r$", head, re.M):
            return found, True
        bodiless = status.startswith("1") or status in ("204", "304") or len(found) < heads
        length = re.search(r"^content-length: (\d+)\r$", head, re.M)
        chunked = re.search("^transfer-encoding: chunked\r$", head, re.M)
        data = data[match.end() :]
        if bodiless:
            found.append(status)
        elif chunked:
            found.append(f"{status}/chunked")
            data = data[data.index(b"0\r\n\r\n") + 5 :]
        elif length:
            found.append(status)
            data = data[int(length[1]) :]
        else:
            return [*found, f"{status}/until closed"], False
    return found, False
