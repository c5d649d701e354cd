"""One line for each request: text as nginx's combined log, with id and seconds, or JSON."""

import time

import orjson

from cupola.serve.http.messages import Request


def line(request: Request, status: int, sent: int, seconds: float, form: str) -> str:
    """A line with its end; what a client sent cannot start another line."""
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
        return orjson.dumps(fields).decode() + "\n"
    first = _clean(f"{request.method} {request.path}")
    return (
        f'{request.peer} [{stamp}] "{first}" {status} {sent} "{_clean(agent)}"'
        f" {_clean(request.id)} {seconds:.6f}\n"
    )


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() and c != '"' else f"\\x{ord(c):02x}" for c in text)
