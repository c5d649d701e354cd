"""The ingress of cupola.ray, in front of replicas that fail on command."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from cupola.ray.messages import Call, Head
from lazy import LazyModule

# Loaded by the first test: importing ray takes seconds. Its own code gives these warnings.
module: Any = LazyModule("cupola.ray.ingress")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

OK = Head(200, [("X-Request-Id", "r"), ("Set-Cookie", "a"), ("Set-Cookie", "b")], body=b"{}")


class Models:
    """A handle whose calls give the next of `answers`: the items of each, of which some raise."""

    def __init__(self, *answers: list[Any]) -> None:
        self.answers, self.calls, self.used = list(answers), list[Call](), dict[str, Any]()

    def options(self, **options: Any) -> "Models":
        self.used.update(options)
        return self

    async def remote(self, call: Call) -> AsyncIterator[Any]:
        self.calls.append(call)
        for item in self.answers.pop(0):
            if isinstance(item, Exception):
                raise item
            yield item


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cupola.ray.ingress.PAUSE", 0.001)


async def ask(
    models: Models, path: str = "/v2/models/a/infer", body: bytes = b"", root: str = "",
    names: Any = (), timeout: float = 5,
) -> Response:  # fmt: skip
    """The response to a request, through an ingress of its own."""
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        return messages.pop(0)

    scope = {
        "type": "http", "method": "POST", "path": path, "raw_path": path.encode(),
        "root_path": root, "query_string": b"threshold=0", "client": ("10.0.0.1", 1),
        "headers": [(b"accept", b"a"), (b"accept", b"b"), (b"connection", b"close")],
    }  # fmt: skip
    front = module.Ingress(models, timeout, 100, names)
    return await front(Request(scope, receive))


def error_of(response: Response) -> str:
    found = json.loads(bytes(response.body))["error"]
    return str(found["message"] if isinstance(found, dict) else found)


def died() -> Exception:
    return module.ActorDiedError()


async def test_a_request_and_its_response() -> None:
    models = Models([OK])
    response = await ask(models, "/pre/v2/models/a%2Fb/infer", b"body", root="/pre")
    assert models.used == {"stream": True, "method_name": "answer"}
    assert models.calls == [
        Call("POST", "/v2/models/a%2Fb/infer", "threshold=0", {"accept": "a, b"}, b"body",
             "10.0.0.1")
    ]  # fmt: skip
    assert (response.status_code, response.body) == (200, b"{}")
    assert response.raw_headers == [
        (b"x-request-id", b"r"), (b"set-cookie", b"a"), (b"set-cookie", b"b"),
        (b"content-type", b"application/json"), (b"content-length", b"2"),
    ]  # fmt: skip


async def test_a_lost_request_is_sent_again() -> None:
    models = Models([died()], [module.ActorUnavailableError("x", None)], [died()], [OK])
    assert (await ask(models)).status_code == 200
    assert len(models.calls) == 4


async def test_a_request_that_kills_its_replicas_is_given_up() -> None:
    models = Models([died()], [died()], [died()], [OK])
    response = await ask(models)
    assert response.status_code == 500 and "lost 3 replicas" in error_of(response)


async def test_no_replica_answers_in_time() -> None:
    models = Models(*([module.ActorUnavailableError("x", None)] for _ in range(100)))
    response = await ask(models, "/v1/completions", timeout=0.01)
    assert response.status_code == 503 and response.headers["retry-after"] == "1"
    assert "no replica answered: ActorUnavailableError" in error_of(response)


async def test_too_many_requests() -> None:
    response = await ask(Models([module.BackPressureError(1, 1)]))
    assert response.status_code == 429 and response.headers["retry-after"] == "1"


async def test_a_stream_is_sent_once() -> None:
    head = Head(200, content_type="text/event-stream", streamed=True)
    models = Models([died()], [head, b"a", b"b"], [head, b"a", died()])
    response = await ask(models)
    assert isinstance(response, StreamingResponse)
    assert [piece async for piece in response.body_iterator] == [b"a", b"b"]
    response = await ask(models)
    assert isinstance(response, StreamingResponse)
    with pytest.raises(module.ActorDiedError):  # so that the client sees that it is cut
        [piece async for piece in response.body_iterator]
    assert len(models.calls) == 3


async def test_a_body_that_is_too_large() -> None:
    response = await ask(Models(), "/v1/completions", b"x" * 101)
    assert response.status_code == 413 and error_of(response) == "body over 100 bytes"


@pytest.mark.parametrize(
    ("path", "body", "name"),
    [
        ("/v2/models/a%20b/infer", b"", "a b"),
        ("/v2/models/c", b"", "c"),
        ("/v1/models/c", b"", "c"),
        ("/v1/chat/completions", b'{"model": "c"}', "c"),
    ],
)
async def test_multiplexed_requests_name_their_model(path: str, body: bytes, name: str) -> None:
    models = Models([OK])
    assert (await ask(models, path, body, names=["a b", "c"])).status_code == 200
    assert models.used["multiplexed_model_id"] == name


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/v2/models/dd/infer", b"", "unknown model 'dd'; did you mean 'ddd'?"),
        ("/v1/chat/completions", b'{"model": ["c"]}', "unknown model"),
        ("/v1/chat/completions", b"[]", "name a model"),
        ("/v1/chat/completions", b"{", "name a model"),
        ("/metrics", b"", "name a model"),
    ],
)
async def test_multiplexed_requests_of_no_model(path: str, body: bytes, said: str) -> None:
    response = await ask(Models(), path, body, names=["ddd"])
    assert response.status_code == 404 and said in error_of(response)
