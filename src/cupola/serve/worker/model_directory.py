"""All models as one worker sees them: the roster from the zygote, and requests to the zygote."""

import asyncio
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import quote

from cupola.errors import did_you_mean
from cupola.serve.generation import Generation
from cupola.serve.http.messages import HTTPError
from cupola.serve.ipc import frames
from cupola.serve.ipc.in_flight import InFlightCounter
from cupola.serve.worker.dispatcher import Dispatcher
from cupola.serve.worker.runner_connections import RETRY, Model, RunnerConnection


class ModelDirectory:
    """Models by name and version. `complete` is set once all models of the roster are ready."""

    def __init__(self, generation: Generation, slot: int = 0) -> None:
        self.generation, self.settings, self.slot = generation, generation.settings, slot
        self.models: dict[str, dict[str, Model]] = {}
        self.dispatcher = Dispatcher(generation)
        self.connections: dict[str, RunnerConnection] = {}
        self.complete = asyncio.Event()
        self.roster_complete = False
        self._zygote: asyncio.StreamWriter | None = None
        self._requests: dict[int, asyncio.Future[str | None]] = {}
        self._request_ids = count()
        self._task = asyncio.get_running_loop().create_task(self._follow_zygote())

    # ---- the roster

    async def _follow_zygote(self) -> None:
        """Reads from the zygote for ever; when it exits, waits for the next one."""
        path = self.generation.home / "zygote.sock"
        while True:
            try:
                reader, self._zygote = await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(RETRY)
                continue
            unpacker = frames.Unpacker()
            with suppress(OSError):
                while data := await reader.read(1024 * 1024):
                    for frame in unpacker.feed(data):
                        self._on_frame(frame.extra)
            self._zygote.close()
            self._zygote = None
            for request in self._requests.values():
                if not request.done():
                    request.set_result("the zygote died")

    def _on_frame(self, details: dict[str, Any]) -> None:
        if details["op"] == "roster":
            self._on_roster(details)
        elif (request := self._requests.get(details["id"])) and not request.done():
            request.set_result(details.get("error"))

    def _on_roster(self, roster: dict[str, Any]) -> None:
        listed = set()
        for runner in roster["runners"]:
            model = self._model(runner)
            if runner.get("inputs"):
                model.description = runner
            path = runner["socket"]
            listed.add(path)
            if path not in self.connections:
                connection = RunnerConnection(path, model, self.dispatcher, self.check)
                self.connections[path] = connection
                model.connections.append(connection)
        self.roster_complete = roster["complete"]
        if self.roster_complete:
            for path in set(self.connections) - listed:
                self._retire(path)
        self.check()

    def _model(self, runner: dict[str, Any]) -> Model:
        name, version = runner["name"], runner["version"]
        versions = self.models.setdefault(name, {})
        if version not in versions:
            page = f"in-flight-{quote(name, safe='')}@{quote(version, safe='')}"
            counter = InFlightCounter(self.generation.home / page, self.slot)
            versions[version] = Model(name, version, runner, counter)
        return versions[version]

    def _retire(self, path: str) -> None:
        connection = self.connections.pop(path)
        model = connection.model
        model.connections.remove(connection)
        connection.retire()
        if not model.connections:
            self.models[model.name].pop(model.version)
            if not self.models[model.name]:
                del self.models[model.name]

    def check(self) -> None:
        """Sets `complete` if every runner of the roster is ready."""
        if self.roster_complete and all(one.ready for one in self.connections.values()):
            self.complete.set()

    # ---- lookup

    def find(self, name: str, version: str | None = None) -> Model:
        """A model, the newest version by default; HTTPError 404 if it is unknown."""
        versions = self.models.get(name)
        if not versions and not self.roster_complete:
            raise HTTPError(503, "the models are being loaded", [("Retry-After", "1")])
        if not versions:
            raise HTTPError(404, f"unknown model {name!r}{did_you_mean(name, self.models)}")
        if version is None:
            newest = max(versions, key=version_key) if len(versions) > 1 else next(iter(versions))
            return versions[newest]
        if version not in versions:
            raise HTTPError(
                404, f"model {name!r} has no version {version!r}, only {list(versions)}"
            )
        return versions[version]

    def all(self) -> list[Model]:
        """All versions of all models."""
        return [model for versions in self.models.values() for model in versions.values()]

    def is_ready(self, model: Model) -> bool:
        """Whether a runner of the model is connected and its loop is running."""
        limit = self.settings.hang_limit
        boards = [one.scoreboard for one in model.ready_connections]
        return any(board is not None and board.idle_for < limit for board in boards)

    @property
    def ready(self) -> bool:
        """Whether there are models and all of them are ready."""
        models = self.all()
        return self.roster_complete and bool(models) and all(map(self.is_ready, models))

    # ---- requests to the zygote

    async def request(self, op: str, **details: Any) -> None:
        """Sends `load` or `unload` to the zygote; HTTPError 400 with its reason on failure."""
        if self._zygote is None:
            raise HTTPError(503, "the zygote is restarting")
        number = next(self._request_ids)
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._requests[number] = done
        self._zygote.writelines(frames.pack(frames.control(op, id=number, **details)))
        try:
            error = await asyncio.wait_for(done, self.settings.ready_timeout)
        except TimeoutError:
            error = f"not done within {self.settings.ready_timeout:g} s"
        finally:
            del self._requests[number]
        if error:
            raise HTTPError(400, error)

    async def settled(self) -> None:
        """Waits until this worker is connected to every runner of the roster."""
        while not all(one.ready for one in self.connections.values()):
            await asyncio.sleep(RETRY)

    def close(self) -> None:
        """Disconnects from the runners and the zygote."""
        self._task.cancel()
        for connection in self.connections.values():
            connection.close()
        if self._zygote is not None:
            self._zygote.close()


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Sorts "2" < "10" < "10.1", and words before numbers."""
    parts = version.replace("-", ".").split(".")
    return tuple((1, int(part)) if part.isdecimal() else (0, part) for part in parts)
