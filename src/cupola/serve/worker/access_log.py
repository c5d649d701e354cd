"""One line per request: text like nginx's combined log, with request id and duration, or JSON."""

import json
import time

import orjson

from cupola.serve.http.forwarded import TrustedProxies
from cupola.serve.http.messages import Request
from cupola.serve.logs import escape

NO_PROXIES = TrustedProxies([])


def format_line(
    request: Request,
    status: int,
    sent: int,
    seconds: float,
    form: str,
    proxies: TrustedProxies = NO_PROXIES,
) -> str:
    """The line with its end. Characters sent by a client cannot start another line.

    The peer is the client's address also behind trusted proxies.
    """
    peer, scheme = proxies.client(request.peer, request.headers)
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S %z")
    agent = request.headers.get("user-agent", "-")
    if form == "json":
        fields = {
            "time": stamp,
            "id": request.id,
            "peer": peer,
            "method": request.method,
            "path": request.path,
            "status": status,
            "bytes": sent,
            "seconds": round(seconds, 6),
            "agent": agent,
        }
        if request.key is not None:
            fields["key"] = request.key.name
        if request.subject:
            fields["subject"] = request.subject
        if peer != request.peer:
            fields |= {"proxy": request.peer, "scheme": scheme}
        line = orjson.dumps(fields).decode()
        return (line if line.isprintable() else json.dumps(fields)) + "\n"
    target = _escape(f"{request.method} {request.path}")
    who = f" key={request.key.name}" if request.key is not None else ""
    who += f' subject="{_escape(request.subject)}"' if request.subject else ""
    return (
        f'{escape(peer)} [{stamp}] "{target}" {status} {sent} "{_escape(agent)}"'
        f" {_escape(request.id)} {seconds:.6f}{who}\n"
    )


def _escape(text: str) -> str:
    return escape(text).replace('"', "\\x22")
