"""TLS of the listening sockets, prepared by the master before its workers are forked.

So a certificate that cannot be used fails a reload instead of a worker, all workers of a generation
have the same one, and the key may be readable by root alone.
"""

import ssl
from pathlib import Path
from typing import Any

from cupola.errors import ConfigError
from cupola.serve.settings.settings import Settings

PROTOCOLS = {False: "http/1.1", True: "h2"}  # of ALPN, by whether an address speaks gRPC
_NAMES = {
    "commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU",
    "countryName": "C", "stateOrProvinceName": "ST", "localityName": "L",
}  # fmt: skip


def make_contexts(settings: Settings) -> dict[bool, ssl.SSLContext]:
    """The contexts, by whether for gRPC; empty without TLS. ConfigError or OSError."""
    if settings.tls_certificate is None:
        return {}
    return {grpc: _context(settings, name) for grpc, name in PROTOCOLS.items()}


def _context(settings: Settings, protocol: str) -> ssl.SSLContext:
    assert settings.tls_certificate is not None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (settings.tls_certificate, settings.tls_key, settings.tls_client_ca):
        if path is not None:
            path.open("rb").close()  # the errors of ssl do not name the file
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key, _no_password)
    except ssl.SSLError as error:
        raise _unusable("tls_certificate, tls_key", settings.tls_certificate, error) from None
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except ssl.SSLError as error:
            raise _unusable("tls_client_ca", settings.tls_client_ca, error) from None
        required = settings.tls_client_verify == "required"
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    context.set_alpn_protocols([protocol])
    return context


def _no_password() -> str:
    raise ConfigError("tls_key: the key is encrypted; the server cannot ask for its password")


def _unusable(name: str, path: Path, error: ssl.SSLError) -> ConfigError:
    return ConfigError(f"{name}: {path} cannot be used: {error.reason or error}")


def subject_of(transport: Any) -> str:
    """The subject of the client's certificate, such as CN=alice,O=Example; "" without one."""
    certificate = transport.get_extra_info("peercert")
    if not certificate:
        return ""
    pairs = [pair for part in certificate.get("subject", ()) for pair in part]
    return ",".join(f"{_NAMES.get(name, name)}={value}" for name, value in reversed(pairs))
