"""Who asks, from where, and at which address: CORS, proxies, addresses for operators."""

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serve_harness import Running, free_port, read_answer, until, write_bundle

from cupola.errors import ConfigError
from cupola.serve.http.forwarded import TrustedProxies, name_of
from cupola.serve.http.proxy_protocol import SIGNATURE, parse_block, parse_line
from cupola.serve.settings.file import load_settings

APP = "https://app.example"

# ---- settings


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"proxy_protocol": ["127.0.0.1:8000"]}, "proxy_protocol needs trusted_proxies"),
        (
            {"proxy_protocol": "0.0.0.0:1"},
            "'0.0.0.0:1' is in none of listen, operations_listen, grpc_listen",
        ),
        ({"trusted_proxies": "10.0.0.1/8"}, "10.0.0.1/8 has host bits set"),
        ({"trusted_proxies": ["proxy.example"]}, "'proxy.example' does not appear to be"),
        ({"operations_listen": ["127.0.0.1:8000"]}, "'127.0.0.1:8000' is in listen, too"),
        ({"operations_listen": "systemd"}, "sockets of systemd belong to listen"),
        ({"cors_origins": ["app.example"]}, "expected an origin such as https://app.example"),
        ({"cors_origins": [f"{APP}/"]}, "expected an origin"),
        ({"cors_origins": ["null"]}, "expected an origin"),
        ({"cors_origins": ["https://*.example"]}, "expected an origin"),
        ({"cors_headers": ["X\r\nSet-Cookie: a"]}, "is not a name of HTTP"),
        ({"cors_origins": "*", "cors_credentials": True}, "cors_origins must list what is allowed"),
        ({"cors_headers": "*", "cors_credentials": True}, "cors_headers must list what is allowed"),
        ({"cors_max_age": -1}, "cors_max_age"),
    ],
)
def test_settings_that_would_open_the_server_are_refused(
    values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")):
        load_settings(None, values, {})


def test_origins_are_written_as_browsers_do() -> None:
    given = "HTTPS://App.Example:443, http://[::1]:3000,chrome-extension://abc"
    found = load_settings(None, {"cors_origins": given}, {})
    assert found.cors_origins == [APP, "http://[::1]:3000", "chrome-extension://abc"]


# ---- forwarded addresses

PROXIES = TrustedProxies(["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "unix:"])


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9:1", "198.51.100.1", "203.0.113.9:1"),  # of an untrusted peer: ignored
        ("10.0.0.1:1", "", "10.0.0.1:1"),
        ("10.0.0.1:1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1:1", "6.6.6.6, 198.51.100.1", "198.51.100.1"),  # the client may have sent 6.6.6.6
        ("10.0.0.1:1", "6.6.6.6, 198.51.100.1, 192.0.2.1,10.1.1.1", "198.51.100.1"),
        ("10.0.0.1:1", "10.0.0.2, 10.0.0.3", "10.0.0.2"),  # all are trusted
        ("10.0.0.1:1", "198.51.100.1, unknown", "10.0.0.1:1"),
        ("10.0.0.1:1", "198.51.100.1, unix:/admin", "10.0.0.1:1"),
        ("10.0.0.1:1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1:1", "[2001:db9::1]:80, 2001:db8::7", "2001:db9::1"),
        ("[2001:db8::1]:80", "198.51.100.1", "198.51.100.1"),
        ("[::ffff:10.0.0.1]:80", "::ffff:198.51.100.1", "198.51.100.1"),
        ("unix:/run/x", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1:1", "6.6.6.6," + "10.0.0.9," * 500 + "10.0.0.8", "10.0.0.9"),
        ("10.0.0.1:1", "\n[error]", "10.0.0.1:1"),
    ],
)
def test_the_rightmost_address_that_is_no_proxy(peer: str, forwarded: str, client: str) -> None:
    assert PROXIES.client(peer, {"x-forwarded-for": forwarded})[0] == client


def test_the_scheme_of_a_trusted_proxy() -> None:
    headers = {"x-forwarded-for": "198.51.100.1", "x-forwarded-proto": "http, HTTPS"}
    assert PROXIES.client("10.0.0.1:1", headers) == ("198.51.100.1", "https")
    assert PROXIES.client("11.0.0.1:1", headers) == ("11.0.0.1:1", "")
    assert PROXIES.client("10.0.0.1:1", {"x-forwarded-proto": "gopher"})[1] == ""


@given(st.text(), st.text())
def test_no_header_fails(forwarded: str, scheme: str) -> None:
    PROXIES.client("10.0.0.1:1", {"x-forwarded-for": forwarded, "x-forwarded-proto": scheme})


# ---- the PROXY protocol


def block(family: int, *parts: bytes) -> bytes:
    data = b"".join(parts)
    return SIGNATURE + struct.pack("!BBH", 0x21, family, len(data)) + data


V4 = block(0x11, bytes([198, 51, 100, 7]), bytes([10, 0, 0, 1]), struct.pack("!HH", 5555, 443))
EXTENSION = b"\x04\x00\x03abc"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        (b"PROXY TCP4 198.51.100.7 10.0.0.1 5555 443\r\n", "198.51.100.7:5555"),
        (b"PROXY TCP6 2001:db8::1 ::1 5555 443\r\n", "[2001:db8::1]:5555"),
        (b"PROXY UNKNOWN\r\n", ""),
        (b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", ""),
    ],
)
def test_version_1(line: bytes, name: str) -> None:
    assert parse_line(line) == name


@pytest.mark.parametrize(
    "line",
    [
        b"PROXY TCP4 198.51.100.7 10.0.0.1 5555 443\n",
        b"PROXY TCP4 198.51.100.7 10.0.0.1 5555\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        b"PROXY TCP4 1.2.3.4 1.2.3.4 -1 1\r\n",
        b"PROXY TCP4 x y 1 1\r\n",
        b"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n",
        b"PROXY \xff\r\n",
    ],
)
def test_malformed_lines_are_refused(line: bytes) -> None:
    with pytest.raises(ValueError):
        parse_line(line)


def test_version_2() -> None:
    v6 = b"\x20\x01\x0d\xb8" + b"\0" * 11 + b"\x01"
    assert parse_block(0x21, 0x11, V4[16:] + EXTENSION) == "198.51.100.7:5555"
    assert parse_block(0x21, 0x21, v6 + v6 + b"\0\x50\0\x51") == "[2001:db8::1]:80"
    assert parse_block(0x20, 0x00, b"") == parse_block(0x21, 0x31, b"x" * 216) == ""
    for command, data in ((0x31, V4[16:]), (0x22, V4[16:]), (0x21, V4[16:-1])):
        with pytest.raises(ValueError):
            parse_block(command, 0x11, data)


# ---- a server with all of it


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("network")
    running = Running(folder)
    running.extra = {name: free_port() for name in ("proxied", "operations")}  # type: ignore[attr-defined]
    proxied, operations = (f"127.0.0.1:{port}" for port in running.extra.values())  # type: ignore[attr-defined]
    running.configure(
        listen=[f"127.0.0.1:{running.port}", proxied],
        operations_listen=[operations],
        proxy_protocol=[proxied],
        trusted_proxies=["127.0.0.1", "10.0.0.0/8"],
        access_log=str(folder / "access.log"),
        access_log_format="json",
        cors_origins=[APP],
        cors_credentials=True,
        admin="on",
        header_timeout=4.0,
        client_connections=3,
    )
    running.start()
    running.wait_ready()
    yield running
    assert running.infer()[0] == 200
    running.stop()


def logged(server: Running, mark: str) -> dict[str, Any]:
    """The line of the access log of the request with that agent."""

    def find() -> Any:
        lines = (server.folder / "access.log").read_text().splitlines()
        return next((one for one in map(json.loads, lines) if one["agent"] == mark), None)

    found: dict[str, Any] = until(find)
    return found


def send(server: Running, port: str, data: bytes, mark: str = "x", more: str = "") -> bytes:
    """Sends a header and a request, in pieces of that header; the answer."""
    request = f"GET /health HTTP/1.1\r\nHost: x\r\nUser-Agent: {mark}\r\n{more}\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.extra[port]), timeout=30) as client:  # type: ignore[attr-defined]
        try:
            for start in range(0, len(data), 9):
                client.sendall(data[start : start + 9])
                time.sleep(0.005)
            client.sendall(request)
            return client.recv(65536)
        except ConnectionError:
            return b""


@pytest.mark.processes
def test_the_access_log_names_the_client(server: Running) -> None:
    headers = {"User-Agent": "forwarded", "X-Forwarded-For": "6.6.6.6, 198.51.100.1, 10.9.9.9",
               "X-Forwarded-Proto": "https"}  # fmt: skip
    assert server.ask("GET", "/health", headers=headers)[0] == 200
    line = logged(server, "forwarded")
    assert (line["peer"], line["scheme"]) == ("198.51.100.1", "https")
    assert line["proxy"].startswith("127.0.0.1:")
    server.ask("GET", "/health", headers={"User-Agent": "direct"})
    assert logged(server, "direct")["peer"].startswith("127.0.0.1:")


@pytest.mark.processes
@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"PROXY TCP4 198.51.100.7 10.0.0.1 5555 443\r\n", "198.51.100.7:5555"),
        (b"PROXY TCP6 2001:db8::1 ::1 5555 443\r\n", "[2001:db8::1]:5555"),
        (V4, "198.51.100.7:5555"),
        (block(0x11, V4[16:], EXTENSION * 200), "198.51.100.7:5555"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1:"),
    ],
)
def test_the_proxy_protocol_names_the_client(server: Running, data: bytes, name: str) -> None:
    mark = f"proxy-{name}-{len(data)}"
    forged = "X-Forwarded-For: 6.6.6.6\r\n" if name[0] != "1" or name[1] == "9" else ""
    assert b"200 OK" in send(server, "proxied", data, mark, forged)
    assert logged(server, mark)["peer"].startswith(name)


