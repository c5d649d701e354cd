"""The deployment of the models: each replica is a whole server without sockets.

Requests that Ray sends to a replica at the same time meet in its batcher, as those of workers do.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

from ray import serve

from cupola.errors import ConfigError
from cupola.ray.messages import Call, Head
from cupola.serve.embedded import EmbeddedServer, pieces_of
from cupola.serve.settings.model import ModelSettings
from cupola.serve.settings.models import plan_models
from cupola.serve.settings.settings import Settings


class LoadedModels:
    """A server, and the calls that it answers at the moment. Closed after the last of them."""

    def __init__(self, server: EmbeddedServer) -> None:
        self.server = server
        self._loop = asyncio.get_running_loop()
        self._active = 0
        self._retired = self._closed = False

    async def answer(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """The head of the response, then the pieces of a streamed one."""
        self._active += 1
        try:
            request = self.server.request(
                call.method, call.path, call.query, call.headers, call.body, call.peer
            )
            response = await self.server.answer(request)
            yield Head(
                response.status,
                [*response.headers, ("X-Request-Id", request.id)],
                response.content_type,
                bytes(response.body),
                response.stream is not None,
            )
            if response.stream is not None:
                async for piece in pieces_of(response):
                    yield piece
        finally:
            self._active -= 1
            self._close_if_unused()

    def __del__(self) -> None:
        """Called by Ray, in another thread, when the models are unloaded."""
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._retire)

    def _retire(self) -> None:
        self._retired = True
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if self._retired and not self._active and not self._closed:
            self._closed = True
            self.server.close()


class ModelReplica:
    """Loads all models of `settings`, and answers calls. Ray replaces a replica that dies."""

    async def __init__(self, settings: dict[str, Any]) -> None:  # type: ignore[misc]
        server = await EmbeddedServer.start(Settings.model_validate(settings))
        self.models = LoadedModels(server)

    async def answer(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """The head of the response, then the pieces of a streamed one."""
        async for item in self.models.answer(call):
            yield item

    async def check_health(self) -> None:
        """Called by Ray, which replaces the replica if this raises."""
        if not self.models.server.ready:
            raise RuntimeError("a model has no runner that answers")


class MultiplexedReplica:
    """Holds a few models at a time; a call of another one loads it. `load` is Ray's cache."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = Settings.model_validate(settings)
        self.by_name = models_by_name(self.settings)

    async def load(self, name: str) -> LoadedModels:
        """The server of one model; Ray unloads the one that was not used for longest."""
        own = self.settings.model_copy(update={"models": [self.by_name[name]], "model_dir": None})
        return LoadedModels(await EmbeddedServer.start(own))

    async def answer(self, call: Call) -> AsyncGenerator[Head | bytes, None]:
        """The head of the response, then the pieces of a streamed one."""
        models = await self.load(serve.get_multiplexed_model_id())
        async for item in models.answer(call):
            yield item


def multiplexed(most: int) -> type[MultiplexedReplica]:
    """The class of replicas that hold at most so many models."""
    load = serve.multiplexed(max_num_models_per_replica=most)(MultiplexedReplica.load)
    return type("MultiplexedModels", (MultiplexedReplica,), {"load": load})


def models_by_name(settings: Settings) -> dict[str, ModelSettings]:
    """The models of `settings` by the names that requests use. ConfigError, BundleError."""
    found: dict[str, ModelSettings] = {}
    for plan in plan_models(settings):
        if plan.name in found:
            raise ConfigError(f"models: {plan.name!r} appears twice; multiplexed models need names")
        about = {"bundle": plan.path, "name": plan.name, "version": plan.version}
        options = {key: getattr(plan, key) for key in ModelSettings.model_fields if key not in about
                   and key != "runners"}  # fmt: skip
        found[plan.name] = ModelSettings.model_validate({**options, **about})
    return found
