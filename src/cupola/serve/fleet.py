"""All models as one worker sees them: the roster from the mould, and calls to the runners."""

import asyncio
import math
import time
from collections.abc import AsyncGenerator
from contextlib import suppress
from itertools import count
from typing import Any

from cupola.errors import did_you_mean
from cupola.serve import wire
from cupola.serve.cycle import Cycle
from cupola.serve.http import Refusal
from cupola.serve.links import RETRY, Call, Link, Model
from cupola.serve.quarantine import set_aside

Answer = tuple[dict[str, Any], wire.Body]


class Fleet:
    """Models by name and version; `complete` once every model of the roster is ready."""

    def __init__(self, cycle: Cycle) -> None:
        self.cycle, self.settings = cycle, cycle.settings
        self.models: dict[str, dict[str, Model]] = {}
        self.links: dict[str, Link] = {}
        self.complete = asyncio.Event()
        self.roster_complete = False
        self.mould_alive = False
        self._mould: asyncio.StreamWriter | None = None
        self._orders: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = count()
        self._task = asyncio.get_running_loop().create_task(self._follow_mould())

    # ---- the roster

    async def _follow_mould(self) -> None:
        """Reads the roster for ever; when the mould is gone, waits for the next one."""
        path = self.cycle.home / "mould.sock"
        while True:
            try:
                reader, writer = await asyncio.open_unix_connection(str(path))
            except OSError:
                await asyncio.sleep(RETRY)
                continue
            self._mould, self.mould_alive = writer, True
            unpacker = wire.Unpacker()
            with suppress(OSError):
                while data := await reader.read(1024 * 1024):
                    for header, _ in unpacker.feed(data):
                        self._hear(header)
            self._mould, self.mould_alive = None, False
            writer.close()
            for order in self._orders.values():
                if not order.done():
                    order.set_result("the mould died")

    def _hear(self, header: dict[str, Any]) -> None:
        if header["op"] == "roster":
            self._take_roster(header)
        elif (order := self._orders.get(header["id"])) and not order.done():
            order.set_result(header.get("error"))

    def _take_roster(self, roster: dict[str, Any]) -> None:
        named = set()
        for runner in roster["runners"]:
            versions = self.models.setdefault(runner["name"], {})
            model = versions.setdefault(
                runner["version"], Model(runner["name"], runner["version"], runner)
            )
            if runner.get("inputs"):
                model.about = runner
            named.add(runner["socket"])
            if runner["socket"] not in self.links:
                link = Link(runner["socket"], model, self._check, self._killed)
                self.links[runner["socket"]] = link
                model.links.append(link)
        self.roster_complete = roster["complete"]
        if self.roster_complete:
            for path in set(self.links) - named:
                self._retire(path)
        self._check()

    def _retire(self, path: str) -> None:
        link = self.links.pop(path)
        link.model.links.remove(link)
        link.retire()
        model = link.model
        if not model.links:
            self.models[model.name].pop(model.version)
            if not self.models[model.name]:
                del self.models[model.name]

    def _check(self) -> None:
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
            return versions[max(versions, key=version_key)]
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

    # ---- calls

    def submit(
        self, model: Model, call_id: str, header: dict[str, Any], body: wire.Body,
        timeout: float, *, stream: bool = False,
    ) -> Call:  # fmt: skip
        """Sends a request to a runner; Refusal 429 when too many wait, 503 when none will come."""
        self._admit(model)
        deadline = time.monotonic() + timeout
        full = {"op": "stream" if stream else "infer", "id": call_id, "deadline": deadline}
        call = Call(
            call_id, full | header, body, deadline, asyncio.get_running_loop().create_future(),
            asyncio.Queue() if stream else None,
        )  # fmt: skip
        model.held += 1
        model.place(call)
        return call

    def _admit(self, model: Model) -> None:
        limit = math.ceil(model.about["queue_limit"] / max(1, self.cycle.workers))
        if model.held >= limit:
            runners = max(1, len(model.ready_links))
            wait = max(1, math.ceil(model.held * model.seconds / runners))
            raise Refusal(
                429, f"{model.name}: {model.held} requests wait", [("Retry-After", str(wait))]
            )
        if model.about.get("state") == "failed" and not model.ready_links:
            raise Refusal(503, f"{model.name}: its runner cannot start")

    async def call(
        self, model: Model, call_id: str, header: dict[str, Any], body: wire.Body, timeout: float
    ) -> Answer:
        """One request, one answer. Refusal 504 at the deadline; cancelled with our caller."""
        call = self.submit(model, call_id, header, body, timeout)
        timer = asyncio.get_running_loop().call_later(timeout, _expire, call, model, timeout)
        try:
            answer = await call.answer
        finally:
            timer.cancel()  # a timer costs less than wait_for, which makes a task's worth of work
            self.finish(model, call)
        model.seconds += 0.1 * (time.monotonic() - call.sent - model.seconds)
        answer[0]["waited"] = answer[0].get("received", call.sent) - call.sent
        return answer

    async def stream(
        self, model: Model, call_id: str, header: dict[str, Any], body: wire.Body, timeout: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Chunk after chunk; a Refusal if the runner refuses or the deadline passes."""
        call = self.submit(model, call_id, header, body, timeout, stream=True)
        assert call.chunks is not None
        try:
            while True:
                left = call.deadline - time.monotonic()
                try:
                    frame = await asyncio.wait_for(call.chunks.get(), max(0.0, left))
                except TimeoutError:
                    raise Refusal(504, f"{model.name}: cut after {timeout:g} s") from None
                if frame["op"] == "answer":
                    raise Refusal(frame["status"], frame["error"])
                yield frame
                if frame["final"]:
                    return
        finally:
            self.finish(model, call)

    def finish(self, model: Model, call: Call) -> None:
        """The call has ended, one way or another; a runner that works on it is told."""
        model.held -= 1
        if call.link is not None:
            call.link.cancel(call)
        with suppress(ValueError):
            model.waiting.remove(call)
        call.answer.cancel()

    def _killed(self, call: Call) -> None:
        """A request that was in the batch of two runners that died."""
        set_aside(self.settings.quarantine or self.cycle.home.parent / "quarantine", call)
        self.cycle.log("error", f"request {call.id} killed {call.deaths} runners: refused")
        text = "this request ended two processes that worked on it; it will not be tried again"
        header = {"op": "answer", "id": call.id, "status": 500, "error": text}
        if call.chunks is not None:
            call.chunks.put_nowait(header)
        if not call.answer.done():
            call.answer.set_result((header, b""))

    # ---- orders to the mould

    async def order(self, op: str, **details: Any) -> None:
        """load or unload; Refusal 400 with the mould's reason if it fails."""
        if self._mould is None:
            raise Refusal(503, "the mould is being started again")
        number = next(self._numbers)
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._orders[number] = done
        self._mould.writelines(
            bytes(piece) for piece in wire.pack({"op": op, "id": number, **details})
        )
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
        """The worker goes: lets the runners and the mould know by closing."""
        self._task.cancel()
        for link in self.links.values():
            link.close()
        if self._mould is not None:
            self._mould.close()


def _expire(call: Call, model: Model, timeout: float) -> None:
    if not call.answer.done():
        call.answer.set_exception(Refusal(504, f"{model.name}: no answer within {timeout:g} s"))


def version_key(version: str) -> tuple[tuple[int, int | str], ...]:
    """Orders "2" < "10" < "10.1"; numbers before words."""
    parts = version.replace("-", ".").split(".")
    return tuple((1, int(part)) if part.isdigit() else (0, part) for part in parts)