@pytest.mark.processes
@pytest.mark.parametrize(
    "data",
    [b"", b"PROXY TCP4 1.2.3.4\r\n", b"PROXY " + b"x" * 200, SIGNATURE + b"\x21\x11\xff\xff",
     b"\r\n\r\n\0\r\nQUIT!" + b"\0" * 20, b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n"],
)  # fmt: skip
def test_a_connection_without_the_header_is_closed(server: Running, data: bytes) -> None:
    assert send(server, "proxied", data) == b""


@pytest.mark.processes
def test_a_header_that_never_ends_is_given_up(server: Running) -> None:
    with socket.create_connection(("127.0.0.1", server.extra["proxied"]), timeout=30) as client:  # type: ignore[attr-defined]
        client.sendall(b"PROXY TCP4 ")
        assert client.recv(10) == b""


@pytest.mark.processes
def test_the_connections_of_one_client_are_limited(server: Running) -> None:
    """By the address that the proxy names, not by the proxy's own."""

    def connect(name: str) -> tuple[socket.socket, bool]:
        client = socket.create_connection(("127.0.0.1", server.extra["proxied"]), timeout=30)  # type: ignore[attr-defined]
        client.sendall(f"PROXY TCP4 {name} 10.0.0.1 1 1\r\n".encode())
        client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        try:
            return client, read_answer(client)[0] == 200
        except ConnectionError:
            return client, False

    held = [connect("198.51.100.20") for _ in range(5)] + [connect("198.51.100.21")]
    assert [good for _, good in held] == [True] * 3 + [False] * 2 + [True]
    direct = [server.connect() for _ in range(5)]  # a trusted proxy
    for client in direct:
        client.request("GET", "/health")
        assert client.getresponse().read()
        client.close()
    for one, _ in held:
        one.close()


# ---- addresses for operators


@pytest.mark.processes
def test_endpoints_for_operators_have_their_own_address(server: Running) -> None:
    public, own = server.port, server.extra["operations"]  # type: ignore[attr-defined]
    asked = [("GET", "/metrics"), ("GET", "/status.json"), ("GET", "/status"), ("GET", "/metrics/"),
             ("HEAD", "/metrics"), ("POST", "/v2/repository/models/echo/unload"),
             ("POST", "/admin/reload"), ("GET", "/%6detrics")]  # fmt: skip
    for method, path in asked:
        assert server.ask(method, path)[0] == 404, path
    assert server.get("/health")[0] == server.get("/v2/health/ready")[0] == 200
    try:
        server.port = own
        assert [server.ask(*each)[0] for each in asked[:5]] == [200] * 5
        assert server.get("/v2/health/ready")[0] == 200
        answer = server.ask("POST", "/v2/repository/models/echo/unload", '{"parameters": 3}')
        assert answer[0] == 400  # open here
    finally:
        server.port = public


@pytest.mark.processes
def test_the_admin_socket_is_an_address_for_operators(serve, short_folder: str) -> None:
    path = f"{short_folder}/admin.sock"
    server = serve(admin=f"unix:{path}", operations_listen=[f"127.0.0.1:{free_port()}"])
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)
        client.sendall(b"POST /admin/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
        assert read_answer(client)[0] == 200
    until(lambda: server.status()["generation"] == 2)
    assert server.get("/metrics")[0] == 404


# ---- CORS


def preflight(server: Running, origin: str, path: str = "/v2/models/echo/infer") -> Any:
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST",
               "Access-Control-Request-Headers": "content-type"}  # fmt: skip
    return server.ask("OPTIONS", path, headers=headers)


