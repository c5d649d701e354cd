"""What a worker reports: the span of each request, with `accept` and `queue` in it, and metrics.

The runner adds `batch`, `execute` and `encode`; see runners/telemetry.py. The frame tells it the
request's context, as W3C's traceparent.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

from cupola.serve.http.messages import Request, Response
from cupola.serve.logs import Log
from cupola.serve.settings.settings import Settings
from cupola.serve.telemetry.exporting import Exporting, epoch_nanoseconds
from cupola.serve.worker.runner_connections import Model

PHASES = ("queue", "batch", "execute", "encode")


class RequestTrace:
    """The span of one request. `header` is its traceparent."""

    __slots__ = ("context", "header", "name", "sampled", "span")

    def __init__(self, name: str, span: Any, context: Any, header: str, sampled: bool) -> None:
        self.name, self.span, self.context = name, span, context
        self.header, self.sampled = header, sampled


class WorkerTelemetry:
    """One worker's spans and metrics. `models` and `connections` are asked at each export."""

    def __init__(
        self,
        settings: Settings,
        log: Log,
        models: Callable[[], Iterable[Model]],
        connections: Callable[[], int],
    ) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api, self._propagator = trace, TraceContextTextMapPropagator()
        self._exporting = Exporting(settings, "worker", log)
        self._models, self._connections = models, connections
        self._make_instruments(self._exporting.meter())

    def _make_instruments(self, meter: Any) -> None:
        self._durations = meter.create_histogram(
            "http.server.request.duration", "s", "Time from the first byte to the answer."
        )
        self._inferences = meter.create_counter(
            "cupola.inferences", "{inference}", "Inference requests by outcome."
        )
        self._phases = meter.create_histogram(
            "cupola.phase.duration", "s", "Latency by phase: queue, batch, execute, encode."
        )
        meter.create_observable_gauge(
            "cupola.queue.depth", [self._queues], "{request}", "Requests in flight or waiting."
        )
        meter.create_observable_gauge(
            "cupola.connections", [self._connection_count], "{connection}", "Open connections."
        )

    # ---- spans

    def begin(self, request: Request, name: str) -> None:
        """Starts the span of a request that has arrived, as part of the client's trace if any."""
        api, now = self._api, time.monotonic()
        parent = self._propagator.extract(request.headers)
        kind = "rpc.method" if request.grpc else "http.route"
        attributes = {
            "http.request.method": request.method, "url.path": request.path,
            kind: name.partition(" ")[2] or name, "request.id": request.id,
        }  # fmt: skip
        start = epoch_nanoseconds(request.arrived)
        span = self._exporting.tracer.start_span(
            name, parent, api.SpanKind.SERVER, attributes, start_time=start
        )
        context = api.set_span_in_context(span)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        sampled = span.get_span_context().trace_flags.sampled
        request.trace = RequestTrace(name, span, context, carrier["traceparent"], sampled)
        self._add(request.trace, "accept", request.arrived, now)

    def _add(self, trace: RequestTrace, name: str, start: float, end: float) -> None:
        if trace.sampled:
            span = self._exporting.tracer.start_span(
                name, trace.context, start_time=epoch_nanoseconds(start)
            )
            span.end(epoch_nanoseconds(end))

    def queued(self, trace: RequestTrace, start: float, end: float) -> None:
        """Adds the time from the worker's request to a runner until the runner read it."""
        self._add(trace, "queue", start, max(start, end))

    def finish(self, request: Request, response: Response) -> None:
        """Ends the span of a request."""
        trace = request.trace
        if trace is None:
            return
        request.trace = None
        span, status = trace.span, response.status
        span.set_attribute("http.response.status_code", status)
        if request.key is not None:
            span.set_attribute("enduser.id", request.key.name)
        if status >= 500 or (request.grpc and status >= 400):
            span.set_status(self._api.StatusCode.ERROR)
        span.end()
        attributes = {
            "http.request.method": request.method,
            "http.response.status_code": status,
            "http.route": trace.name.partition(" ")[2] or trace.name,
        }
        self._durations.record(time.monotonic() - request.arrived, attributes)

    # ---- metrics

    def record_end(self, model: Model, outcome: str) -> None:
        """Counts an inference."""
        attributes = {"model": model.name, "version": model.version, "outcome": outcome}
        self._inferences.add(1, attributes)

    def record_phases(self, model: Model, seconds: Iterable[float]) -> None:
        """Records the times that a runner measured."""
        for phase, duration in zip(PHASES, seconds, strict=True):
            attributes = {"model": model.name, "version": model.version, "phase": phase}
            self._phases.record(max(0.0, duration), attributes)

    def _queues(self, options: Any) -> Iterable[Any]:
        from opentelemetry.metrics import Observation

        return [
            Observation(model.held, {"model": model.name, "version": model.version})
            for model in list(self._models())
        ]

    def _connection_count(self, options: Any) -> Iterable[Any]:
        from opentelemetry.metrics import Observation

        return [Observation(self._connections())]

    def close(self, seconds: float) -> None:
        """Exports what is left."""
        self._exporting.close(seconds)
