"""HTTP and hostile clients: none can crash a process or starve other clients."""

import gzip
import json
import resource
import socket
import ssl
import struct
import subprocess
import time
import zlib
from contextlib import ExitStack

import pytest
from serve_harness import infer_body, output, read_answer, request_bytes, until

pytestmark = pytest.mark.processes
HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"
SMALL = {
    "header_timeout": 0.8,
    "body_timeout": 0.8,
    "max_body": 4_000_000,
    "max_header": 8192,
    "worker_connections": 60,
}


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    from serve_harness import Running

    running = Running(tmp_path_factory.mktemp("strict"), **SMALL)
    running.start()
    running.wait_ready()
    before = (running.pids(), running.runner_pid())
    yield running
    assert (running.pids(), running.runner_pid()) == before  # nothing crashed
    assert running.infer()[0] == 200
    running.stop()


def raw_answer(server, data: bytes) -> tuple[int, bytes, bytes]:
    with server.raw() as client:
        client.sendall(data)
        return read_answer(client)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 50, 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
        (HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000000000\r\n\r\n", 413),
        (b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (
            b"GET / HTTP/1.1\r\nHost: x\r\n"
            + b"".join(b"X%d: a\r\n" % n for n in range(300))
            + b"\r\n",
            431,
        ),
        (b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (HEAD + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\nContent-Length: 1\r\n\r\n", 417),
        (b"DELETE /v2 HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /pages/status%2f..%2fstatus/page.js HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /pages/" + b"x" * 300 + b"/page.js HTTP/1.1\r\nHost: x\r\n\r\n", 404),
        (b"GET /pages/..%2f..%2fmaster.py HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
)
def test_malformed_requests_get_their_status(strict, data: bytes, status: int) -> None:
    found, head, body = raw_answer(strict, data)
    assert found == status, (head, body)
    assert json.loads(body)["error"]


def test_a_chunked_body_over_the_limit(strict) -> None:
    head = b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with strict.raw() as client:
        client.sendall(head)
        try:
            for _ in range(60):
                client.sendall(b"20000\r\n" + b"x" * 0x20000 + b"\r\n")
        except OSError:
            return  # refused while the body was being sent
        assert read_answer(client)[0] in (0, 413)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_a_decompression_bomb(strict, encoding: str) -> None:
    zeros = b"\0" * 40_000_000
    bomb = gzip.compress(zeros) if encoding == "gzip" else zlib.compress(zeros)
    status, _, body = strict.ask(
        "POST", "/v2/models/echo/infer", bomb, {"Content-Encoding": encoding}
    )
    assert status == 413 and b"decompresses to more than" in body
    cut = strict.ask("POST", "/v2/models/echo/infer", bomb[:-20], {"Content-Encoding": encoding})
    assert cut[0] in (400, 413)
    assert strict.ask("POST", "/v2", b"x", {"Content-Encoding": "zstd"})[0] == 405
    other = strict.ask("POST", "/v2/models/echo/infer", b"x", {"Content-Encoding": "zstd"})
    assert other[0] == 415


def test_malformed_binary_headers(strict) -> None:
    for size in ("-1", "abc", "999999", "1e3"):
        status, _, _ = strict.ask(
            "POST", "/v2/models/echo/infer", infer_body(), {"Inference-Header-Content-Length": size}
        )
        assert status == 400
    lying = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [2**39, 2**39],
                         "parameters": {"binary_data_size": 4}}]}  # fmt: skip
    head = json.dumps(lying).encode()
    status, _, body = strict.ask(
        "POST", "/v2/models/echo/infer", head + b"\0" * 4,
        {"Inference-Header-Content-Length": str(len(head))},
    )  # fmt: skip
    assert status == 400 and b"needs" in body


def test_nan_is_invalid_in_json_but_accepted_in_binary_form(strict) -> None:
    text = infer_body([0.5]).replace("0.5", "NaN")
    assert strict.ask("POST", "/v2/models/echo/infer", text)[0] == 400
    head = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [2],
                                   "parameters": {"binary_data_size": 8}}]}).encode()  # fmt: skip
    status, _, body = strict.ask(
        "POST", "/v2/models/echo/infer", head + struct.pack("<ff", float("nan"), 1e38),
        {"Inference-Header-Content-Length": str(len(head))},
    )  # fmt: skip
    assert status == 200 and output(json.loads(body), "y") == [None, pytest.approx(1e38)]


