"""Refuses requests that a web site makes its visitors' browsers send to this server.

A browser sends its Origin with such requests, and may send a form without asking; and the site's
name may be made to lead to this server (DNS rebinding), which then sees that name as its Host.
"""

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import urlsplit

from cupola.serve.http.messages import HTTPError, Request


def refuse_foreign_sites(request: Request, names: Sequence[str]) -> None:
    """HTTPError 403 unless Host is one of `names`, an IP address, or a name without a dot, which no
    site can have; and Origin, if there is one, the same. 415 unless the content is JSON.
    """
    host = request.headers.get("host", "")
    if not _is_own(host, names):
        raise HTTPError(403, f"admin requests to host {host!r} are refused; see `admin_hosts`")
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
        raise HTTPError(403, f"admin requests from {origin!r} are refused")
    kind = request.headers.get("content-type")
    is_browser = origin is not None or "sec-fetch-site" in request.headers
    if kind is None and not is_browser:  # Triton's client sends none
        return
    if kind is None or kind.partition(";")[0].strip().lower() != "application/json":
        raise HTTPError(415, "admin requests need Content-Type: application/json")


def _is_own(host: str, names: Sequence[str]) -> bool:
    name = ""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        ip_address(name)
    except ValueError:
        return bool(name) and ("." not in name or name in [one.lower() for one in names])
    return True
