"""A server without sockets, inside another program."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_harness import infer_body, output, write_bundle

from cupola.errors import BundleError
from cupola.runtime.tasks import task
from cupola.serve.embedded import PIECES, EmbeddedServer, pieces_of
from cupola.serve.http.messages import Response
from cupola.serve.settings.file import load_settings


def settings(folder: Path, **more: Any) -> Any:
    bundles = [write_bundle(folder, "echo"), write_bundle(folder, "speaker", task="language")]
    values = {
        "models": [str(bundle) for bundle in bundles], "plugins": ["serve_plugin"],
        "runtime_dir": str(folder / "run"), **more,
    }  # fmt: skip
    return load_settings(None, values, {})


@pytest.fixture(scope="module", autouse=True)
def own_tasks() -> Iterator[None]:
    """The plug-in's tasks, which replace Cupola's, are gone after these tests."""
    before = dict(task._tasks)
    yield
    task._tasks.clear()
    task._tasks.update(before)


@pytest.fixture
async def server(short_folder: str) -> AsyncIterator[EmbeddedServer]:
    found = await EmbeddedServer.start(settings(Path(short_folder)))
    yield found
    found.close()


async def ask(server: EmbeddedServer, method: str, path: str, body: str = "") -> Response:
    return await server.answer(server.request(method, path, "", {}, body.encode(), "10.0.0.1"))


async def test_it_answers_and_batches(server: EmbeddedServer) -> None:
    assert server.ready and server.models == ["echo", "speaker"]
    assert (await ask(server, "GET", "/v2/health/ready")).status == 200
    bodies = [infer_body([n, n], do="sleep", s=0.05) for n in range(9)]
    answers = await asyncio.gather(
        *(ask(server, "POST", "/v2/models/echo/infer", body) for body in bodies)
    )
    found = [json.loads(answer.body) for answer in answers]
    assert [output(each, "y") for each in found] == [[n, n] for n in range(9)]
    assert max(output(each, "batch")[0] for each in found) > 1
    assert (await ask(server, "GET", "/v2/models/ech")).status == 404
    assert (await ask(server, "POST", "/v2/models/echo/infer", "{")).status == 400
    assert b"cupola_inferences_total" in (await ask(server, "GET", "/metrics")).body


async def test_a_stream(server: EmbeddedServer) -> None:
    body = json.dumps({"model": "speaker", "prompt": "a", "max_tokens": 40, "stream": True})
    response = await ask(server, "POST", "/v1/completions", body)
    assert response.status == 200 and response.body == b""
    pieces = [piece async for piece in pieces_of(response)]
    assert len(pieces) > 20 and pieces[-1].endswith(b"data: [DONE]\n\n")


async def test_a_caller_that_leaves_cancels_the_work(server: EmbeddedServer) -> None:
    (model,) = server._directory.models["echo"].values()
    body = infer_body([1], do="sleep", s=0.2)
    tasks = [asyncio.create_task(ask(server, "POST", "/v2/models/echo/infer", body))]
    await asyncio.sleep(0.05)
    assert model.held == 1
    tasks[0].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[0]
    assert model.held == 0


async def test_a_reader_that_leaves_ends_the_stream() -> None:
    written = []

    async def endless(stream: Any) -> None:
        try:
            while True:
                await stream.write(b"x")
                written.append(1)
        finally:
            written.append("ended")

    pieces = pieces_of(Response(stream=endless))
    assert await anext(pieces) == b"x"
    await asyncio.sleep(0.01)
    assert len(written) <= PIECES + 2  # it waits for the reader
    await pieces.aclose()
    assert written[-1] == "ended"


async def test_a_stream_that_fails() -> None:
    async def fail(stream: Any) -> None:
        await stream.write(b"x")
        raise ValueError("broken")

    pieces = pieces_of(Response(stream=fail))
    assert await anext(pieces) == b"x"
    with pytest.raises(ValueError, match="broken"):
        await anext(pieces)


async def test_two_in_one_process_and_a_model_that_is_missing(short_folder: str) -> None:
    first = await EmbeddedServer.start(settings(Path(short_folder)))
    second = await EmbeddedServer.start(settings(Path(short_folder)))
    first.close()
    assert (await ask(second, "POST", "/v2/models/echo/infer", infer_body([1]))).status == 200
    second.close()
    write_bundle(Path(short_folder), "broken", start="missing")
    with pytest.raises(BundleError, match="is missing"):
        await EmbeddedServer.start(settings(Path(short_folder), models=[f"{short_folder}/broken"]))
