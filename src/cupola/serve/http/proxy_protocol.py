"""The PROXY protocol, versions 1 and 2: a proxy names its client before anything else is sent.

Source: https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt
"""

import asyncio
import socket
import struct
from ipaddress import ip_address

from cupola.serve.http.forwarded import name_of

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
LONGEST_LINE = 107  # bytes of a header of version 1
LONGEST_BLOCK = 4096  # bytes of addresses and extensions of version 2
_V2 = struct.Struct("!BBH")  # version and command, family and protocol, size
_FAMILIES = {0x11: (4, 4), 0x21: (6, 16)}  # TCP over IPv4 and IPv6: version, bytes of an address


async def read_header(connection: socket.socket) -> str:
    """Reads exactly the header; the client's address, or "" if the proxy does not name one.

    ValueError if there is no valid header; OSError if the connection ends.
    """
    start = await _exactly(connection, len(SIGNATURE))
    if start == SIGNATURE:
        command, family, size = _V2.unpack(await _exactly(connection, _V2.size))
        if size > LONGEST_BLOCK:
            raise ValueError(f"addresses of {size} bytes")
        return parse_block(command, family, await _exactly(connection, size))
    if not start.startswith(b"PROXY "):
        raise ValueError("no header")
    return parse_line(await _line(connection, start))


async def _exactly(connection: socket.socket, size: int) -> bytes:
    loop, data = asyncio.get_running_loop(), b""
    while len(data) < size:
        more = await loop.sock_recv(connection, size - len(data))
        if not more:
            raise ConnectionResetError("closed within the header")
        data += more
    return data


async def _line(connection: socket.socket, line: bytes) -> bytes:
    while not line.endswith(b"\n"):
        if len(line) >= LONGEST_LINE:
            raise ValueError("line too long")
        try:
            ahead = connection.recv(LONGEST_LINE - len(line), socket.MSG_PEEK)
        except BlockingIOError:
            ahead = b""
        line += await _exactly(connection, ahead.find(b"\n") + 1 or len(ahead) or 1)
    return line


def parse_line(line: bytes) -> str:
    """Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443` and a line end."""
    if not line.endswith(b"\r\n"):
        raise ValueError("no line end")
    parts = line[:-2].decode("ascii").split(" ")
    if parts[1] == "UNKNOWN":
        return ""
    version = {"TCP4": 4, "TCP6": 6}.get(parts[1])
    if version is None or len(parts) != 6:
        raise ValueError(f"malformed: {line[:LONGEST_LINE]!r}")
    addresses = [ip_address(part) for part in parts[2:4]]
    if any(address.version != version for address in addresses):
        raise ValueError(f"addresses of another family: {line!r}")
    if not all(part.isdigit() and int(part) < 65536 for part in parts[4:]):
        raise ValueError(f"bad port: {line!r}")
    return name_of((str(addresses[0]), int(parts[4])), None)


def parse_block(command: int, family: int, block: bytes) -> str:
    """Version 2: addresses and ports in binary, then extensions, which are ignored."""
    if command not in (0x20, 0x21):
        raise ValueError(f"unknown version or command {command:#x}")
    if command == 0x20 or family not in _FAMILIES:  # LOCAL: a health check of the proxy itself
        return ""
    size = _FAMILIES[family][1]
    if len(block) < 2 * size + 4:
        raise ValueError(f"addresses of {len(block)} bytes")
    (port,) = struct.unpack_from("!H", block, 2 * size)
    return name_of((str(ip_address(block[:size])), port), None)
