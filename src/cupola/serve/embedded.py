"""A server inside another program: its application and its models, without sockets or signals.

The models run in threads of this process, as with `master_process: off`. Whoever embeds it, such
as a replica of Ray Serve, accepts the requests and restarts the process when it dies.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any
from urllib.parse import unquote

from cupola.cores import limit_spinning
from cupola.serve.generation import Generation, build_generation
from cupola.serve.http.messages import Request, Response
from cupola.serve.http.server import Work
from cupola.serve.ipc import paths
from cupola.serve.routes import ROUTER
from cupola.serve.settings.settings import Settings
from cupola.serve.worker.app import Application
from cupola.serve.worker.metrics import Metrics
from cupola.serve.worker.model_directory import ModelDirectory

PIECES = 16  # of a streamed response that may wait for the client
_numbers = iter(range(1, 2**31))  # of the servers of this process


class EmbeddedServer:
    """Answers requests with the models of `settings`; made by `start`."""

    def __init__(self, generation: Generation, runners: Any, directory: ModelDirectory) -> None:
        self.generation, self._runners, self._directory = generation, runners, directory
        self.app = Application(generation, directory, Metrics(generation.metrics, 0), ROUTER)

    @classmethod
    async def start(cls, settings: Settings) -> "EmbeddedServer":
        """Loads the models. Raises CupolaError or OSError, and TimeoutError after ready_timeout.

        The settings of addresses, processes and users have no effect.
        """
        limit_spinning()
        from cupola.serve.runners.threads import ThreadedRunners  # imports torch

        closed = {"listen": [], "operations_listen": [], "grpc_listen": [], "admin": "off"}
        own = settings.model_copy(update=closed)
        number = next(_numbers)
        root = paths.runtime_root(settings.runtime_dir)
        home = root / str(os.getpid()) if number > 1 else paths.make_home(root, os.getpid())
        generation = await asyncio.to_thread(build_generation, number, own, [], home, 1)
        directory = runners = None
        try:
            runners = await asyncio.to_thread(ThreadedRunners, generation)
            directory = ModelDirectory(generation)
            await asyncio.wait_for(directory.complete.wait(), own.ready_timeout)
            return cls(generation, runners, directory)
        except BaseException:
            if directory is not None:
                directory.close()
            if runners is not None:
                runners.stop()
            generation.discard([])
            raise

    @property
    def ready(self) -> bool:
        """Whether each model has a runner whose loop is running."""
        return self._directory.ready

    @property
    def models(self) -> list[str]:
        """The names of the models."""
        return list(self._directory.models)

    def request(
        self, method: str, path: str, query: str, headers: dict[str, str], body: bytes, peer: str
    ) -> Request:
        """A request as the handlers take it. `path` as it was sent; header names in lower case."""
        return Request(
            method, unquote(path), query, headers, self.app.next_id(), time.monotonic(), peer,
            body, raw_path=path, operations=True,
        )  # fmt: skip

    async def answer(self, request: Request) -> Response:
        """The response. If the caller is cancelled, so is the work on it."""
        reply: asyncio.Future[Response] = asyncio.get_running_loop().create_future()

        def deliver(request: Request, response: Response) -> None:
            if not reply.done():
                reply.set_result(response)

        work: Work | None = self.app.answer(request, deliver)
        try:
            response = await reply
        except asyncio.CancelledError:
            if work is not None:
                work.cancel()
            raise
        finally:
            request.release()
        self.app.finished(request, response, len(response.body))
        return response

    def close(self) -> None:
        """Stops the models after their current batches."""
        self._directory.close()
        self._runners.stop()
        self.generation.discard([])


class _Pieces:
    """The writer of a streamed response; it waits while many pieces wait to be read."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue(PIECES)

    async def write(self, data: bytes) -> None:
        if data:
            await self.queue.put(data)


async def pieces_of(response: Response) -> AsyncGenerator[bytes, None]:
    """The body of a response with a `stream`, as it is written; its exceptions are raised."""
    assert response.stream is not None
    pieces = _Pieces()
    writer = asyncio.ensure_future(response.stream(pieces))
    next_piece = asyncio.ensure_future(pieces.queue.get())
    try:
        while True:
            await asyncio.wait({writer, next_piece}, return_when=asyncio.FIRST_COMPLETED)
            if next_piece.done():
                yield next_piece.result()
                next_piece = asyncio.ensure_future(pieces.queue.get())
            elif pieces.queue.empty():
                break
        await writer
    finally:
        next_piece.cancel()
        writer.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await writer
