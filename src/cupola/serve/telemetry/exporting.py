"""The tracer and the meter of one process, which export over HTTP from threads of their own."""

import logging
import os
import socket
import threading
import time
from typing import Any

import cupola
from cupola.serve.logs import Log
from cupola.serve.settings.settings import Settings

EXPORT_TIMEOUT = 5.0  # seconds for one export
LAST_EXPORT = 2.0  # seconds for what is left when a process ends
SPAN_DELAY = 1.0  # seconds until a span is exported
CLOCK_GAP = 50_000  # nanoseconds between two readings of clocks that count as one moment


def preload() -> None:
    """Imports the library, which starts no thread: for processes that fork others."""
    import opentelemetry.exporter.otlp.proto.http.metric_exporter
    import opentelemetry.exporter.otlp.proto.http.trace_exporter
    import opentelemetry.sdk.metrics
    import opentelemetry.sdk.trace  # noqa: F401


def epoch_nanoseconds(moment: float) -> int:
    """A moment of the monotonic clock as nanoseconds since 1970."""
    for _ in range(5):  # the process may be interrupted between reading the two clocks
        before, now, after = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after - before < CLOCK_GAP:
            break
    return now - (before + after) // 2 + int(moment * 1e9)


class Exporting:
    """The SDK in one process. Make it after the fork: its threads do not survive one.

    Spans wait in a queue of limited size and are dropped when it is full, so that a request never
    waits for the collector.
    """

    def __init__(self, settings: Settings, role: str, log: Log) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

        assert settings.otel_endpoint is not None
        _log_to(log)
        self._settings = settings
        self._endpoint = settings.otel_endpoint.rstrip("/")
        self._resource = _resource(role)
        self._traces = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(settings.otel_sampling)),
            resource=self._resource,
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(f"{self._endpoint}/v1/traces", timeout=EXPORT_TIMEOUT)
        self._traces.add_span_processor(
            BatchSpanProcessor(exporter, schedule_delay_millis=1000 * SPAN_DELAY)
        )
        self.tracer = self._traces.get_tracer("cupola", cupola.__version__)
        self._meters: Any = None

    def meter(self) -> Any:
        """The meter of this process."""
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader

        exporter = OTLPMetricExporter(f"{self._endpoint}/v1/metrics", timeout=EXPORT_TIMEOUT)
        reader = PeriodicExportingMetricReader(exporter, 1000 * self._settings.otel_interval)
        self._meters = MeterProvider([reader], resource=self._resource, shutdown_on_exit=False)
        return self._meters.get_meter("cupola", cupola.__version__)

    def close(self, seconds: float) -> None:
        """Exports what is left, for at most `seconds`: the collector may not answer."""
        providers = filter(None, (self._traces, self._meters))
        threads = [threading.Thread(target=one.shutdown, daemon=True) for one in providers]
        for thread in threads:
            thread.start()
        end = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))


def _resource(role: str) -> Any:
    from opentelemetry.sdk.resources import Resource

    attributes: dict[str, Any] = {
        "service.name": os.environ.get("OTEL_SERVICE_NAME") or "cupola",
        "service.version": cupola.__version__,
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        "process.pid": os.getpid(),
        "cupola.role": role,
    }
    return Resource.create(attributes)


class _ToErrorLog(logging.Handler):
    """Writes what the library reports to the server's error log."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log("warning", f"opentelemetry: {record.getMessage()}")


def _log_to(log: Log) -> None:
    logger = logging.getLogger("opentelemetry")
    logger.propagate = False
    logger.handlers = [_ToErrorLog(log)]
    # It warns about each header of a client that is malformed.
    logging.getLogger("opentelemetry.trace").setLevel(logging.ERROR)
