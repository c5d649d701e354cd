"""API keys. The settings hold only their SHA-256 hashes, as `cupola key` prints them.

A key has 256 random bits, so that its hash needs no salt and no slow function.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping, Sequence

from cupola.serve.http.messages import HTTPError
from cupola.serve.settings.access import ApiKey

PREFIX = "cupola-"
HEADERS = ("authorization", "api-key", "x-api-key")
_CHALLENGE = [("WWW-Authenticate", "Bearer")]


def new_key() -> str:
    """A random key."""
    return PREFIX + secrets.token_urlsafe(32)


def hash_of(key: str) -> str:
    """The hash of a key, as in the settings."""
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


class KeyRing:
    """The keys in the settings."""

    def __init__(self, keys: Sequence[ApiKey]) -> None:
        self._keys = {bytes.fromhex(key.hash.removeprefix("sha256:")): key for key in keys}

    def find(self, headers: Mapping[str, str]) -> ApiKey:
        """The key that a request shows; HTTPError 401 without one, or for an unknown one."""
        shown = _shown(headers)
        if shown is None:
            text = "an API key is needed: send the header `Authorization: Bearer KEY`"
            raise HTTPError(401, text, list(_CHALLENGE))
        digest = hashlib.sha256(shown.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, key in self._keys.items():  # all of them, in a time that does not tell which
            if hmac.compare_digest(known, digest):
                found = key
        if found is None:
            raise HTTPError(401, "the API key is not valid", list(_CHALLENGE))
        return found


def _shown(headers: Mapping[str, str]) -> str | None:
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    for name in HEADERS[1:]:
        if headers.get(name):
            return headers[name].strip()
    return None
