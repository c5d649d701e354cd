"""API keys and limits over HTTP, OpenAI's API and gRPC, with two workers."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from grpc_calls import SERVICE, address_of, call, failure, request_of
from serve_harness import Running, free_port, infer_body, until, write_bundle
from typer.testing import CliRunner

from cupola.cli.key import app
from cupola.errors import ConfigError
from cupola.serve.access.keys import hash_of
from cupola.serve.settings.file import load_settings
from lazy import LazyModule

grpc = LazyModule("grpc")
openai = LazyModule("openai")
pytestmark = pytest.mark.processes
KEYS = {"all": "cupola-a", "echo": "cupola-e", "slow": "cupola-s", "ops": "cupola-o"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("access")
    entries: list[dict[str, Any]] = [{"name": n, "hash": hash_of(k)} for n, k in KEYS.items()]
    entries[1]["models"] = ["echo"]
    entries[2]["limits"] = {"rate": 0.01, "burst": 4, "concurrency": 2}
    entries[3]["operations"] = True
    made = [("echo", "echo"), ("speaker", "language")]
    bundles = [str(write_bundle(folder / "bundles", name, task=task)) for name, task in made]
    running = Running(
        folder, models=bundles, api_keys=entries, workers=2, admin="on",
        grpc_listen=[f"127.0.0.1:{free_port()}"], access_log=str(folder / "access.log"),
    )  # fmt: skip
    running.start()
    running.wait_ready()
    yield running
    running.stop()


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[name]}"}


def infer(server: Running, headers: dict[str, str], model: str = "echo") -> tuple[int, Any, Any]:
    status, fields, body = server.ask("POST", f"/v2/models/{model}/infer", infer_body(), headers)
    return status, fields, json.loads(body)


@pytest.mark.parametrize("name", ["Authorization", "api-key", "X-API-Key"])
def test_a_key_in_each_header(server: Running, name: str) -> None:
    value = f"bearer {KEYS['all']}" if name == "Authorization" else KEYS["all"]
    assert infer(server, {name: value})[0] == 200


@pytest.mark.parametrize("headers", [
    {}, {"Authorization": "Bearer "}, {"Authorization": "Bearer cupola-x"},
    {"Authorization": f"Basic {KEYS['all']}"}, {"X-API-Key": "\xff"},
    {"Authorization": "Bearer cupola-x", "X-API-Key": KEYS["all"]},
])  # fmt: skip
def test_without_a_valid_key(server: Running, headers: dict[str, str]) -> None:
    status, fields, body = infer(server, headers)
    assert status == 401 and fields["www-authenticate"] == "Bearer" and list(body) == ["error"]
    assert not any(key in body["error"] for key in KEYS.values())


def test_open_endpoints(server: Running) -> None:
    for path in ("/health", "/v2/health/live", "/v2/health/ready"):
        assert server.get(path)[0] == 200
    for path in (
        "/v2",
        "/v2/models/echo",
        "/metrics",
        "/status.json",
        "/v1/models",
        "/openapi.json",
    ):
        assert server.get(path)[0] == 401, path


def test_scopes(server: Running) -> None:
    assert infer(server, bearer("echo"))[0] == 200
    status, _, body = infer(server, bearer("echo"), "speaker")
    assert (status, body["error"]) == (403, "the API key 'echo' is not for model 'speaker'")
    index = server.ask("POST", "/v2/repository/index", "", bearer("echo"))[2]
    assert [entry["name"] for entry in json.loads(index)] == ["echo"]
    assert json.loads(server.ask("GET", "/v1/models", None, bearer("echo"))[2])["data"] == []


def test_operations_need_their_own_key(server: Running) -> None:
    for path in ("/metrics", "/status.json"):
        assert server.ask("GET", path, None, bearer("all"))[0] == 403
        assert server.ask("GET", path, None, bearer("ops"))[0] == 200
    assert server.ask("POST", "/admin/reload", "", bearer("all"))[0] == 403


def test_a_large_body_without_a_key_is_not_stored(server: Running) -> None:
    with server.raw() as client:
        head = "POST /v2/models/echo/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
        client.sendall(f"{head}Expect: 100-continue\r\n\r\n".encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 401")
    with server.raw() as client:
        client.sendall(f"{head}\r\n".encode() + bytes(2_000_000))
        assert client.recv(1000).startswith(b"HTTP/1.1 401")


def complete(server: Running, key: str) -> Any:
    url = f"http://127.0.0.1:{server.port}/v1"
    with openai.OpenAI(base_url=url, api_key=key, max_retries=0) as client:
        return client.completions.create(model="speaker", prompt="a", max_tokens=2)


def test_openai_clients_see_their_errors(server: Running) -> None:
    assert complete(server, KEYS["all"]).choices[0].text
    with pytest.raises(openai.AuthenticationError) as unknown:
        complete(server, "cupola-x")
    assert unknown.value.code == "invalid_api_key"
    with pytest.raises(openai.PermissionDeniedError):
        complete(server, KEYS["echo"])


def test_grpc_statuses(server: Running) -> None:
    with grpc.insecure_channel(address_of(server)) as channel:
        metadata = [("authorization", f"Bearer {KEYS['echo']}")]
        assert call(channel, request_of(), metadata=metadata).model_name == "echo"
        assert failure(channel, request_of())[0] == "UNAUTHENTICATED"
        assert failure(channel, request_of("speaker"), metadata=metadata) == (
            "PERMISSION_DENIED", "the API key 'echo' is not for model 'speaker'"
        )  # fmt: skip
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(b"") == b"\x08\x01"
        live = channel.unary_unary(SERVICE + "ServerLive")
        assert live(b"") == b"\x08\x01"


def test_a_rate_holds_over_all_workers_and_protocols(server: Running) -> None:
    """Rate 0.01 with a burst of 4: five requests, on connections of either worker."""
    answers = [infer(server, bearer("slow")) for _ in range(8)]
    assert [status for status, *_ in answers] == [200] * 5 + [429] * 3
    _, fields, body = answers[-1]
    assert int(fields["retry-after"]) > 50
    assert body["error"] == "this API key may send 0.01 requests a second"
    with grpc.insecure_channel(address_of(server)) as channel:
        metadata = [("x-api-key", KEYS["slow"])]
        assert failure(channel, request_of(), metadata=metadata)[0] == "RESOURCE_EXHAUSTED"
    with pytest.raises(openai.RateLimitError) as raised:
        complete(server, KEYS["slow"])
    assert raised.value.code == "rate_limit_exceeded"


def test_keys_are_in_no_log(server: Running) -> None:
    infer(server, bearer("all"))
    access = Path(server.settings["access_log"])
    until(lambda: " key=all" in access.read_text())
    for text in (access.read_text(), server.log()):
        assert not any(key in text for key in KEYS.values())


@pytest.mark.slow
def test_a_clients_limits(tmp_path: Path) -> None:
    limits = {"rate": 1000.0, "burst": 1000, "concurrency": 2}
    trusted = {"trusted_proxies": ["127.0.0.1"], "client_limits": limits}
    server = Running(tmp_path, workers=2, **trusted)
    server.start()
    try:
        server.wait_ready()
        statuses: list[int] = []

        def ask(address: str) -> None:
            headers = {"X-Forwarded-For": address}
            statuses.append(server.infer("echo", headers=headers, do="sleep", s=0.8)[0])

        asked = ["192.0.2.1"] * 3 + ["2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.2"]
        threads = [threading.Thread(target=ask, args=(address,)) for address in asked]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 5 + [429] * 2
        assert server.infer("echo", headers={"X-Forwarded-For": "192.0.2.1"})[0] == 200
        assert server.infer("echo")[0] == 200  # the proxy itself is not limited
    finally:
        server.stop()


@pytest.mark.slow
def test_a_key_is_replaced_under_load(tmp_path: Path) -> None:
    """The new key is sent from the moment the new generation serves, on connections of before."""
    old, new = ({"name": name, "hash": hash_of(name)} for name in ("old", "new"))
    server = Running(tmp_path, workers=2, api_keys=[old])
    server.start()
    statuses: Counter[int] = Counter()
    key, stopped = ["old"], threading.Event()

    def client() -> None:
        with closing(server.connect()) as connection:
            while not stopped.is_set():
                headers = {"Authorization": f"Bearer {key[0]}"}
                connection.request("POST", "/v2/models/echo/infer", infer_body(), headers)
                answer = connection.getresponse()
                answer.read()
                statuses[answer.status] += 1

    threads = [threading.Thread(target=client) for _ in range(6)]
    try:
        server.wait_ready()
        for thread in threads:
            thread.start()
        for keys, name in ([old, new], "new"), ([new], "new"):
            server.configure(api_keys=keys)
            server.reload()
            key[0] = name
            before = statuses[200]
            until(lambda: statuses[200] > before + 100)  # noqa: B023
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
        server.stop()
    assert set(statuses) <= {200, 503} and statuses[503] <= len(threads), statuses


def test_the_command_prints_a_key_and_its_entry(tmp_path: Path) -> None:
    for options, name in ([], "settings.yaml"), (["--toml"], "settings.toml"):
        done = CliRunner().invoke(app, ["alice", *options])
        first, _, entry = done.output.partition("\n")
        (tmp_path / name).write_text(entry)
        (made,) = load_settings(tmp_path / name, environment={}).api_keys
        assert made.name == "alice" and made.hash == hash_of(first.removeprefix("key: "))


@pytest.mark.parametrize(("keys", "text"), [
    ([{"name": "a", "hash": "cupola-secret"}], "expected `sha256:`"),
    ([{"name": "a b", "hash": hash_of("x")}], "name"),
    ([{"name": "a", "hash": hash_of("x")}] * 2, "appears twice"),
    ([{"name": "a", "hash": hash_of("x"), "model": []}], "did you mean 'models'"),
    ([{"name": "a", "hash": hash_of("x"), "limits": {"rates": 1}}], "did you mean 'rate'"),
])  # fmt: skip
def test_invalid_keys_are_refused_without_showing_them(keys: Any, text: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_settings(flags={"api_keys": keys}, environment={})
    assert text in str(raised.value) and "secret" not in str(raised.value)