def allowed(headers: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.startswith("access-control")}


@pytest.mark.processes
def test_cors_of_an_allowed_origin(server: Running) -> None:
    status, headers, body = preflight(server, APP)
    assert (status, body) == (204, b"")
    assert allowed(headers) == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-allow-methods": "GET, HEAD, POST",
        "access-control-allow-headers": "Content-Type, Content-Encoding, "
        "Inference-Header-Content-Length, X-Request-Id, X-Request-Timeout",
        "access-control-max-age": "600",
    }
    assert "Origin" in headers["vary"]
    for path, expected in (("/v2", 200), ("/nowhere", 404), ("/v2/models/echo/infer", 405)):
        status, headers, _ = server.ask("GET", path, headers={"Origin": APP})
        assert status == expected and headers["vary"] == "Origin"
        assert headers["access-control-allow-origin"] == APP
        assert headers["access-control-expose-headers"].startswith("X-Request-Id")


@pytest.mark.processes
@pytest.mark.parametrize("origin", ["https://evil.example", "null", f"{APP}.evil.example", ""])
def test_cors_of_another_origin(server: Running, origin: str) -> None:
    status, headers, _ = preflight(server, origin)
    assert status == 403 and not allowed(headers)
    status, headers, _ = server.ask("GET", "/v2", headers={"Origin": origin})
    assert status == 200 and not allowed(headers) and headers["vary"] == "Origin"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("rest", "status"),
    [
        ("Content-Length: 99999999999\r\n\r\n", 413),
        ("Content-Length: x\r\n\r\n", 400),
        ("Transfer-Encoding: gzip\r\n\r\n", 501),
        ("Expect: 100-continue\r\nContent-Length: 1\r\n\r\n", 404),
        ("X-Large: " + "x" * 70_000, 431),
        ("X-Slow: ", 408),  # after `header_timeout`
    ],
)
def test_pages_of_an_allowed_origin_can_read_refusals(
    server: Running, rest: str, status: int
) -> None:
    for origin in (APP, "https://evil.example") if status != 408 else (APP,):
        with server.raw() as client:
            head = f"POST /nowhere HTTP/1.1\r\nHost: x\r\nOrigin: {origin}\r\n"
            client.sendall((head + rest).encode())
            found, answer, _ = read_answer(client)
        assert found == status
        field = f"\r\nAccess-Control-Allow-Origin: {APP}\r\n".encode()
        assert (field in answer) == (origin == APP)
        assert (b"Access-Control" in answer) == (origin == APP)
        assert b"\r\nVary: Origin" in answer


