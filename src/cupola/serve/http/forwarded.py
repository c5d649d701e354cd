"""The address of a client that is behind proxies, of which only those trusted are believed."""

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

MAX_HOPS = 32  # addresses of X-Forwarded-For that are read, from the right


def name_of(peer: Any, own: Any) -> str:
    """A socket's peer as text: 192.0.2.1:80, [2001:db8::1]:80, or unix:/path."""
    if not isinstance(peer, tuple):
        return f"unix:{own}"
    return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"


class TrustedProxies:
    """The setting `trusted_proxies`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._unix = "unix:" in names
        self._networks = [ip_network(name) for name in names if name != "unix:"]

    def trusts(self, peer: str) -> bool:
        """Whether a connection comes from a trusted proxy."""
        if peer.startswith("unix:"):
            return self._unix
        address = _parse(peer)
        return address is not None and self._has(address)

    def _has(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address in network for network in self._networks)

    def client(self, peer: str, headers: Mapping[str, str]) -> tuple[str, str]:
        """The client's address and the scheme that it used ("" if not known).

        As nginx does with real_ip_recursive: the rightmost address of X-Forwarded-For that is not
        a trusted proxy's. What is left of it, and headers from others, may be forged.
        """
        if not (self._networks or self._unix) or not self.trusts(peer):
            return peer, ""
        client = peer
        forwarded = headers.get("x-forwarded-for", "").rsplit(",", MAX_HOPS)
        for text in reversed(forwarded[-MAX_HOPS:]):
            address = _parse(text.strip())
            if address is None:
                break
            client = str(address)
            if not self._has(address):
                break
        scheme = headers.get("x-forwarded-proto", "").rpartition(",")[2].strip().lower()
        return client, scheme if scheme in ("http", "https") else ""


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    """An address with or without a port; an IPv4 address that is mapped into IPv6 is IPv4."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
