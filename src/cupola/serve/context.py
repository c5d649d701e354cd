"""What every handler needs: settings, models, cache, metrics, and one way to ask a runner."""

import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cupola.serve import wire
from cupola.serve.cache import Cache
from cupola.serve.cycle import Cycle
from cupola.serve.fleet import Answer, Fleet
from cupola.serve.http import Refusal, Request, Server
from cupola.serve.links import Model
from cupola.serve.metrics import Metrics
from cupola.serve.settings import Settings


@dataclass
class Context:
    """One for each worker."""

    cycle: Cycle
    fleet: Fleet
    server: Server
    metrics: Metrics
    cache: Cache | None

    @property
    def settings(self) -> Settings:
        return self.cycle.settings

    def require_admin(self, request: Request) -> None:
        """Refusal 403 unless the admin endpoints are open here."""
        here = self.settings.admin == "on" or (
            self.settings.admin.startswith("unix:") and request.peer == self.settings.admin
        )
        if not here:
            raise Refusal(403, "the admin endpoints are off; see the setting `admin`")

    def timeout_of(self, request: Request) -> float:
        """The client's X-Request-Timeout in seconds, at most what the settings allow."""
        text = request.headers.get("x-request-timeout")
        if text is None:
            return self.settings.request_timeout
        try:
            wanted = float(text)
        except ValueError:
            wanted = -1.0
        if not wanted > 0:
            raise Refusal(400, f"X-Request-Timeout: expected seconds, got {text!r}")
        return min(wanted, self.settings.request_timeout)

    def spooled(self, request: Request, path: str) -> None:
        """A second file in the spool that goes when the request does."""
        if request.spooled is not None:
            request.spooled.unlink(missing_ok=True)
        request.spooled = Path(path)

    async def ask(
        self, model: Model, request: Request, header: dict[str, Any], body: wire.Body,
        timeout: float,
    ) -> Answer:  # fmt: skip
        """An answer from the cache or a runner, counted."""
        if self.cache is not None and model.about["cache"] and model.about.get("deterministic"):
            return await self.cache.through(
                model, header, body, lambda: self._ask_runner(model, request, header, body, timeout)
            )
        return await self._ask_runner(model, request, header, body, timeout)

    async def _ask_runner(
        self, model: Model, request: Request, header: dict[str, Any], body: wire.Body,
        timeout: float,
    ) -> Answer:  # fmt: skip
        counts = self.metrics.of(model.name, model.version)
        counts.queue.set(model.held + 1)
        try:
            answer, content = await self.fleet.call(
                model, self.server.next_id(), header, body, timeout
            )
        except Refusal as refusal:
            counts.bad(str(refusal.status))
            raise
        except BaseException:
            counts.bad("cancelled")
            raise
        finally:
            counts.queue.set(model.held)
        # Counting waits until the answer is on its way.
        self.server.loop.call_soon(self._count, model, answer, time.monotonic() - request.arrived)
        return answer, content

    def _count(self, model: Model, answer: dict[str, Any], seconds: float) -> None:
        counts, kept = self.metrics.of(model.name, model.version), model.statistics
        if answer["status"] != 200:
            counts.bad(str(answer["status"]))
            kept["fail"] = kept.get("fail", 0) + 1
            return
        counts.answered(answer, seconds)
        for phase, value in zip(
            ("queue", "batch", "run", "encode"), (answer["waited"], *answer["times"]), strict=True
        ):
            kept[phase] = kept.get(phase, 0.0) + max(0.0, value)
        kept["success"] = kept.get("success", 0) + 1
        kept["samples"] = kept.get("samples", 0) + answer["samples"]
        kept["total"] = kept.get("total", 0.0) + seconds
        kept["last"] = time.time()

    async def stream(
        self, model: Model, request: Request, header: dict[str, Any], body: wire.Body,
        timeout: float,
    ) -> AsyncGenerator[dict[str, Any], None]:  # fmt: skip
        """The frames of a streamed answer, counted."""
        counts = self.metrics.of(model.name, model.version)
        counts.queue.set(model.held + 1)
        outcome = "cancelled"
        try:
            async for frame in self.fleet.stream(
                model, self.server.next_id(), header, body, timeout
            ):
                if frame["final"]:
                    outcome = "ok"
                yield frame
        except Refusal as refusal:
            outcome = str(refusal.status)
            raise
        finally:
            counts.bad(outcome)
            counts.queue.set(model.held)
