"""TLS: certificates of clients, new certificates at a reload, gRPC."""

import socket
import ssl
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from grpc_calls import address_of, call, request_of
from serve_harness import Running, free_port, infer_body, read_answer, request_bytes, until

from cupola.errors import ConfigError
from cupola.serve.settings.file import load_settings
from cupola.serve.tls import make_contexts
from lazy import LazyModule

grpc = LazyModule("grpc")
pytestmark = pytest.mark.processes
EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


def openssl(*arguments: Any) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """A certificate authority in a folder."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.certificate = folder, folder / f"{name}.pem"
        self._key = folder / f"{name}.key"
        openssl("req", "-x509", *EC, "-keyout", self._key, "-out", self.certificate,
                "-subj", f"/CN={name}")  # fmt: skip

    def issue(self, name: str, subject: str) -> tuple[Path, Path]:
        """The paths of a certificate and its key."""
        key, request, made = (self.folder / f"{name}.{end}" for end in ("key", "csr", "pem"))
        openssl("req", "-new", *EC[:4], "-nodes", "-keyout", key, "-out", request, "-subj", subject)
        names = self.folder / "names"
        names.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self._key,
                "-CAcreateserial", "-days", "2", "-extfile", names, "-out", made)  # fmt: skip
        return made, key


def context(authority: Authority, pair: tuple[Path, Path] | None = None) -> ssl.SSLContext:
    made = ssl.create_default_context(cafile=str(authority.certificate))
    if pair is not None:
        made.load_cert_chain(*map(str, pair))
    return made


def ask(server: Running, tls: ssl.SSLContext) -> int:
    """The status of a request; 0 if the connection is refused."""
    try:
        with tls.wrap_socket(server.raw(), server_hostname="localhost") as client:
            client.sendall(request_bytes(infer_body([4.0])))
            return read_answer(client)[0]  # type: ignore[arg-type]
    except (ssl.SSLError, OSError):
        return 0


def start(folder: Path, pair: tuple[Path, Path], **settings: Any) -> Running:
    server = Running(
        folder / "server", tls_certificate=str(pair[0]), tls_key=str(pair[1]),
        grpc_listen=[f"127.0.0.1:{free_port()}"], access_log=str(folder / "access.log"), **settings,
    )  # fmt: skip
    server.start()
    until(lambda: server.pid_file.exists() and server.status().get("generation"), 60)
    return server


def test_certificates_of_clients(tmp_path: Path) -> None:
    ours, others = Authority(tmp_path / "ours"), Authority(tmp_path / "others", "other")
    pair, alice = ours.issue("server", "/CN=localhost"), ours.issue("alice", "/O=Acme/CN=alice")
    mallory = others.issue("mallory", "/CN=alice")
    server = start(tmp_path, pair, tls_client_ca=str(ours.certificate))
    try:
        assert ask(server, context(ours, alice)) == 200
        assert ask(server, context(ours)) == 0
        assert ask(server, context(ours, mallory)) == 0
        credentials = grpc.ssl_channel_credentials(
            ours.certificate.read_bytes(), alice[1].read_bytes(), alice[0].read_bytes()
        )
        target = address_of(server).replace("127.0.0.1", "localhost")
        with grpc.secure_channel(target, credentials) as channel:
            assert call(channel, request_of(), timeout=20).model_name == "echo"
        without = grpc.ssl_channel_credentials(ours.certificate.read_bytes())
        with grpc.secure_channel(target, without) as channel, pytest.raises(grpc.RpcError):
            call(channel, request_of(), timeout=5)
        log = (tmp_path / "access.log").read_text()
        assert log.count('subject="CN=alice,O=Acme"') == 2
        server.configure(tls_client_verify="optional")
        server.reload()
        until(lambda: ask(server, context(ours)) == 200)
        assert ask(server, context(ours, mallory)) == 0
    finally:
        server.stop()


def serial(server: Running, tls: ssl.SSLContext) -> Any:
    with tls.wrap_socket(server.raw(), server_hostname="localhost") as client:
        found = client.getpeercert()
        return found and found["serialNumber"]


@pytest.mark.slow
def test_a_reload_takes_new_certificates_and_loses_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    pair = authority.issue("server", "/CN=localhost")
    server = start(tmp_path, pair, workers=2)
    trust, stop, statuses = context(authority), threading.Event(), list[int]()

    def load() -> None:
        while not stop.is_set():
            statuses.append(ask(server, trust))

    thread = threading.Thread(target=load)
    try:
        before = serial(server, trust)
        thread.start()
        authority.issue("server", "/CN=localhost")  # replaces the files
        time.sleep(0.2)
        assert serial(server, trust) == before
        server.reload()
        until(lambda: serial(server, trust) != before)
        generation = server.status()["generation"]
        pair[0].write_text("nonsense")
        server.signal(1)
        until(lambda: "reload refused" in server.log())
        assert "cannot be used" in server.log() and server.status()["generation"] == generation
        time.sleep(0.2)
    finally:
        stop.set()
        thread.join()
        server.stop()
    assert set(statuses) == {200} and len(statuses) > 5


@pytest.mark.parametrize("broken", ["certificate", "key", "ca", "other key"])
def test_files_that_cannot_be_used(tmp_path: Path, broken: str) -> None:
    authority = Authority(tmp_path / "ours")
    made, key = authority.issue("server", "/CN=localhost")
    files = {"tls_certificate": made, "tls_key": key, "tls_client_ca": authority.certificate}
    if broken == "other key":
        files["tls_key"] = authority.issue("other", "/CN=x")[1]
    else:
        name = {"certificate": "tls_certificate", "key": "tls_key", "ca": "tls_client_ca"}[broken]
        files[name] = tmp_path / "broken"
        files[name].write_text("nonsense")
    settings = load_settings(flags={k: str(v) for k, v in files.items()}, environment={})
    with pytest.raises(ConfigError, match="cannot be used") as raised:
        make_contexts(settings)
    assert ("tls_client_ca" in str(raised.value)) == (broken == "ca")


def test_a_client_ca_needs_a_certificate() -> None:
    with pytest.raises(ConfigError, match="needs tls_certificate"):
        load_settings(flags={"tls_client_ca": "ca.pem"}, environment={})


@pytest.mark.slow
def test_a_plain_client_of_a_tls_address_is_closed(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ours")
    server = start(tmp_path, authority.issue("server", "/CN=localhost"))
    try:
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
            client.sendall(request_bytes(infer_body()))
            assert b"200" not in client.recv(1000)
        assert ask(server, context(authority)) == 200
    finally:
        server.stop()
