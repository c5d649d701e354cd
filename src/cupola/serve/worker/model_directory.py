"""All models as one worker sees them: the roster from the zygote, and orders to the zygote."""

import asyncio
from contextlib import suppress
from itertools import count
from typing import Any
from urllib.parse import quote

from cupola.errors import did_you_mean
from cupola.serve.http.messages import Refusal
from cupola.serve.ipc import frames as wire
from cupola.serve.ipc.in_flight import Places
from cupola.serve.master.generation import Cycle
from cupola.serve.worker.dispatcher import Calls
from cupola.serve.worker.runner_connections import RETRY, Link, Model


class Fleet:
    """Models by name and version; `complete` once every model of the roster is ready."""

    def __init__(self, cycle: Cycle, slot: int = 0) -> None:
        self.cycle, self.settings, self.slot = cycle, cycle.settings, slot
        self.models: dict[str, dict[str, Model]] = {}
        self.calls = Calls(cycle)
        self.links: dict[str, Link] = {}
        self.complete = asyncio.Event()
        self.roster_complete = False
        self.zygote_alive = False
        self._zygote: asyncio.StreamWriter | None = None
        self._orders: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = count()
        self._task = asyncio.get_running_loop().create_task(self._follow_zygote())

    # ---- the roster

    async def _follow_zygote(self) -> None:
        """Reads the roster for ever; when the zygote is gone, waits for the next one."""
        path = self.cycle.home / "zygote.sock"
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(RETRY)
                continue
            self._zygote, self.zygote_alive = writer, True
            unpacker = wire.Unpacker()
            with suppress(OSError):
                while data := await reader.read(1024 * 1024):
                    for frame in unpacker.feed(data):
                        self._hear(frame.extra)
            self._zygote, self.zygote_alive = None, False
            writer.close()
            for order in self._orders.values():
                if not order.done():
                    order.set_result("the zygote died")

    def _hear(self, said: dict[str, Any]) -> None:
        if said["op"] == "roster":
            self._take_roster(said)
        elif (order := self._orders.get(said["id"])) and not order.done():
            order.set_result(said.get("error"))

    def _take_roster(self, roster: dict[str, Any]) -> None:
        named = set()
        for runner in roster["runners"]:
            model = self._model(runner)
            if runner.get("inputs"):
                model.about = runner
            named.add(runner["socket"])
            if runner["socket"] not in self.links:
                link = Link(runner["socket"], model, self.calls, self.check)
                self.links[runner["socket"]] = link
                model.links.append(link)
        self.roster_complete = roster["complete"]
        if self.roster_complete:
            for path in set(self.links) - named:
                self._retire(path)
        self.check()

    def _model(self, runner: dict[str, Any]) -> Model:
        name, version = runner["name"], runner["version"]
        versions = self.models.setdefault(name, {})
        if version not in versions:
            page = self.cycle.home / f"held-{quote(name, safe='')}-{quote(version, safe='')}"
            versions[version] = Model(name, version, runner, Places(page, self.slot))
        return versions[version]

    def _retire(self, path: str) -> None:
        link = self.links.pop(path)
        link.model.links.remove(link)
        link.retire()
        model = link.model
        if not model.links:
            self.models[model.name].pop(model.version)
            if not self.models[model.name]:
                del self.models[model.name]

    def check(self) -> None:
        """Whether every runner of the roster is ready by now."""
        if self.roster_complete and all(link.ready for link in self.links.values()):
            self.complete.set()

    # ---- what is so

    def find(self, name: str, version: str | None = None) -> Model:
        """A model; without a version the newest. Refusal 404 for an unknown one."""
        versions = self.models.get(name)
        if not versions and not self.roster_complete:
            raise Refusal(503, "the models are being loaded", [("Retry-After", "1")])
        if not versions:
            raise Refusal(404, f"unknown model {name!r}{did_you_mean(name, self.models)}")
        if version is None:
            newest = max(versions, key=version_key) if len(versions) > 1 else next(iter(versions))
            return versions[newest]
        if version not in versions:
            raise Refusal(404, f"model {name!r} has no version {version!r}, only {list(versions)}")
        return versions[version]

    def is_ready(self, model: Model) -> bool:
        """Some runner of the model answers: it is connected and its loop turns."""
        limit = self.settings.hang_timeout
        return any(link.board and link.board.silent_for < limit for link in model.ready_links)

    @property
    def ready(self) -> bool:
        """There are models, and each has a runner that answers."""
        models = [model for versions in self.models.values() for model in versions.values()]
        return self.roster_complete and bool(models) and all(map(self.is_ready, models))

    # ---- orders to the zygote

    async def order(self, op: str, **details: Any) -> None:
        """load or unload; Refusal 400 with the zygote's reason if it fails."""
        if self._zygote is None:
            raise Refusal(503, "the zygote is being started again")
        number = next(self._numbers)
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._orders[number] = done
        self._zygote.writelines(wire.pack(wire.message(op, id=number, **details)))
        try:
            error = await asyncio.wait_for(done, self.settings.ready_timeout)
        except TimeoutError:
            error = f"not done within {self.settings.ready_timeout:g} s"
        finally:
            del self._orders[number]
        if error:
            raise Refusal(400, error)

    async def settled(self) -> None:
        """Waits until every runner of the roster has said hello to this worker."""
        while not all(link.ready for link in self.links.values()):
            await asyncio.sleep(RETRY)

    def close(self) -> None:
        """The worker goes: lets the runners and the zygote know by closing."""
        self._task.cancel()
        for link in self.links.values():
            link.close()
        if self._zygote is not None:
            self._zygote.close()


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Orders "2" < "10" < "10.1"; numbers before words."""
    parts = version.replace("-", ".").split(".")
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in parts)
