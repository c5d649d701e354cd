"""Checks each request of a worker: the client's limits, its API key, the key's limits and models.

The health endpoints are open. So are the endpoints for operators at `operations_listen` and at the
admin socket, which only operators can reach; elsewhere they need a key with `operations`.
"""

from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

from cupola.serve.access.keys import HEADERS, KeyRing
from cupola.serve.access.zones import ConcurrencyZone, RateZone, seconds_to_wait
from cupola.serve.http.forwarded import TrustedProxies
from cupola.serve.http.messages import HTTPError, Request
from cupola.serve.settings.access import NO_LIMITS, Limits
from cupola.serve.settings.settings import Settings

IPV6_CLIENT = 64  # bits of an address that name one client


class AccessControl:
    """The checks of one worker. `folder`: where the workers of all generations share tables."""

    def __init__(
        self, settings: Settings, folder: Path, slot: int, proxies: TrustedProxies
    ) -> None:
        self._keys = KeyRing(settings.api_keys) if settings.api_keys else None
        self._proxies = proxies
        self._own_addresses = bool(settings.operations_listen)
        self._admin = settings.admin
        self._client = settings.client_limits
        limits = [self._client, *(key.limits for key in settings.api_keys)]
        self._rates = RateZone(folder / "rates") if any(one.rate for one in limits) else None
        concurrent = any(one.concurrency for one in limits)
        self._progress = ConcurrencyZone(folder / "progress", slot) if concurrent else None

    @staticmethod
    def is_needed(settings: Settings) -> bool:
        """Whether there is anything to check."""
        return bool(settings.api_keys) or settings.client_limits != NO_LIMITS

    def authenticate(self, request: Request, *, operations: bool = False) -> None:
        """Sets the request's key. HTTPError 401 without a valid one, 403 if it may not do this.

        `operations`: the endpoint is for operators.
        """
        shown = {name: request.headers.pop(name) for name in HEADERS if name in request.headers}
        if self._keys is None or request.key is not None:
            return
        by_socket = request.peer == self._admin and self._admin.startswith("unix:")
        if operations and (by_socket or (self._own_addresses and request.operations)):
            return
        request.key = self._keys.find(shown)
        if operations and not request.key.operations:
            raise HTTPError(403, f"the API key {request.key.name!r} is not for operators")

    def limit_client(self, request: Request) -> None:
        """HTTPError 429 if the client sends too many requests."""
        limits = self._client
        if limits.rate is not None or limits.concurrency is not None:
            client = self._client_of(request)
            if client:
                self._apply(request, f"client {client}", limits, "this client")

    def limit_key(self, request: Request) -> None:
        """HTTPError 429 if too many requests are sent with the key."""
        if request.key is not None:
            self._apply(request, f"key {request.key.name}", request.key.limits, "this API key")

    def _apply(self, request: Request, name: str, limits: Limits, whose: str) -> None:
        self._apply_rate(name, limits, whose)
        if limits.concurrency is not None and self._progress is not None:
            if not self._progress.enter(name, limits.concurrency):
                text = f"{whose} may have {limits.concurrency} requests in progress"
                raise HTTPError(429, text, [("Retry-After", "1")])
            request.counted = (*request.counted, name)

    def _apply_rate(self, name: str, limits: Limits, whose: str) -> None:
        if limits.rate is None or self._rates is None:
            return
        wait = self._rates.take(name, limits.rate, limits.burst)
        if wait:
            text = f"{whose} may send {limits.rate:g} requests a second"
            raise HTTPError(429, text, [("Retry-After", seconds_to_wait(wait))])

    def repeat(self, request: Request) -> None:
        """Counts one more request of an open stream for the rates; HTTPError 429."""
        client = self._client_of(request)
        if client:
            self._apply_rate(f"client {client}", self._client, "this client")
        if request.key is not None:
            self._apply_rate(f"key {request.key.name}", request.key.limits, "this API key")

    def release(self, request: Request) -> None:
        """Called when a request has been answered."""
        if self._progress is not None:
            for name in request.counted:
                self._progress.leave(name)
            request.counted = ()

    def _client_of(self, request: Request) -> str:
        """The client's address; "" for one that is not limited."""
        peer, _ = self._proxies.client(request.peer, request.headers)
        if peer.startswith("unix:") or self._proxies.trusts(peer):
            return ""
        text = peer[1:].partition("]")[0] if peer.startswith("[") else peer
        if not peer.startswith("[") and peer.count(":") == 1:
            text = peer.partition(":")[0]
        try:
            address = ip_address(text)
        except ValueError:
            return text
        if isinstance(address, IPv6Address) and address.ipv4_mapped is None:
            return str(ip_network((address, IPV6_CLIENT), strict=False))
        return str(getattr(address, "ipv4_mapped", None) or address)
