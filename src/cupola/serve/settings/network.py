"""Checks of settings about other hosts: networks, origins, tokens of HTTP."""

import re
from ipaddress import ip_network

_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(:\d{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


def check_network(text: str) -> str:
    """An address or CIDR network, or `unix:`; ValueError."""
    if text != "unix:":
        ip_network(text)
    return text


def check_origin(text: str) -> str:
    """`*`, or an origin as browsers write it, without a default port; ValueError."""
    if text == "*":
        return text
    found = _ORIGIN.fullmatch(text.lower())
    if found is None:
        raise ValueError(f"expected an origin such as https://app.example:8443, or *, not {text!r}")
    scheme, host, port = found.groups(default="")
    return f"{scheme}://{host}{'' if port == _DEFAULT_PORTS.get(scheme) else port}"


def check_token(text: str) -> str:
    """The name of a method or header field; ValueError."""
    if not _TOKEN.fullmatch(text):
        raise ValueError(f"{text!r} is not a name of HTTP")
    return text