@pytest.mark.processes
def test_a_refusal_does_not_use_the_origin_of_an_earlier_request(server: Running) -> None:
    with server.raw() as client:
        client.sendall(f"GET /health HTTP/1.1\r\nHost: x\r\nOrigin: {APP}\r\n\r\n".encode())
        assert b"Access-Control" in read_answer(client)[1]
        client.sendall(b"\0\0\0\0\r\n\r\n")
        status, answer, _ = read_answer(client)
    assert status == 400 and b"Access-Control" not in answer


@pytest.mark.processes
def test_cors_opens_no_admin_endpoint(server: Running) -> None:
    public = server.port
    try:
        server.port = server.extra["operations"]  # type: ignore[attr-defined]
        headers = {"Origin": APP, "Content-Type": "application/json"}
        assert server.ask("POST", "/admin/reload", "", headers)[0] == 403
    finally:
        server.port = public


@pytest.mark.processes
def test_without_the_setting_there_is_no_cors(shared: Running) -> None:
    status, headers, _ = preflight(shared, APP)
    assert status == 405 and not allowed(headers) and "vary" not in headers
    assert not allowed(shared.ask("GET", "/v2", headers={"Origin": APP})[1])


def test_names_of_peers() -> None:
    assert name_of(("::1", 80, 0, 0), None) == "[::1]:80"
    assert name_of(("192.0.2.1", 80), None) == "192.0.2.1:80"
    assert name_of("", "/run/x") == "unix:/run/x"


@pytest.mark.slow
@pytest.mark.processes
def test_any_origin_without_credentials(serve, tmp_path: Path) -> None:
    server = serve(cors_origins="*", models=[str(write_bundle(tmp_path, "echo"))])
    status, headers, _ = server.ask("GET", "/v2", headers={"Origin": APP})
    assert (status, headers["access-control-allow-origin"]) == (200, "*")
    assert "access-control-allow-credentials" not in headers and "vary" not in headers
