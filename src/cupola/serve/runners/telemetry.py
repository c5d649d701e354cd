"""What a runner reports: the spans `batch`, `execute` and `encode` of requests that are traced.

A batch has one span, which is linked to all its requests and belongs to the trace of the first of
them. The `execute` of each request is linked to it.
"""

from collections.abc import Sequence
from typing import Any

from cupola.serve.logs import Log
from cupola.serve.runners.batcher import Job
from cupola.serve.settings.settings import Settings
from cupola.serve.telemetry.exporting import Exporting, epoch_nanoseconds


class RunnerTelemetry:
    """One runner's spans. Moments are on the monotonic clock."""

    def __init__(self, settings: Settings, model: str, log: Log) -> None:
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._api, self._propagator = trace, TraceContextTextMapPropagator()
        self._exporting = Exporting(settings, "runner", log)
        self._model = model

    def batch(self, jobs: Sequence[Job], size: int, began: float, ended: float) -> None:
        """Adds a batch of `size` samples that has run."""
        traced = [(job, self._context_of(job)) for job in jobs if job.trace]
        if not traced:
            return
        api = self._api
        contexts = [api.get_current_span(context).get_span_context() for _, context in traced]
        span = self._exporting.tracer.start_span(
            "batch",
            traced[0][1],
            links=[api.Link(context) for context in contexts],
            start_time=epoch_nanoseconds(min(job.received for job, _ in traced)),
            attributes={"model": self._model, "batch.size": size, "batch.requests": len(jobs)},
        )
        span.end(epoch_nanoseconds(began))
        link = api.Link(span.get_span_context())
        for _, context in traced:
            self._add("execute", context, began, ended, [link])

    def encoded(self, job: Job, began: float, ended: float) -> None:
        """Adds the encoding of an answer."""
        if job.trace:
            self._add("encode", self._context_of(job), began, ended)

    def streamed(self, job: Job, ended: float) -> None:
        """Adds a stream that has ended."""
        if job.trace:
            self._add("execute", self._context_of(job), job.received, ended)

    def _context_of(self, job: Job) -> Any:
        return self._propagator.extract({"traceparent": job.trace})

    def _add(
        self, name: str, context: Any, began: float, ended: float, links: Sequence[Any] = ()
    ) -> None:
        span = self._exporting.tracer.start_span(
            name,
            context,
            links=list(links),
            start_time=epoch_nanoseconds(began),
            attributes={"model": self._model},
        )
        span.end(epoch_nanoseconds(ended))

    def close(self, seconds: float) -> None:
        """Exports what is left."""
        self._exporting.close(seconds)
