"""One line per request: text like nginx's combined log, with request id and duration, or JSON."""

import json
import time

import orjson

from cupola.serve.http.messages import Request
from cupola.serve.logs import escape


def format_line(request: Request, status: int, sent: int, seconds: float, form: str) -> str:
    """The line with its end. Characters sent by a client cannot start another line."""
    stamp = time.strftime("%d/%b/%Y:%H:%M:%S %z")
    agent = request.headers.get("user-agent", "-")
    if form == "json":
        fields = {
            "time": stamp,
            "id": request.id,
            "peer": request.peer,
            "method": request.method,
            "path": request.path,
            "status": status,
            "bytes": sent,
            "seconds": round(seconds, 6),
            "agent": agent,
        }
        line = orjson.dumps(fields).decode()
        return (line if line.isprintable() else json.dumps(fields)) + "\n"
    target = _escape(f"{request.method} {request.path}")
    return (
        f'{escape(request.peer)} [{stamp}] "{target}" {status} {sent} "{_escape(agent)}"'
        f" {_escape(request.id)} {seconds:.6f}\n"
    )


def _escape(text: str) -> str:
    return escape(text).replace('"', "\\x22")