@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_truncated_body_leaves_no_files_behind(strict, size: int) -> None:
    with strict.raw() as client:
        head = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n"
        client.sendall(head.encode() + b"x" * (size // 2))
        time.sleep(0.1)
    until(lambda: not list(strict.runtime.glob("*/g*/spool/*")))
    assert strict.infer()[0] == 200


def test_five_thousand_connections(serve) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 6000:
        pytest.skip(f"at most {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 6000), hard))
    server = serve(workers=2, worker_connections=2000, worker_rlimit_nofile=6000)
    with ExitStack() as stack:
        clients = [stack.enter_context(server.raw()) for _ in range(5000)]
        for client in clients[::2]:
            client.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: ")
        began = time.monotonic()
        assert [server.infer()[0] for _ in range(5)] == [200] * 5
        assert time.monotonic() - began < 5
    assert server.infer()[0] == 200


def test_slow_headers_time_out_and_do_not_starve_other_clients(strict) -> None:
    slow = [strict.raw() for _ in range(100)]  # more than the worker may hold
    for client in slow:
        client.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: ")
    began = time.monotonic()
    assert strict.infer()[0] == 200
    assert time.monotonic() - began < 5
    body = strict.raw()
    body.sendall(b"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
    assert read_answer(body)[0] == 408
    body.close()
    for client in slow:
        client.settimeout(10)
        try:
            while client.recv(4096):
                pass
        except ConnectionError:
            pass
        client.close()


def test_a_client_that_does_not_read_does_not_block_others(strict) -> None:
    with strict.raw() as lazy:
        lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        lazy.sendall(request_bytes(infer_body([0.5] * 100_000)))
        for _ in range(5):
            assert strict.infer()[0] == 200


def test_pipelined_requests_are_answered_in_order(strict) -> None:
    with strict.raw() as client:
        client.sendall(b"".join(request_bytes(infer_body([float(n)])) for n in range(8)))
        found = b""
        while found.count(b'"name":"y"') < 8:
            found += client.recv(65536)
        order = [part.split(b"]")[0] for part in found.split(b'"shape":[1],"data":[')[1:]]
        values = [part for part in order if b"." in part]
        assert values == [f"{float(n)}".encode() for n in range(8)]


def test_keep_alive_expect_and_head(strict) -> None:
    with strict.raw() as client:
        client.sendall(b"HEAD /v2 HTTP/1.1\r\nHost: t\r\n\r\n")
        head = client.recv(4096)
        assert b"200 OK" in head and head.endswith(b"\r\n\r\n")
        body = infer_body()
        client.sendall(
            f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(b"HTTP/1.1 100 Continue")
        client.sendall(body.encode())
        assert read_answer(client)[0] == 200
        client.sendall(b"GET /v2 HTTP/1.0\r\n\r\n")
        assert b"connection: close" in read_answer(client)[1].lower()


def test_a_log_line_cannot_be_forged(serve, tmp_path) -> None:
    access = tmp_path / "access.log"
    server = serve(access_log=str(access))
    server.ask("GET", "/v2%0a%22forged", headers={"User-Agent": 'a"b'})
    lines = until(lambda: [n for n in access.read_text().splitlines() if "forged" in n])
    assert len(lines) == 1 and "\\x0a" in lines[0] and lines[0].count('"') == 4


def test_unix_sockets_and_tls(serve, short_folder, tmp_path) -> None:
    path = f"{short_folder}/test.sock"
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2",
         "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    unix = serve(ready=False, listen=[f"unix:{path}"])

    def over_unix() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(path):
                return False
            client.sendall(request_bytes(infer_body([3.0])))
            status, _, body = read_answer(client)
            return status == 200 and output(json.loads(body), "y") == [3.0]

    until(over_unix)
    unix.stop()
    secure = serve(ready=False, tls_certificate=str(certificate), tls_key=str(key))
    trust = ssl.create_default_context(cafile=str(certificate))

    def over_tls() -> bool:
        try:
            with trust.wrap_socket(secure.raw(), server_hostname="localhost") as client:
                client.sendall(request_bytes(infer_body([4.0])))
                return read_answer(client)[0] == 200  # type: ignore[arg-type]
        except ConnectionRefusedError:
            return False

    until(over_tls)
